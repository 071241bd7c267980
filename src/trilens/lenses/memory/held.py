"""How trilens would store each matrix of a model in memory, from its files' headers or from its config.

No weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trilens.checkpoints.find import Found
from trilens.checkpoints.into_native import QUANTISE, native_type
from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.errors import UnsupportedModel, UsageError
from trilens.lenses.cards.source import CardSource
from trilens.lenses.cards.weights import is_inner, quantised_by, width_of
from trilens.spec.model import ModelSpec

FLOAT_TYPES = {4: "F32", 2: "BF16"}


def held_types(source: CardSource, quantise: str | None = None) -> dict[str, str]:
    """Name of each packed parameter -> its type in memory. `quantise`: "8bit", "4bit" or None.

    Raises UnsupportedModel if it is not known how the weights are stored.
    """
    from trilens.executors.native.executor import matrices, native_types

    if quantise not in QUANTISE:
        raise UsageError(f"quantise is {quantise!r}; expected '8bit', '4bit' or nothing")
    assert source.reading is not None
    spec, types = source.reading.spec, native_types()
    stored = stored_types(source)
    packed = matrices(spec)
    return {
        p.name: native_type(stored[p.name], p, QUANTISE[quantise], types)
        for p in parameters(decoder_weights(spec))
        if p.name in packed
    }


def stored_types(source: CardSource) -> dict[str, str]:
    """Name of every parameter -> its type in the files."""
    assert source.reading is not None
    if source.found is not None and source.found.kind in ("gguf", "directory"):
        return _in_files(source.found, source.reading.unread)
    if source.config is None:
        raise UnsupportedModel(f"{source.title}: nothing says how its weights are stored")
    return _as_configured(source.title, source.config, source.reading.spec)


def _in_files(found: Found, unread: tuple[str, ...]) -> dict[str, str]:
    from trilens.checkpoints.load import open_model

    files = open_model(found, unread)
    types = {p.name: files.type_of(p) for p in parameters(decoder_weights(files.spec))}
    files.checkpoint.close()
    return types


def _as_configured(title: str, config: Mapping[str, Any], spec: ModelSpec) -> dict[str, str]:
    width = width_of(config)
    if width is None:
        raise UnsupportedModel(f"{title}: its config names a type of weights that trilens does not know")
    method = quantised_by(config)

    def type_of(p: Parameter) -> str:
        if method == "fp8" and is_inner(p):
            return "F8"
        if method == "mxfp4" and ".experts." in p.name and len(p.shape) == 3:
            return "MXFP4"
        return FLOAT_TYPES[width]

    if method not in (None, "fp8", "mxfp4"):
        raise UnsupportedModel(
            f"{title}: is quantised by {method}, whose size trilens does not compute; name its files instead"
        )
    return {p.name: type_of(p) for p in parameters(decoder_weights(spec))}
