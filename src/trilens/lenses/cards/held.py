"""How trilens would store each matrix of a model in memory, from its files' headers or from its config.

No weight is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trilens.checkpoints.configured import configured
from trilens.checkpoints.find import Found
from trilens.checkpoints.in_memory import FLOATS, QUANTISE, native_type
from trilens.checkpoints.quantised import quantisation_of
from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.errors import UnsupportedModel, UsageError
from trilens.lenses.cards.source import CardSource
from trilens.lenses.cards.weights import width_of
from trilens.spec.model import ModelSpec

FLOAT_TYPES = {4: "F32", 2: "BF16"}
# Types of GGUF files that have kernels: a card of such a model need not load the extension to know that they stay.
KEPT = (
    *FLOATS,
    *"Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split(),
    *"IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S".split(),
)


def held_types(source: CardSource, quantise: str | None = None) -> dict[str, str]:
    """Name of each packed parameter -> its type in memory. `quantise`: "8bit", "4bit" or None.

    Raises UnsupportedModel if it is not known how the weights are stored.
    """
    return _held(source, stored_types(source), quantise)


def _held(source: CardSource, stored: Mapping[str, StoredAs], quantise: str | None) -> dict[str, str]:
    from trilens.executors.native.matrices import matrices, native_types

    if quantise not in QUANTISE:
        raise UsageError(f"quantise is {quantise!r}; expected '8bit', '4bit' or nothing")
    assert source.reading is not None
    spec, types = source.reading.spec, native_types()
    packed = matrices(spec)
    return {
        p.name: native_type(stored[p.name].type, p, QUANTISE[quantise], types, as_rows=stored[p.name].as_rows)
        for p in parameters(decoder_weights(spec))
        if p.name in packed
    }


@dataclass(frozen=True)
class StoredAs:
    """A parameter's type in the files, and whether its rows are rows there."""

    type: str
    as_rows: bool = True


def stored_types(source: CardSource) -> dict[str, StoredAs]:
    """Name of every parameter -> how the files have it."""
    assert source.reading is not None
    if source.found is not None and source.found.kind in ("gguf", "directory"):
        return _in_files(source.found, source.reading.unread)
    if source.config is None:
        raise UnsupportedModel(f"{source.title}: nothing says how its weights are stored")
    return _as_configured(source.title, source.config, source.reading.spec)


@dataclass(frozen=True)
class Growth:
    """What is not held as the files have it, as sentences ('112 matrices of INT4 are held as Q4_0, ...'), and the bytes
    of all weights in memory."""

    said: tuple[str, ...]
    bytes: int


def growth(source: CardSource, quantise: str | None = None) -> Growth | None:
    """None where every type in the files is held as it is."""
    assert source.reading is not None
    if source.config is not None and quantise is None and quantisation_of(source.config) is None:
        return None
    stored = stored_types(source)
    if all(of.type in KEPT for of in stored.values()):
        return None
    from trilens.lenses.memory.own_memory import packed_bytes

    held = _held(source, stored, quantise)
    changes = Counter((stored[name].type, own) for name, own in held.items() if own != stored[name].type not in FLOATS)
    said = tuple(
        f"{count} matrices of {kind.replace('_', ' ')} are held as {own}, {bits_of_block(own):.4g} bits a weight"
        for (kind, own), count in changes.items()
    )
    return Growth(said, packed_bytes(source.reading.spec, held)) if said else None


def bits_of_block(kind: str) -> float:
    """Bits of a weight in memory, scales included."""
    from trilens.executors.native import _native

    return 8 * int(_native.packed_bytes(kind, 1, 8, 1024)) / (8 * 1024)


def _in_files(found: Found, unread: tuple[str, ...]) -> dict[str, StoredAs]:
    from trilens.checkpoints.load import open_model

    files = open_model(found, unread)
    types = {p.name: StoredAs(files.type_of(p), files.as_rows(p)) for p in parameters(decoder_weights(files.spec))}
    files.checkpoint.close()
    return types


def _as_configured(title: str, config: Mapping[str, Any], spec: ModelSpec) -> dict[str, StoredAs]:
    width = width_of(config)
    if width is None:
        raise UnsupportedModel(f"{title}: its config names a type of weights that trilens does not know")
    every = list(parameters(decoder_weights(spec)))
    known = configured(config, spec, every, width)

    def stored(p: Parameter) -> StoredAs:
        form = None if known is None else known.form_of(p)
        if form is None:
            return StoredAs(FLOAT_TYPES[width])
        return StoredAs(form.type, not p.name.endswith(".k_up"))  # a head's keys are columns of the file's matrix

    return {p.name: stored(p) for p in every}
