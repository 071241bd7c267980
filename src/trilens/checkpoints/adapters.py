"""Adapters (LoRA) from files -> low-rank matrices for our parameters.

PEFT's layout is a directory with adapter_config.json and adapter_model.safetensors:

    base_model.model.MODULE.lora_A.weight [rank, in]    base_model.model.MODULE.lora_B.weight [out, rank]

llama.cpp's is a GGUF file with general.type = "adapter", adapter.type = "lora" and adapter.lora.alpha:

    TENSOR.lora_a [rank, in]    TENSOR.lora_b [out, rank]

The tables of tensor names say which of our matrices a module is, and how its rows lie: what they do to the rows of the
module's own matrix is done to those of lora_B, so fused and reordered matrices need nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trilens.checkpoints import names
from trilens.checkpoints.changes import (
    CHANGES,
    Change,
    EveryOther,
    HalfSplit,
    HeadColumns,
    HeadRows,
    OneRow,
    PartRows,
    RowRange,
    Times,
    Transposed,
    apply,
)
from trilens.checkpoints.lora_config import LoraConfig, read_lora_config
from trilens.checkpoints.rows import Row
from trilens.decoder.weights import Parameter, adaptable, decoder_weights
from trilens.errors import BadCheckpoint, ModelNotFound, UnsupportedModel
from trilens.executors.adapter import Adapter, LowRank
from trilens.files import bad, exists, shown
from trilens.spec.model import GatedRecurrence

if TYPE_CHECKING:
    import numpy as np

    from trilens.checkpoints.checkpoint import Checkpoint
    from trilens.checkpoints.load import ModelFiles

FLOATS = ("F32", "F16", "BF16")
PEFT_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
GGUF_NAME = re.compile(r"(?P<module>.+)\.weight\.lora_(?P<part>[ab])")
# What other tensors of an adapter belong to.
NOT_SUPPORTED = {
    "lora_magnitude_vector": "belongs to DoRA",
    "lora_embedding_": "changes an embedding",
    "token_embd.": "changes an embedding",
    "modules_to_save.": "replaces a whole matrix (modules_to_save)",
    "trainable_tokens_": "changes single tokens (trainable_tokens)",
    "lora_B.bias": "is a bias (lora_bias)",
}


EXPECTED = "expected a directory in PEFT's layout, or a GGUF file"


@dataclass(frozen=True)
class Pair:
    """Both matrices of one module of the file, by the names of their tensors."""

    module: str
    down: str
    up: str


def read_adapter(files: ModelFiles, name: str, path: Path) -> Adapter:
    """The adapter at `path` for this model, whole.

    Raises ModelNotFound if there is none, UnsupportedModel for a kind that trilens cannot apply, and BadCheckpoint,
    naming the tensor, for one that is damaged or made for another model.
    """
    path = _there(path)
    if files.spec.family == "mistral_native":
        raise UnsupportedModel(f"{path}: adapters need the model in the form of transformers or of llama.cpp")
    return _from_gguf(files, name, path) if path.is_file() else _from_peft(files, name, path)


def adapter_bytes(path: Path) -> int:
    """The approximate memory of an adapter, from its files. Raises ModelNotFound if there is none."""
    return _file(path).stat().st_size


def adapter_parameters(path: Path) -> int:
    """The numbers of an adapter's matrices, from the header of its file. Raises as `read_adapter` does."""
    file = _file(path)
    if file.suffix.lower() == ".gguf":
        from trilens.checkpoints.gguf import read_gguf

        checkpoint: Checkpoint = read_gguf(file)
        pattern = GGUF_NAME
    else:
        from trilens.checkpoints.safetensors import read_safetensors

        checkpoint, pattern = read_safetensors(file), PEFT_NAME
    try:
        if not (pairs := list(_pairs(checkpoint, pattern))):
            raise _empty(checkpoint)
        return sum(math.prod(checkpoint.tensors[name].shape) for pair in pairs for name in (pair.down, pair.up))
    finally:
        checkpoint.close()


def _file(path: Path) -> Path:
    path = _there(path)
    file = path if path.is_file() else path / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelNotFound(f"{path}: contains no adapter_model.safetensors; {EXPECTED}")
    return file


def _there(path: Path) -> Path:
    """The GGUF file, or the directory in PEFT's layout; a file in that stands for it. Raises ModelNotFound."""
    path = path.expanduser()
    if not exists(path):
        raise ModelNotFound(f"{path}: no such adapter; {EXPECTED}")
    return path if path.is_dir() or path.suffix.lower() == ".gguf" else path.parent


def _from_peft(files: ModelFiles, name: str, directory: Path) -> Adapter:
    from trilens.checkpoints.safetensors import read_safetensors

    config = read_lora_config(directory)
    tensors = directory / "adapter_model.safetensors"
    if not tensors.is_file():
        pickled = (directory / "adapter_model.bin").exists()
        how = "adapter_model.bin is a pickle, which trilens does not read; save it as safetensors" if pickled else ""
        raise bad(directory, how or "contains no adapter_model.safetensors; download it again")
    if files.found.kind == "gguf" and any(
        isinstance(m, GatedRecurrence) for la in files.spec.layers for m in la.mixers
    ):
        raise UnsupportedModel(
            f"{directory}: GGUF files of hybrid models order their matrices in another way than PEFT's adapters; load "
            "the model from safetensors"
        )
    rows = names.BY_FAMILY.get(files.spec.family, ()) + names.HUGGINGFACE
    checkpoint = read_safetensors(tensors)
    try:
        return _adapter(files, name, checkpoint, PEFT_NAME, rows, config)
    finally:
        checkpoint.close()


def _from_gguf(files: ModelFiles, name: str, path: Path) -> Adapter:
    from trilens.checkpoints.gguf import GgufFile, read_gguf

    checkpoint = read_gguf(path)
    try:
        said = checkpoint.metadata
        if (kind := said.get("general.type")) != "adapter":
            raise bad(path, f"general.type is {shown(str(kind))}; expected 'adapter': is this a model?")
        if (kind := said.get("adapter.type")) != "lora":
            raise UnsupportedModel(f"{path}: an adapter of the type {shown(str(kind))}; only 'lora' can be applied")
        if "adapter.alora.invocation_tokens" in said:
            raise UnsupportedModel(f"{path}: an activated LoRA, which trilens cannot apply")
        arch = said.get("general.architecture")
        if not isinstance(files.checkpoint, GgufFile):
            raise UnsupportedModel(f"{path}: a GGUF adapter needs a GGUF model; give the adapter in PEFT's layout")
        own = files.checkpoint.metadata.get("general.architecture")
        if arch != own:
            raise bad(path, f"is for the architecture {shown(str(arch))}, and the model is {shown(str(own))}")
        alpha = said.get("adapter.lora.alpha")
        if not isinstance(alpha, float) or not math.isfinite(alpha):
            raise bad(path, f"adapter.lora.alpha is {shown(str(alpha))}; expected a number")
        rows = names.BY_ARCHITECTURE.get(str(arch), names.GGUF)
        return _adapter(files, name, checkpoint, GGUF_NAME, rows, LoraConfig(alpha or None))
    finally:
        checkpoint.close()


def _adapter(
    files: ModelFiles,
    name: str,
    checkpoint: Checkpoint,
    pattern: re.Pattern[str],
    rows: tuple[Row, ...],
    config: LoraConfig,
) -> Adapter:
    ours = adaptable(decoder_weights(files.spec))
    table = _by_their_name(rows)
    matrices: dict[str, LowRank] = {}
    for pair in _pairs(checkpoint, pattern):
        for parameter, change in _places(files, checkpoint.path, pair, table, ours):
            if parameter.name in matrices:
                raise bad(checkpoint.path, f"tensor {shown(pair.up)} changes {parameter.name}, as another one does")
            matrices[parameter.name] = _low_rank(checkpoint, pair, parameter, change, config)
    if not matrices:
        raise _empty(checkpoint)
    return Adapter(name, matrices)


def _empty(checkpoint: Checkpoint) -> BadCheckpoint:
    return bad(checkpoint.path, "contains no LoRA tensors; download it again")


def _pairs(checkpoint: Checkpoint, pattern: re.Pattern[str]) -> Iterator[Pair]:
    found: dict[str, dict[str, str]] = {}
    for tensor in checkpoint.tensors:
        for part, what in NOT_SUPPORTED.items():
            if part in tensor:
                raise UnsupportedModel(
                    f"{checkpoint.path}: tensor {shown(tensor)} {what}, which trilens cannot apply; merge the adapter "
                    "into the model, and load that"
                )
        match = pattern.fullmatch(tensor)
        if match is None:
            raise bad(checkpoint.path, f"tensor {shown(tensor)} is not part of a LoRA")
        parts = found.setdefault(match["module"], {})
        if match["part"].lower() in parts:
            raise bad(checkpoint.path, f"tensor {shown(tensor)} occurs under two names")
        parts[match["part"].lower()] = tensor
    for module, parts in found.items():
        if len(parts) < 2:
            missing = "B" if "a" in parts else "A"
            (tensor,) = parts.values()
            raise bad(checkpoint.path, f"tensor {shown(tensor)} has no lora_{missing} beside it; download it again")
        yield Pair(module, parts["a"], parts["b"])


def _by_their_name(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    """The rows by the name of their tensor, which has `{i}` and `{e}`. For each of our parameters the first counts."""
    table: dict[str, list[Row]] = {}
    for row in rows:
        known = table.setdefault(row.theirs, [])
        if all(row.ours != other.ours for other in known):
            known.append(row)
    return table


def _places(
    files: ModelFiles, path: Path, pair: Pair, table: Mapping[str, list[Row]], ours: Mapping[str, Parameter]
) -> list[tuple[Parameter, Change | None]]:
    """Our matrices that are in the module's, with the change that leads to each. Raises for a module without any."""
    spec = files.spec
    tensor = pair.module + ".weight"
    for prefix in names.TEXT_PREFIXES:
        if tensor.startswith(prefix):
            tensor = "model." + tensor.removeprefix(prefix)
    for prefix in names.HEAD_PREFIXES:
        if tensor.startswith(prefix):
            tensor = "lm_head." + tensor.removeprefix(prefix)
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", tensor)
    layer = int(numbers[0]) if numbers and len(numbers[0]) < 6 else 0
    place = _place(tensor, numbers, ("i", "e"))
    rows = table.get(place) or table.get(place.replace("model.", "backbone.", 1), [])  # Nemotron-H has both names
    if not rows and numbers[1:] in ([], ["0"], ["1"]):
        rows = table.get(_place(tensor, numbers, ("i/2", "i%2")), [])
        layer = 2 * layer + sum(map(int, numbers[1:]))
    found: list[tuple[Parameter, Change | None]] = []
    for row in rows:
        parameter = ours.get(row.ours.replace("{i}", str(layer)))
        if parameter is None or layer >= len(spec.layers):
            continue
        change = (
            CHANGES[row.change](spec, spec.layers[layer], row.ours.replace("{i}", str(layer))) if row.change else None
        )
        factor = files.reading.factors.get(row.ours, 1.0)
        found.append((parameter, change if factor == 1.0 else Times(factor, change)))
    if any(change is None and len(parameter.shape) > 2 for parameter, change in found):
        raise UnsupportedModel(
            f"{path}: tensor {shown(pair.down)} changes several matrices that are held as one, which trilens cannot "
            "apply; merge the adapter into the model, and load that"
        )
    if found:
        return found
    if any(".experts." in row.ours for row in rows) or ".experts" in tensor or "_exps." in tensor:
        raise UnsupportedModel(
            f"{path}: tensor {shown(pair.down)} changes the matrices of experts, which trilens cannot apply; merge the "
            "adapter into the model, and load that"
        )
    if re.sub(r"\.\d+\.", ".{e}.", tensor, count=1) in table:
        raise UnsupportedModel(
            f"{path}: tensor {shown(pair.down)} changes one of several matrices that are held as one, which trilens "
            "cannot apply; merge the adapter into the model, and load that"
        )
    if any(row.ours == "embedding" for row in rows):
        raise UnsupportedModel(f"{path}: tensor {shown(pair.down)} changes an embedding, which trilens cannot apply")
    for pattern, reason in names.LEFT_OUT.items():
        if re.match(pattern, pair.module + "."):
            raise UnsupportedModel(f"{path}: tensor {shown(pair.down)} changes {reason}, which trilens does not run")
    raise bad(
        path,
        f"tensor {shown(pair.down)} changes {shown(pair.module)}, which is not a matrix of this model; is the "
        f"adapter for another one?",
    )


def _place(tensor: str, numbers: Sequence[str], letters: Sequence[str]) -> str:
    """The tensor's name with these letters for its first numbers."""
    for letter, number in zip(letters, numbers, strict=False):
        tensor = tensor.replace(f".{number}.", f".{{{letter}}}.", 1)
    return tensor


def _low_rank(
    checkpoint: Checkpoint, pair: Pair, parameter: Parameter, change: Change | None, config: LoraConfig
) -> LowRank:
    import numpy as np

    down, up = (_values(checkpoint, name) for name in (pair.down, pair.up))
    rank = down.shape[0]
    if up.shape[1] != rank:
        raise bad(
            checkpoint.path, f"tensor {shown(pair.up)} has {up.shape[1]} columns; expected the rank of lora_A, {rank}"
        )
    scale = config.scale(checkpoint.path, pair.module, rank)
    rows = up.shape[0]
    try:
        down, up = _changed(change, parameter, down, up)
    except ValueError as problem:
        raise bad(checkpoint.path, f"tensor {shown(pair.up)} {problem}; is the adapter for another model?") from None
    *stack, out, inner = parameter.shape
    if up.shape != (*stack, out, rank) or down.shape != (*stack, rank, inner):
        raise bad(
            checkpoint.path,
            f"tensor {shown(pair.down)} and its lora_B give {parameter.name} {rows} rows and {down.shape[-1]} columns; "
            f"the model has {list(parameter.shape)}: is the adapter for another one?",
        )
    types = {checkpoint.tensors[name].type for name in (pair.down, pair.up)}
    kept = types.pop() if len(types) == 1 and not isinstance(change, Times) else "F32"
    return LowRank(np.ascontiguousarray(down), np.ascontiguousarray(up), scale, kept if kept in FLOATS else "F32")


def _values(checkpoint: Checkpoint, tensor: str) -> np.ndarray:
    import numpy as np

    shape = checkpoint.tensors[tensor].shape
    if len(shape) != 2 or 0 in shape:
        raise bad(checkpoint.path, f"tensor {shown(tensor)} has the shape {list(shape)}; expected a matrix")
    values = checkpoint.read(tensor)
    if not np.isfinite(values).all():
        raise bad(checkpoint.path, f"tensor {shown(tensor)} contains a value that is not finite (NaN or infinity)")
    return values


def _changed(
    change: Change | None, parameter: Parameter, down: np.ndarray, up: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both matrices for our parameter, where the module's own matrix becomes it by `change`."""
    import numpy as np

    match change:
        case (
            None | OneRow() | Transposed(None)
        ):  # PEFT's two matrices lie the same way round, whatever the model's does
            return down, up
        case Transposed(then):
            return _changed(then, parameter, down, up)
        case Times(factor, first):
            down, up = _changed(first, parameter, down, up)
            return down, up * np.float32(factor)
        case HeadColumns(rows):  # a stack of transposed matrices
            chosen = apply(rows, up, is_bias=False)
            heads = len(chosen)
            return chosen.swapaxes(1, 2).copy(), np.broadcast_to(down.T, (heads, *down.T.shape))
        case HalfSplit() | RowRange() | EveryOther() | HeadRows() | PartRows():
            chosen = apply(change, up, is_bias=False)
            stack = chosen.shape[:-2]
            return np.broadcast_to(down, (*stack, *down.shape)), chosen
        case _:
            raise AssertionError(f"{parameter.name} is not a matrix: {change}")
