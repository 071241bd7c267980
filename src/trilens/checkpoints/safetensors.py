"""safetensors files, one or sharded: header -> tensors. Every number is checked before it is used.

    header length u64, little endian | header: a JSON object | data, to which the offsets count
    header:  {"__metadata__": {str: str}, NAME: {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}

The tensors cover the data from end to end: no holes, no overlaps. A sharded model has `model.safetensors.index.json`
beside its shards: {"weight_map": {NAME: FILE}}. https://github.com/huggingface/safetensors
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trilens.checkpoints.checkpoint import StoredTensor, raw_bytes
from trilens.checkpoints.layouts import CodedTensor, find_coded
from trilens.checkpoints.opened import OpenFile
from trilens.checkpoints.quantised import Rules, read_rules, refuse_left_over
from trilens.checkpoints.scales import FP8, factors_of_128, pair_with_scales, shared_by_128, times_scale
from trilens.errors import UnsupportedModel
from trilens.files import bad, parse_json, read_json_object, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
MOST_DIMENSIONS = 16
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True)
class SafetensorsCheckpoint:
    """A Checkpoint: one safetensors file, or all shards of a model.

    `tensors` are the model's parameters. `scales` are tensors that only say how to read another one, or how an engine
    rounds activations. `scale_of` names the scale of each FP8 tensor. `read` applies scales; `raw` does not, and also
    returns them. All tensors as they are in the files are in `stored`.

    `coded` has the matrices that are spread over several tensors (`layouts.py`). In `tensors` such a matrix has the
    type of `coded_types.CODED`, and the `offset` and `nbytes` of its codes.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    scales: Mapping[str, StoredTensor]
    scale_of: Mapping[str, str]
    coded: Mapping[str, CodedTensor]
    stored: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]  # `__metadata__`; of a sharded model: of all shards together
    rules: Rules
    files: Mapping[Path, OpenFile]

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> bytearray:
        return raw_bytes(self.files, self._tensor(name), start, stop)

    def read(self, name: str) -> "NDArray[np.float32]":
        from trilens.checkpoints.values import can_read, dequantise

        if name in self.coded:
            from trilens.checkpoints.codes import values_of

            return values_of(self, self.coded[name])
        tensor = self._tensor(name)
        scale = self.scale_of.get(name)
        if not can_read(tensor.type):
            raise UnsupportedModel(f"{tensor.file}: tensor {shown(name)} is {tensor.type}, which trilens cannot read")
        if tensor.type in FP8 and name in self.tensors and self.scale_of and scale is None:
            raise bad(tensor.file, f"tensor {shown(name)} is {tensor.type} without a scale, which the others have")
        values = dequantise(self.raw(name), tensor.type, tensor.shape)
        if scale is not None:
            times_scale(values, self.read(scale), self.rules.block)
        return values

    def shares_scales(self, name: str) -> bool:
        """Whether each 128 neighbouring columns of an FP8 matrix have one scale."""
        tensor, scale = self._tensor(name), self.scale_of.get(name)
        if scale is None:
            return not self.scale_of
        return shared_by_128(tensor.shape, self.scales[scale].shape, self.rules.block)

    def factors(self, name: str) -> "Callable[[int, int], NDArray[np.float32]]":
        """The scales of an FP8 matrix with `shares_scales`: (first, stop) -> [rows, one for each 128 columns]."""
        import numpy as np

        tensor, scale = self._tensor(name), self.scale_of.get(name)
        values = np.ones((1,), np.float32) if scale is None else self.read(scale)
        return factors_of_128(tensor.shape, values, self.rules.block)

    def part(self, name: str) -> StoredTensor:
        """A tensor as it is in the files."""
        return self.stored[name]

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _tensor(self, name: str) -> StoredTensor:
        tensor = self.tensors.get(name) or self.stored.get(name)
        if tensor is None:
            raise bad(self.path, f"has no tensor {shown(name)}")
        return tensor


def read_safetensors(path: Path | str, rules: Rules | None = None) -> SafetensorsCheckpoint:
    """Reads the headers of a .safetensors file, of the shards of an index, or of the model in a directory.

    `rules`: what the configuration says of quantised tensors; None reads the one beside the files, where there is one.
    Raises BadCheckpoint, naming the file and the fault; UnsupportedModel, naming the way the model is quantised.
    """
    path = Path(path)
    if rules is None:
        directory = path if path.is_dir() else path.parent
        there = (directory / config_name(directory)).is_file()
        rules = read_rules(read_config_json(directory), directory) if there else Rules()
    tensors, metadata, files = _open(path)
    try:
        coded = find_coded(tensors, rules, lambda tensor: raw_bytes(files, tensor, 0, None))
        parts = {part: name for name, of in coded.items() for part in (*of.parts.values(), *of.beside)}
        rest = {name: tensor for name, tensor in tensors.items() if name not in parts}
        refuse_left_over(rest, path)
        parameters, scales, scale_of = pair_with_scales(rest, rules.block)
        for name, of in coded.items():
            codes = tensors[of.parts["codes"]]
            parameters[name] = StoredTensor(name, of.shape, of.type, codes.file, codes.offset, codes.nbytes)
        codes_alone = {of.parts["codes"] for of in coded.values()}
        scales |= {part: tensors[part] for part in parts if part not in codes_alone}
    except BaseException:
        for file in files.values():
            file.close()
        raise
    return SafetensorsCheckpoint(path, parameters, scales, scale_of, coded, tensors, metadata, rules, files)


def stored_tensors(path: Path | str) -> Mapping[str, StoredTensor]:
    """Every tensor of a .safetensors file, an index or a directory, as the headers have it, whatever it means.

    Raises BadCheckpoint, naming the file and the fault.
    """
    tensors, _, files = _open(Path(path))
    for file in files.values():
        file.close()
    return tensors


def _open(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str], dict[Path, OpenFile]]:
    """The tensors of all shards, their `__metadata__`, and the open files."""
    source = _of_directory(path) if path.is_dir() else path
    listed: dict[str, str] = {}
    if source.name.endswith(".json"):
        listed = _index(source)
        shards = [source.with_name(name) for name in sorted(set(listed.values()))]
        for shard in shards:
            if not shard.exists():
                raise bad(source, f"the shard {shard.name} is missing; download it into the same directory")
    else:
        shards = [source]
    files: dict[Path, OpenFile] = {}
    try:
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for shard in shards:
            files[shard] = OpenFile(shard)
            in_shard, metadata_of_shard = _header(files[shard])
            metadata |= metadata_of_shard
            for name, tensor in in_shard.items():
                if name in tensors:
                    raise bad(shard, f"tensor {shown(name)} is also in {tensors[name].file.name}")
                tensors[name] = tensor
        for name, shard_name in listed.items():
            if name not in tensors or tensors[name].file.name != shard_name:
                raise bad(source, f"lists the tensor {shown(name)} in {shard_name}, which does not hold it")
    except BaseException:
        for file in files.values():
            file.close()
        raise
    return tensors, metadata, files


def read_config_json(path: Path | str) -> dict[str, Any]:
    """A config.json or params.json, or the one in a directory. Raises BadCheckpoint if it is no JSON object."""
    path = Path(path)
    return _json_object(path / config_name(path) if path.is_dir() else path)


def config_name(directory: Path) -> str:
    """The configuration that goes with the weights in a directory: Mistral's own has weights of its own."""
    if (directory / "config.json").exists():
        both = any(directory.glob("consolidated*.safetensors")) and not any(directory.glob("model*.safetensors*"))
        return "params.json" if both and (directory / "params.json").exists() else "config.json"
    return "params.json" if (directory / "params.json").exists() else "config.json"


def _json_object(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError:
        raise bad(path, "no such file; download it again") from None


def _of_directory(directory: Path) -> Path:
    """The file to begin with: the model as one file, its index, or the only safetensors file there is."""
    for name in ("model.safetensors", "model.safetensors.index.json", "consolidated.safetensors"):
        if (directory / name).exists():
            return directory / name
    found = sorted(directory.glob("*.safetensors"))
    indexes = sorted(directory.glob("*.safetensors.index.json")) or found
    if len(indexes) == 1:
        return indexes[0]
    if not found:
        raise bad(
            directory, "contains no .safetensors file; expected model.safetensors or model.safetensors.index.json"
        )
    names = ", ".join(file.name for file in found[:8])
    raise bad(directory, f"contains several .safetensors files and no model.safetensors.index.json: {names}; name one")


def _index(path: Path) -> dict[str, str]:
    """Tensor name -> the name of its shard, a plain file name beside the index."""
    weight_map = _json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise bad(path, 'expected {"weight_map": {tensor: file}} with at least one tensor')
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            raise bad(path, f"the shard of {shown(name)} is {shown(str(shard))}, expected a .safetensors file")
        if any(letter in shard for letter in "/\\:\0") or not shard.isprintable():
            raise bad(
                path, f"the shard {shown(shard)} is not a plain file name; it must be in the directory of the index"
            )
    return weight_map


def _header(file: OpenFile) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of one file in the order of their data, and its `__metadata__`."""
    path = file.path
    if file.size < 8:
        raise bad(path, f"has {file.size} bytes, a safetensors file has at least 10; download it again")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > LONGEST_HEADER:
        raise bad(path, f"claims a header of {length} bytes, at most {LONGEST_HEADER} are allowed; is it safetensors?")
    data = 8 + length
    if data > file.size:
        raise bad(path, f"claims a header of {length} bytes, longer than the file of {file.size}; download it again")
    header = parse_json(file.read(8, length), path)
    if not isinstance(header, dict):
        raise bad(path, "the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise bad(path, "__metadata__ is not a JSON object of strings")

    tensors = sorted((_tensor(name, entry, path) for name, entry in header.items()), key=lambda t: (t.offset, t.nbytes))
    at = 0
    for tensor in tensors:
        if tensor.offset != at:
            fault = "overlaps the tensor before it" if tensor.offset < at else "leaves a gap before it"
            raise bad(path, f"tensor {shown(tensor.name)} begins at byte {tensor.offset} of the data and {fault}")
        at += tensor.nbytes
        if data + at > file.size:
            raise bad(
                path,
                f"tensor {shown(tensor.name)} ends at byte {data + at}, outside the file of {file.size} bytes;"
                " the file is truncated or damaged, download it again",
            )
    if data + at != file.size:
        raise bad(path, f"has {file.size - data - at} bytes after its last tensor, expected none; download it again")
    absolute = {t.name: StoredTensor(t.name, t.shape, t.type, path, data + t.offset, t.nbytes) for t in tensors}
    return absolute, metadata


def _tensor(name: str, entry: Any, path: Path) -> StoredTensor:
    """One entry of the header; its offset still counts from the start of the data."""
    quoted = shown(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise bad(path, f"tensor {quoted} is not an object with dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise bad(path, f"tensor {quoted} has the dtype {shown(str(dtype))}, expected one of {', '.join(BITS)}")
    if not _whole_numbers(shape) or len(shape) > MOST_DIMENSIONS or prod(max(n, 1) for n in shape) >= 2**59:
        raise bad(path, f"tensor {quoted} has the shape {shown(str(shape))}, expected a few whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise bad(path, f"tensor {quoted} has the data_offsets {shown(str(offsets))}, expected [begin, end]")
    begin, end = offsets
    bits = prod(shape) * BITS[dtype]
    if bits % 8 or end - begin != bits // 8:
        raise bad(path, f"tensor {quoted} of {end - begin} bytes, expected {bits / 8:g} for {dtype} {list(shape)}")
    return StoredTensor(name, tuple(shape), dtype, path, begin, end - begin)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
