"""Files -> a spec and the place of each of its parameters. Every parameter must be found once; every tensor must be
used or listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

from trilens.checkpoints import names
from trilens.checkpoints.changes import CHANGES, Change, RowChange, Times, Transposed, apply
from trilens.checkpoints.checkpoint import Checkpoint
from trilens.checkpoints.find import Found
from trilens.checkpoints.rows import Row, in_layer
from trilens.decoder.weights import Parameter, decoder_weights, own_parameters, parameters, prediction_weights
from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.files import bad, shown
from trilens.spec.gguf import Source as GgufSource
from trilens.spec.gguf import read_gguf_metadata
from trilens.spec.huggingface import read_config, read_config_file
from trilens.spec.model import Attention, GatedRecurrence, ModelSpec, Reading, ShortConvolution

if TYPE_CHECKING:
    import numpy as np

    from trilens.checkpoints.gguf import GgufFile
    from trilens.checkpoints.layouts import CodedTensor


@dataclass(frozen=True)
class Stored:
    """Where one parameter comes from: one tensor, or one per expert to be stacked, then the change."""

    tensors: tuple[str, ...]
    stacked: bool = False
    change: Change | None = None


@dataclass(frozen=True)
class ModelFiles:
    """A checkpoint, checked against its spec. `left_out` has the tensors that are not read, with the reasons."""

    found: Found
    reading: Reading
    checkpoint: Checkpoint
    stored: Mapping[str, Stored]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        return self.reading.spec

    @property
    def metadata(self) -> Mapping[str, Any] | None:
        """Of a GGUF file."""
        return getattr(self.checkpoint, "metadata", None)

    @property
    def has_prediction(self) -> bool:
        """Whether the block that predicts was asked for, and is there."""
        return any(name.startswith("prediction.") for name in self.stored)

    def read(self, parameter: Parameter) -> np.ndarray:
        """The parameter's values, float32, in its own shape.

        Raises BadCheckpoint for values that are not finite, or that are all zero and must not be.
        """
        import numpy as np

        from trilens.checkpoints.sound import fault_of_values

        stored = self.stored[parameter.name]
        parts = [self.checkpoint.read(name) for name in stored.tensors]
        values = np.stack(parts) if stored.stacked else parts[0]
        if stored.change is not None:
            try:
                values = apply(stored.change, values, len(parameter.shape) < 2 or parameter.name.endswith(".bias"))
            except ValueError as problem:
                raise BadCheckpoint(f"{self.checkpoint.path}: {stored.tensors[0]} {problem}") from None
        if values.shape != parameter.shape:
            raise BadCheckpoint(
                f"{self.checkpoint.path}: {stored.tensors[0]} gives {parameter.name} the shape {values.shape}; "
                f"expected {parameter.shape}"
            )
        if (fault := fault_of_values(values, parameter)) is not None:
            raise self.damaged(stored.tensors[0], fault)
        return values

    def damaged(self, tensor: str, fault: str) -> BadCheckpoint:
        """The error for a tensor of these files whose values cannot be right."""
        file = self.checkpoint.tensors[tensor].file
        return bad(file, f"tensor {shown(tensor)} {fault}; the file is damaged, download it again")

    def type_of(self, parameter: Parameter) -> str:
        """How it is stored: 'Q4_1', 'BF16', ..."""
        return self.checkpoint.tensors[self.stored[parameter.name].tensors[0]].type

    def coded(self, tensor: str) -> CodedTensor | None:
        """The tensor's layout, where it is a matrix of codes spread over several tensors of a safetensors file."""
        return getattr(self.checkpoint, "coded", {}).get(tensor)

    def as_rows(self, parameter: Parameter) -> bool:
        """Whether the parameter's rows are rows of the file, and not its columns for example, all of one type. Of FP8:
        and can be kept with their scales."""
        stored = self.stored[parameter.name]
        one_type = len({self.checkpoint.tensors[name].type for name in stored.tensors}) == 1
        if self.type_of(parameter) == "F8_E4M3" and not all(map(self._shares_scales, stored.tensors)):
            return False
        return one_type and (stored.change is None or isinstance(stored.change, RowChange))

    def _shares_scales(self, tensor: str) -> bool:
        shares: Callable[[str], bool] = self.checkpoint.shares_scales  # type: ignore[attr-defined]
        return shares(tensor)

    def bytes_of(self, parameter: Parameter) -> int:
        """Bytes in the file. If a tensor holds several parameters, the share of this one."""
        tensors = [self.checkpoint.tensors[name] for name in self.stored[parameter.name].tensors]
        return sum(t.nbytes for t in tensors) * parameter.size // sum(prod(t.shape) for t in tensors)


def read_spec(found: Found) -> Reading:
    """The spec alone, from the small files or the header."""
    if found.kind == "gguf":
        return _open_gguf(found)[0]
    from trilens.checkpoints.safetensors import config_name

    return read_config_file(found.path if found.kind == "config" else found.path / config_name(found.path))


def open_model(found: Found, ignore_keys: Iterable[str] = (), prediction: bool = False) -> ModelFiles:
    """Open, check and map a whole checkpoint; no values are read yet. `prediction`: with its block that predicts.

    Raises UnsupportedModel for unknown keys that are not in `ignore_keys` and for a block that is not there, and
    BadCheckpoint for tensors that are missing, left over or of the wrong shape.
    """
    checkpoint: Checkpoint
    if found.kind == "gguf":
        reading, checkpoint = _open_gguf(found)
        arch = str(checkpoint.metadata["general.architecture"])
        rows = names.BY_ARCHITECTURE.get(arch, names.GGUF)
        rows += names.prediction_rows(rows, len(reading.spec.layers))
    else:
        reading, checkpoint = _open_directory(found)
        rows = _prefixed(names.BY_FAMILY.get(reading.spec.family, ()) + names.HUGGINGFACE, checkpoint, reading.spec)
    unknown = [key for key in reading.unread if key not in set(ignore_keys)]
    if unknown:
        raise UnsupportedModel(
            f"{checkpoint.path}: trilens does not know what {', '.join(unknown)} means for the model; if it changes "
            f"nothing, pass {' '.join('--ignore-key ' + key for key in unknown)}"
        )
    try:
        return _match(found, reading, checkpoint, rows, prediction)
    except BaseException:
        checkpoint.close()
        raise


def _prefixed(rows: tuple[Row, ...], checkpoint: Checkpoint, spec: ModelSpec) -> tuple[Row, ...]:
    """The rows and those of a block that predicts, with the prefix of the text decoder in this checkpoint."""
    rows += names.prediction_rows(rows, len(spec.layers))
    model = next((p for p in names.TEXT_PREFIXES if p + "embed_tokens.weight" in checkpoint.tensors), "model.")
    head = next((p for p in names.HEAD_PREFIXES if p + "weight" in checkpoint.tensors), "lm_head.")

    def prefixed(name: str) -> str:
        return model + name.removeprefix("model.") if name.startswith("model.") else name.replace("lm_head.", head)

    return tuple(replace(row, theirs=prefixed(row.theirs)) for row in rows)


def _open_gguf(found: Found) -> tuple[Reading, GgufFile]:
    from trilens.checkpoints.gguf import read_gguf

    checkpoint = read_gguf(found.path)

    def values(name: str) -> list[float]:
        numbers: list[float] = checkpoint.read(name).tolist()
        return numbers

    shapes = {name: t.shape for name, t in checkpoint.tensors.items()}
    return read_gguf_metadata(checkpoint.metadata, GgufSource(shapes, values), str(found.path)), checkpoint


def _open_directory(found: Found) -> tuple[Reading, Checkpoint]:
    from trilens.checkpoints.quantised import read_rules
    from trilens.checkpoints.safetensors import config_name, read_config_json, read_safetensors

    config, name = read_config_json(found.path), config_name(found.path)
    rules = read_rules(config, found.path)
    reading = read_config(config, str(found.path / name))
    if rules.mlx and any(
        isinstance(m, GatedRecurrence | ShortConvolution) for la in reading.spec.layers for m in la.mixers
    ):
        raise UnsupportedModel(
            f"{found.path}: mlx-lm stores the norms and convolutions of {reading.spec.family} in another form, which "
            "trilens does not read; take the publisher's own files or a GGUF file"
        )
    return reading, read_safetensors(found.path, rules)


def stored_weight_bytes(found: Found) -> dict[str, int]:
    """Bytes of the weights in the file and a phrase that names their most common type; nothing if there is only a
    config.
    """
    if found.kind != "gguf":
        return {}
    from trilens.checkpoints.gguf import read_gguf

    checkpoint = read_gguf(found.path)
    by_type: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.nbytes
    checkpoint.close()
    return {f"in the file, mostly {max(by_type, key=lambda t: by_type[t])}": sum(by_type.values())}


def _match(
    found: Found, reading: Reading, checkpoint: Checkpoint, rows: tuple[Row, ...], prediction: bool
) -> ModelFiles:
    stored: dict[str, Stored] = {}
    taken: set[str] = set()
    wanted = list(parameters(decoder_weights(reading.spec)))
    if prediction:
        if reading.spec.prediction is None or not _has_block(reading.spec, checkpoint, rows):
            raise UnsupportedModel(
                f"{checkpoint.path}: has no block for multi-token prediction; load it without prediction_block"
            )
        wanted += own_parameters(prediction_weights(reading.spec))
    for parameter in wanted:
        source = _source(reading.spec, parameter, checkpoint, rows)
        factor = reading.factors.get(re.sub(r"^layers\.\d+\.", "layers.{i}.", parameter.name), 1.0)
        if factor != 1.0:
            source = replace(source, change=Times(factor, source.change))
        stored[parameter.name] = source
        taken.update(source.tensors)
    left_out, unused = {}, []
    for name in checkpoint.tensors:
        if name in taken:
            continue
        reason = _why_left_out(name, reading.spec)
        if reason is None:
            unused.append(name)
        else:
            left_out[name] = reason
    if unused:
        shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if len(unused) > 3 else "")
        raise BadCheckpoint(f"{checkpoint.path}: the model does not use {shown}; the file and its config disagree")
    return ModelFiles(found, reading, checkpoint, stored, left_out)


def _has_block(spec: ModelSpec, checkpoint: Checkpoint, rows: tuple[Row, ...]) -> bool:
    join = prediction_weights(spec).join.weight
    return any(theirs in checkpoint.tensors for _, theirs in _named(join, rows))


def rows_for(spec: ModelSpec, parameter: Parameter) -> list[str]:
    """The names that safetensors files of the family may have for a parameter; `{e}` stands for an expert's number."""
    rows = names.BY_FAMILY.get(spec.family, ()) + names.HUGGINGFACE
    return [theirs for _, theirs in _named(parameter, rows)]


def _named(parameter: Parameter, rows: tuple[Row, ...]) -> Iterator[tuple[Row, str]]:
    """The rows of a parameter, each with its name in the files."""
    is_bias = parameter.name.endswith(".bias")
    base = parameter.name.removesuffix(".bias")
    layer = re.match(r"layers\.(\d+)\.", base)
    pattern = re.sub(r"^layers\.\d+\.", "layers.{i}.", base)
    for row in rows:
        own_row = is_bias and row.ours == pattern + ".bias"
        if row.ours != pattern and not own_row:
            continue
        theirs = in_layer(row.theirs, int(layer.group(1))) if layer else row.theirs
        if is_bias and not own_row:
            theirs = theirs.removesuffix(".weight") + ".bias"
        yield row, theirs


def _source(spec: ModelSpec, parameter: Parameter, checkpoint: Checkpoint, rows: tuple[Row, ...]) -> Stored:
    base = parameter.name.removesuffix(".bias")
    layer = re.match(r"layers\.(\d+)\.", base)
    tried = []
    for row, theirs in _named(parameter, rows):
        stacked = "{e}" in theirs
        wanted = tuple(theirs.replace("{e}", str(e)) for e in range(parameter.shape[0])) if stacked else (theirs,)
        tried.append(wanted[0])
        if wanted[0] not in checkpoint.tensors:
            continue
        missing = [name for name in wanted if name not in checkpoint.tensors]
        if missing:
            raise BadCheckpoint(f"{checkpoint.path}: {parameter.name} needs {missing[0]}, which is not in the file")
        own_layer = spec.layers[int(layer.group(1)) if layer else 0]
        if spec.prediction is not None and base.startswith("prediction."):
            own_layer = spec.prediction.layer
        change = CHANGES[row.change](spec, own_layer, base) if row.change else None
        if isinstance(change, Transposed) and checkpoint.tensors[wanted[0]].type == "MXFP4":
            change = change.then  # 4-bit blocks run along `in`, so these tensors are stored the right way round
        if change is None and not stacked:
            shape = checkpoint.tensors[theirs].shape
            if shape != parameter.shape:
                raise BadCheckpoint(
                    f"{checkpoint.path}: {theirs} has the shape {list(shape)}; "
                    f"the config asks for {list(parameter.shape)}"
                )
        return Stored(wanted, stacked, change)
    raise BadCheckpoint(
        f"{checkpoint.path}: has no tensor for {parameter.name}; looked for {' or '.join(tried) or 'nothing known'}"
    )


def _why_left_out(name: str, spec: ModelSpec) -> str | None:
    for pattern, reason in names.LEFT_OUT.items():
        if re.match(pattern, name):
            return reason
    if spec.head.tied and name.endswith(("lm_head.weight", "output.weight")):
        return "the head is the embedding's table"
    layer = re.match(r"(?:language_model\.)?(?:model\.)?(?:language_model\.)?(?:layers|blk)\.(\d+)\.(.+)", name)
    if layer is None:
        return None
    number, inside = int(layer.group(1)), layer.group(2)
    if number >= len(spec.layers):
        return "layers that predict further tokens"
    expert = re.match(r"mlp\.experts\.(\d+)\.", inside)
    routers = [routed.router for _, routed in spec.routed_layers()]
    if expert is not None and any(r.experts <= int(expert.group(1)) < r.choices for r in routers):
        return "matrices that experts without weights never use"
    attention = spec.layers[number].mixer
    if isinstance(attention, Attention) and not attention.writes and re.match(names.KEYS_AND_VALUES, inside):
        return "keys and values of a layer that reads another's cache"
    return None
