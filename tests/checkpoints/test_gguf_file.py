"""GGUF files: values equal to the gguf package's own, bit for bit; metadata of every type; split files; speed."""

import subprocess
import sys
from pathlib import Path

import gguf
import gguf_bytes as g
import numpy as np
import pytest
from attacks import split_part
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize
from tests.work import ROOT

from trilens.checkpoints.ggml_types import BY_NAME, GGML_TYPES
from trilens.checkpoints.gguf import GgufArray, read_gguf
from trilens.errors import BadCheckpoint, UnsupportedModel

INTEGERS = {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64}
BLOCKS = [name for name, kind in BY_NAME.items() if kind.readable and name not in INTEGERS]


def bits(values: np.ndarray) -> np.ndarray:
    """float32 as integers, so that NaN equals NaN and -0 is not 0."""
    return values.view(np.uint32)


def test_table_of_types_is_that_of_the_gguf_package() -> None:
    theirs = {int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}
    ours = {number: kind[:3] for number, kind in GGML_TYPES.items()}
    # A newer package may know more; none of what we know may differ.
    assert ours == {number: theirs[number] for number in ours if number in theirs}


@pytest.mark.parametrize("name", BLOCKS)
def test_values_are_those_of_the_gguf_package(name: str, tmp_path: Path) -> None:
    dice = np.random.default_rng(len(name))
    kind, number = BY_NAME[name], GGMLQuantizationType[name]
    shapes = [(5, 3 * kind.block), (kind.block,), (2, 3, 2 * kind.block), (2, 1, 2, kind.block)]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    expected: dict[str, np.ndarray] = {}
    for index, shape in enumerate(shapes):
        stored = (*shape[:-1], shape[-1] // kind.block * kind.nbytes)
        data = dice.integers(0, 256, stored, np.uint8)  # any bytes are values: infinities and NaN among them
        if name in ("F32", "F16"):
            data = data.view(np.dtype(name.replace("F", "f").replace("32", "4").replace("16", "2")))
        writer.add_tensor(f"t{index}", data, raw_shape=data.shape, raw_dtype=number)
        with np.errstate(all="ignore"):
            expected[f"t{index}"] = dequantize(data, number).reshape(shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = read_gguf(tmp_path / "m.gguf")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert list(file.tensors) == list(expected) == list(theirs)
    for (key, values), shape in zip(expected.items(), shapes, strict=True):
        tensor = file.tensors[key]
        assert (tensor.shape, tensor.type, tensor.nbytes) == (shape, name, theirs[key].n_bytes)
        assert tensor.offset == theirs[key].data_offset
        assert bytes(file.raw(key)) == theirs[key].data.tobytes()
        read = file.read(key)
        assert read.dtype == np.float32 and read.shape == shape and read.flags.writeable
        assert (bits(read) == bits(np.ascontiguousarray(values))).all()
    file.close()


@pytest.mark.parametrize("name", INTEGERS)
def test_whole_numbers_and_doubles(name: str, tmp_path: Path) -> None:
    values = np.array([[-3, 0, 5], [7, -128, 127]]).astype(INTEGERS[name])
    number = GGMLQuantizationType[name]
    (tmp_path / "m.gguf").write_bytes(g.whole([], [g.Tensor("t", (3, 2), number, 0)], values.tobytes()))
    file = read_gguf(tmp_path / "m.gguf")
    assert (file.read("t") == values.astype(np.float32)).all()


def test_a_tensor_longer_than_one_chunk(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 2**17 + 256)).astype(np.float32)
    data = gguf.quants.quantize(values, GGMLQuantizationType.Q4_1)
    tensor = g.Tensor("t", values.shape[::-1], GGMLQuantizationType.Q4_1, 0)
    (tmp_path / "m.gguf").write_bytes(g.whole([], [tensor], data.tobytes()))
    read = read_gguf(tmp_path / "m.gguf").read("t")
    assert (bits(read) == bits(dequantize(data, GGMLQuantizationType.Q4_1))).all()


def test_what_cannot_be_read_is_still_listed(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(g.whole([], [g.Tensor("t", (128,), GGMLQuantizationType.Q1_0, 0)], bytes(18)))
    file = read_gguf(tmp_path / "m.gguf")
    assert (file.tensors["t"].type, file.tensors["t"].nbytes) == ("Q1_0", 18)
    with pytest.raises(UnsupportedModel, match=r"m\.gguf: tensor 't' is Q1_0"):
        file.read("t")
    with pytest.raises(BadCheckpoint, match=r"m\.gguf: has no tensor 'u'"):
        file.read("u")


SCALARS = {
    GGUFValueType.UINT8: 255,
    GGUFValueType.INT8: -128,
    GGUFValueType.UINT16: 65535,
    GGUFValueType.INT16: -32768,
    GGUFValueType.UINT32: 2**32 - 1,
    GGUFValueType.INT32: -(2**31),
    GGUFValueType.FLOAT32: 1.5,
    GGUFValueType.BOOL: True,
    GGUFValueType.STRING: "grüße 你好 🙂",
    GGUFValueType.UINT64: 2**64 - 1,
    GGUFValueType.INT64: -(2**63),
    GGUFValueType.FLOAT64: 0.1,
}


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_of_every_type(version: int, tmp_path: Path) -> None:
    keys = [g.key(kind.name, kind, value) for kind, value in SCALARS.items()]
    keys += [g.key(f"{kind.name}s", g.ARRAY, g.array(kind, [value] * 3)) for kind, value in SCALARS.items()]
    nested = g.array(g.ARRAY, [g.array(g.U8, [1, 2]), g.array(g.STRING, ["a", ""]), g.array(g.ARRAY, [])])
    keys += [g.key("nested", g.ARRAY, nested), g.key("none", g.ARRAY, g.array(g.STRING, []))]
    (tmp_path / "m.gguf").write_bytes(g.whole(keys, [], b"", version=version))
    file = read_gguf(tmp_path / "m.gguf")
    assert (file.version, file.alignment, len(file.metadata)) == (version, 32, len(keys))
    for kind, value in SCALARS.items():
        assert file.metadata[kind.name] == value and type(file.metadata[kind.name]) is type(value)
        array = file.metadata[f"{kind.name}s"]
        assert isinstance(array, GgufArray) and array.item_type == kind.name.lower()
        assert (len(array), list(array), array[-1], array[1:]) == (3, [value] * 3, value, (value,) * 2)
        assert array == [value] * 3 and array != [value] * 2 and array != "abc"
    file.close()
    assert list(file.metadata["nested"]) == [(1, 2), ("a", ""), ()]  # read after the file was closed
    assert list(file.metadata["none"]) == [] and repr(file.metadata["none"]) == "GgufArray(0 string)"


def test_alignment_of_64(tmp_path: Path) -> None:
    keys = [g.key("general.alignment", g.U32, 64)]
    tensors = [g.Tensor("a", (1,), 0, 0), g.Tensor("b", (1,), 0, 64)]
    data = np.array([1] + [0] * 15 + [2], np.float32).tobytes()
    (tmp_path / "m.gguf").write_bytes(g.whole(keys, tensors, data, alignment=64))
    file = read_gguf(tmp_path / "m.gguf")
    assert (file.alignment, file.read("a"), file.read("b")) == (64, [1], [2])


def test_strings_that_are_not_utf8_are_found_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(g.whole([g.key("k", g.ARRAY, g.array(g.STRING, ["a", b"\xff"]))], [], b""))
    array = read_gguf(tmp_path / "m.gguf").metadata["k"]
    assert len(array) == 2
    with pytest.raises(BadCheckpoint, match=r"m\.gguf: a string in an array of its metadata is not UTF-8"):
        array[0]


@pytest.mark.parametrize("named", [1, 2, 3])
def test_split_file_opens_by_any_part(named: int, tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"m-{number + 1:05d}-of-00003.gguf"
        path.write_bytes(split_part(number, 3, f"t{number}", tensors=3))
    file = read_gguf(tmp_path / f"m-{named:05d}-of-00003.gguf")
    assert list(file.tensors) == ["t0", "t1", "t2"] and file.path.name == "m-00001-of-00003.gguf"
    assert [file.raw(f"t{number}")[0] for number in range(3)] == [0, 1, 2]
    assert file.metadata["general.architecture"] == "llama"
    file.close()


def test_bytes_outlive_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(g.whole([], [g.Tensor("t", (1,), 0, 0)], b"\1\2\3\4"))
    file = read_gguf(tmp_path / "m.gguf")
    data = file.raw("t")
    file.close()
    file.close()
    assert data == b"\1\2\3\4"


def test_header_of_a_large_vocabulary_is_read_at_once_and_without_numpy(tmp_path: Path) -> None:
    tokens = [f"token{number}" for number in range(150_000)]
    keys = [
        g.key("tokenizer.ggml.tokens", g.ARRAY, g.array(g.STRING, tokens)),
        g.key("tokenizer.ggml.merges", g.ARRAY, g.array(g.STRING, tokens)),
        g.key("tokenizer.ggml.token_type", g.ARRAY, g.array(g.I32, [1] * len(tokens))),
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(g.whole(keys, [], b""))
    program = (
        "import sys; from tests.work import calls\n"
        "def cold():\n"
        "    from trilens.checkpoints.gguf import read_gguf\n"
        "    from trilens.checkpoints.safetensors import read_safetensors\n"
        "    from trilens.checkpoints.find import find\n"
        "    file = read_gguf(find(sys.argv[1]).path)\n"
        "    assert len(file.metadata['tokenizer.ggml.tokens']) == 150_000\n"
        "print(calls(cold), *{'numpy', 'torch', 'gguf', 'huggingface_hub', 'platformdirs'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    made, *heavy = done.stdout.split()
    assert heavy == [] and int(made) < 9 * len(tokens)  # 300,000 strings
    assert list(read_gguf(path).metadata["tokenizer.ggml.merges"]) == tokens
