"""The types that matrices have in memory on the native executor, by their types in the files. Imports no NumPy."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from trilens.checkpoints.coded_types import CODED
from trilens.decoder.weights import Parameter, decoder_weights, own_parameters, parameters, prediction_weights
from trilens.errors import UsageError
from trilens.spec.choice import without_choice

if TYPE_CHECKING:
    from trilens.checkpoints.load import ModelFiles

FLOATS = ("F32", "F16", "BF16")
FROM_VALUES = (*FLOATS, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")  # types that values can be rounded to
QUANTISE = {None: None, "8bit": "Q8_0", "4bit": "Q4_1"}  # of matrices that the file holds as floats


def native_type(
    stored: str, p: Parameter, quantise: str | None, types: dict[str, tuple[int, int]], *, as_rows: bool = True
) -> str:
    """The type in memory of a matrix stored as `stored`: the same, if it has a kernel and `quantise`, a type, is not
    given; for codes of safetensors what `CODED` says. `as_rows`: its rows are rows of the file.
    """
    columns = p.shape[-1]
    if stored in CODED and columns % 32 == 0:
        coded = CODED[stored]
        if as_rows and not stored.endswith("_SCATTERED"):
            return coded.native
        return quantise or coded.otherwise
    if stored == "F8_E4M3" and quantise != "Q4_1":
        return stored if as_rows and columns % 32 == 0 else "F16"
    if quantise is not None and (stored not in types or stored == "F8_E4M3") and columns % 32 == 0:
        return quantise
    if quantise is not None and stored in FLOATS and columns % 32 == 0 and not p.name.endswith(".router"):
        return quantise
    if stored in types and columns % types[stored][0] == 0 and (as_rows or stored in FROM_VALUES):
        return stored
    if stored.startswith("F8") or columns % 32:
        return "F16"
    return "Q8_0"


def parameters_in_memory(files: ModelFiles) -> tuple[list[Parameter], list[Parameter]]:
    """Those of the model, and of its block that predicts, where that was asked for."""
    spec = without_choice(files.spec)  # it runs as far as every position is chosen
    beside = own_parameters(prediction_weights(spec)) if files.has_prediction else []
    return list(parameters(decoder_weights(spec))), list(beside)


def packed_types(files: ModelFiles, quantise: str | None) -> dict[Parameter, str]:
    """The type that each matrix is packed in, in the executor's order."""
    from trilens.executors.native.matrices import matrices, native_types

    if quantise not in QUANTISE:
        raise UsageError(f"quantise is {quantise!r}; expected '8bit', '4bit' or nothing")
    packed, types = matrices(without_choice(files.spec)), native_types()
    return {
        p: native_type(files.type_of(p), p, QUANTISE[quantise], types, as_rows=files.as_rows(p))
        for p in chain(*parameters_in_memory(files))
        if p.name in packed
    }
