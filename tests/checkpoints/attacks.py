"""Hostile and damaged files, each as a case that writes itself and says which fault the error has to name.

`python tests/checkpoints/attacks.py DIRECTORY` writes them all, to try them on another program.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf_bytes as g


@dataclass(frozen=True)
class Attack:
    name: str
    write: Callable[[Path], Path]  # into an empty directory; the path to open
    fault: str  # a regular expression that the error has to match
    file: str  # the file that the error has to name


F32, F16, Q4_0, Q4_2, IQ4_NL = 0, 1, 2, 4, 20
HUGE = 2**60
ARCH = g.key("general.architecture", g.STRING, "llama")
TWO = [g.Tensor("first", (4, 2), F32, 0), g.Tensor("second", (32,), Q4_0, 32)]
DATA = bytes(range(32)) + bytes(18)


def _gguf(name: str, data: bytes, fault: str) -> Attack:
    def write(directory: Path) -> Path:
        (directory / "model.gguf").write_bytes(data)
        return directory / "model.gguf"

    return Attack("gguf " + name, write, fault, "model.gguf")


def _tensor(name: str, tensor: g.Tensor, fault: str) -> Attack:
    return _gguf(name, g.whole([ARCH], [tensor], bytes(4096)), fault)


def _key(name: str, key: bytes, fault: str) -> Attack:
    return _gguf(name, g.whole([ARCH, key], [], bytes(64)), fault)


def _nested(depth: int) -> bytes:
    inner = g.array(g.U8, [1])
    for _ in range(depth):
        inner = g.array(g.ARRAY, [inner])
    return inner


GOOD_GGUF = g.whole([ARCH, g.key("list", g.ARRAY, g.array(g.STRING, ["a", "bc"]))], TWO, DATA)

GGUF_ATTACKS = [
    _gguf("empty", b"", "the file is empty"),
    _gguf("of another kind", b"PK\3\4" + bytes(60), "is not a GGUF file: it starts with"),
    _gguf("from before GGUF", b"lmgg" + bytes(60), "GGML file from before GGUF"),
    _gguf("git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git-lfs pointer"),
    _gguf("version 1", g.whole([], [], b"", version=1), "is GGUF version 1, expected 2 or 3"),
    _gguf("version 4", g.whole([], [], b"", version=4), "is GGUF version 4, expected 2 or 3"),
    _gguf("big endian", b"GGUF" + (3).to_bytes(4, "big") + bytes(64), "big-endian"),
    _gguf("magic alone", b"GGUF", "ends within the version"),
    _gguf("no counts", b"GGUF" + g.u32(3) + bytes(7), "ends within the tensor count"),
    _gguf("2^60 tensors", g.whole([ARCH], [], bytes(64), tensor_count=HUGE), f"claims {HUGE} tensors"),
    _gguf("2^60 keys", g.whole([ARCH], [], bytes(64), key_count=HUGE), f"claims {HUGE} keys"),
    _gguf("2^64-1 tensors", g.whole([ARCH], [], b"", tensor_count=2**64 - 1), "tensors, but its"),
    _gguf("one tensor too many", g.whole([ARCH], TWO[:1], bytes(64), tensor_count=2), "a tensor's name is empty"),
    _gguf("one key too many", g.header([ARCH], [], key_count=2) + bytes(16), "a key is empty"),
    _key("key longer than the file", g.u64(HUGE) + b"abc", f"a key claims {HUGE} bytes"),
    _key("key not UTF-8", g.key(b"\xff\xfe", g.U8, 1), "a key is not UTF-8"),
    _key("key twice", ARCH, "the key 'general.architecture' occurs twice"),
    _key("key that clears the screen", g.key("\x1b[2J\n", 99, b""), r"the key '\\x1b\[2J\\n' has the value type 99"),
    _key("string longer than the file", g.key("k", g.U8, b"")[:-4] + g.u32(g.STRING) + g.u64(HUGE), "claims .* bytes"),
    _key("bool of 2", g.key("k", g.BOOL, b"\2"), "is a bool of value 2"),
    _key("bools of 2", g.key("k", g.ARRAY, g.array(g.BOOL, [0, 1, 2])), "bool that is neither 0 nor 1"),
    _key("array longer than the file", g.key("k", g.ARRAY, g.u32(g.F32) + g.u64(HUGE)), f"claims {HUGE} values in 'k'"),
    _key("2^60 strings", g.key("k", g.ARRAY, g.u32(g.STRING) + g.u64(HUGE)), f"claims {HUGE} strings in 'k'"),
    _key("2^60 arrays", g.key("k", g.ARRAY, g.u32(g.ARRAY) + g.u64(HUGE)), f"claims {HUGE} arrays in 'k'"),
    _key(
        "strings beyond the file",
        g.key("k", g.ARRAY, g.u32(g.STRING) + g.u64(2) + g.text("a") + g.u64(2**64 - 1)),
        "ends within the strings of 'k'",
    ),
    _key("array of unknown type", g.key("k", g.ARRAY, g.u32(13) + g.u64(1)), "array of value type 13"),
    _key("arrays 100 deep", g.key("k", g.ARRAY, _nested(100)), "nests arrays more than 4 deep"),
    _key("alignment 0", g.key("general.alignment", g.U32, 0), "general.alignment is '0', expected a power of two"),
    _key("alignment 24", g.key("general.alignment", g.U32, 24), "general.alignment is '24', expected a power of two"),
    _key("alignment in words", g.key("general.alignment", g.STRING, "32"), "general.alignment is '32', expected"),
    _key("alignment in a list", g.key("general.alignment", g.ARRAY, g.array(g.U32, [32])), "general.alignment is"),
    _tensor("no dimensions", g.Tensor("t", (), F32, 0), "tensor 't' has 0 dimensions, expected 1 to 4"),
    _tensor("five dimensions", g.Tensor("t", (1,) * 5, F32, 0), "tensor 't' has 5 dimensions, expected 1 to 4"),
    _tensor("dimension of 0", g.Tensor("t", (4, 0), F32, 0), r"tensor 't' has the shape \(0, 4\)"),
    _tensor("dimension of -1", g.Tensor("t", (2**64 - 1,), F32, 0), "below 2\\^63 values"),
    _tensor("overflowing dimensions", g.Tensor("t", (2**33,) * 4, F32, 0), "below 2\\^63 values"),
    _tensor("dimensions that wrap to 0", g.Tensor("t", (2**32, 2**32), F32, 0), "below 2\\^63 values"),
    _tensor("half a block", g.Tensor("t", (48,), Q4_0, 0), "rows of 48, expected a multiple of 32 for Q4_0"),
    _tensor("unknown type", g.Tensor("t", (32,), 4711, 0), "tensor 't' has the type 4711, unknown"),
    _tensor("removed type", g.Tensor("t", (32,), Q4_2, 0), "has the type 4, Q4_2, which ggml has removed"),
    _tensor("offset between", g.Tensor("t", (4,), F32, 4), "offset 4, expected a multiple of the alignment 32"),
    _tensor("offset outside", g.Tensor("t", (4,), F32, 2**20), "tensor 't' ends at byte .* outside the file"),
    _tensor("offset of 2^63", g.Tensor("t", (4,), F32, 2**63), "tensor 't' ends at byte .* outside the file"),
    _tensor("longer than the file", g.Tensor("t", (2**20,), F32, 0), "tensor 't' ends at byte .* outside the file"),
    _gguf(
        "overlap",
        g.whole([ARCH], [g.Tensor("a", (16,), F32, 0), g.Tensor("b", (16,), F32, 32)], bytes(256)),
        "tensors 'a' and 'b' overlap",
    ),
    _gguf(
        "the same bytes twice",
        g.whole([ARCH], [g.Tensor("a", (16,), F32, 0), g.Tensor("b", (16,), F32, 0)], bytes(256)),
        "tensors 'a' and 'b' overlap",
    ),
    _gguf(
        "name twice",
        g.whole([ARCH], [g.Tensor("a", (8,), F32, 0), g.Tensor("a", (8,), F32, 32)], bytes(256)),
        "tensor 'a' occurs twice",
    ),
]


def split_part(number: int, count: int, name: str, *, tensors: int = 2, says: int | None = None) -> bytes:
    keys = [
        ARCH,
        g.key("split.no", g.U16, number if says is None else says),
        g.key("split.count", g.U16, count),
        g.key("split.tensors.count", g.I32, tensors),
    ]
    return g.whole(keys, [g.Tensor(name, (8,), F32, 0)], bytes([number]) * 32)


def _split(name: str, files: dict[str, bytes], fault: str, file: str) -> Attack:
    def write(directory: Path) -> Path:
        for other, data in files.items():
            (directory / other).write_bytes(data)
        return directory / next(iter(files))

    return Attack("split " + name, write, fault, file)


ONE, TWO_OF_TWO = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"
SPLIT_ATTACKS = [
    _split("missing part", {ONE: split_part(0, 2, "a")}, f"one of 2 parts and {TWO_OF_TWO} is missing", ONE),
    _split("missing first part", {TWO_OF_TWO: split_part(1, 2, "a")}, f"{ONE} is missing", TWO_OF_TWO),
    _split("renamed", {"m.gguf": split_part(0, 2, "a")}, "has to end in -00001-of-00002.gguf", "m.gguf"),
    _split("wrong place", {ONE: split_part(1, 2, "a")}, "has to end in -00002-of-00002.gguf", ONE),
    _split(
        "wrong other part",
        {ONE: split_part(0, 2, "a"), TWO_OF_TWO: split_part(1, 2, "b", says=0)},
        "says split.no, split.count = 0, 2; expected 1, 2",
        TWO_OF_TWO,
    ),
    _split(
        "tensor in two parts",
        {ONE: split_part(0, 2, "a"), TWO_OF_TWO: split_part(1, 2, "a")},
        f"tensor 'a' is also in {ONE}",
        TWO_OF_TWO,
    ),
    _split(
        "tensors that are missing",
        {ONE: split_part(0, 2, "a", tensors=3), TWO_OF_TWO: split_part(1, 2, "b")},
        "promises 3 tensors in all parts, found 2",
        ONE,
    ),
    _split("65535 parts", {"m-00001-of-65535.gguf": split_part(0, 65535, "a")}, "is missing", "m-00001-of-65535.gguf"),
]


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _safetensors(name: str, data: bytes, fault: str) -> Attack:
    def write(directory: Path) -> Path:
        (directory / "model.safetensors").write_bytes(data)
        return directory

    return Attack("safetensors " + name, write, fault, "model.safetensors")


def _one(name: str, described: object, fault: str, data: bytes = bytes(16)) -> Attack:
    return _safetensors(name, safetensors_bytes({"t": described}, data), fault)


GOOD_SAFETENSORS = safetensors_bytes({"a": entry("F32", [2, 2], 0, 16), "b": entry("BF16", [3], 16, 22)}, bytes(22))

SAFETENSORS_ATTACKS = [
    _safetensors("empty", b"", "the file is empty"),
    _safetensors("seven bytes", bytes(7), "has 7 bytes"),
    _safetensors(
        "header longer than the file", safetensors_bytes({}, length=1000), "header of 1000 bytes, longer than"
    ),
    _safetensors("header of 2^60", safetensors_bytes({}, length=HUGE), f"claims a header of {HUGE} bytes, at most"),
    _safetensors("header over the limit", safetensors_bytes({}, length=100_000_001), "at most 100000000 are allowed"),
    _safetensors("header of nothing", bytes(8), "the JSON cannot be read"),
    _safetensors("no JSON", safetensors_bytes(b'{"t": '), "the JSON cannot be read"),
    _safetensors("no object", safetensors_bytes([1]), "the header is not a JSON object"),
    _safetensors("not UTF-8", safetensors_bytes(b'{"\xff": 1}'), "not UTF-8"),
    _safetensors("10^5 brackets", safetensors_bytes(b"[" * 100_000), "nests too deeply"),
    _safetensors("number of 10^4 digits", safetensors_bytes(b'{"t": ' + b"9" * 10_000 + b"}"), "JSON cannot be read"),
    _safetensors("NaN", safetensors_bytes(b'{"t": NaN}'), "tensor .t. is not an object with dtype"),
    _safetensors("name twice", safetensors_bytes(b'{"t": 1, "t": 2}'), "'t' occurs twice"),
    _safetensors(
        "metadata of numbers", safetensors_bytes({"__metadata__": {"a": 1}}), "__metadata__ is not a JSON object"
    ),
    _one("no object for a tensor", 7, "tensor 't' is not an object with dtype"),
    _one("entry without shape", {"dtype": "F32", "data_offsets": [0, 16]}, "tensor 't' is not an object with dtype"),
    _one("entry with more", entry("F32", [4], 0, 16) | {"more": 1}, "tensor 't' is not an object with dtype"),
    _one("unknown dtype", entry("Q4_0", [4], 0, 16), "has the dtype 'Q4_0', expected one of"),
    _one("dtype of a list", {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}, "has the dtype"),
    _one("shape of -1", entry("F32", [-1], 0, 16), r"has the shape '\[-1\]'"),
    _one("shape of true", {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, r"has the shape '\[True\]'"),
    _one("shape of 4.0", {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}, r"has the shape '\[4.0\]'"),
    _one("overflowing shape", entry("F32", [2**40, 2**40], 0, 16), "has the shape"),
    _one("overflow beside a 0", entry("F32", [2**62, 2**62, 0], 0, 0), "has the shape", b""),
    _one("1000 dimensions", entry("F32", [1] * 1000, 0, 4), "has the shape", bytes(4)),
    _one("three offsets", {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}, "expected \\[begin, end\\]"),
    _one("offsets backwards", entry("F32", [4], 16, 0), "of -16 bytes, expected 16"),
    _one("lie about the bytes", entry("F32", [5], 0, 16), r"of 16 bytes, expected 20 for F32 \[5\]"),
    _one("half a byte", entry("F4", [3], 0, 1), "expected 1.5 for F4", b"\0"),
    _one("outside", entry("F32", [8], 0, 32), "ends at byte .* outside the file"),
    _one("hole at the start", entry("F32", [2], 8, 16), "begins at byte 8 of the data and leaves a gap"),
    _one("bytes after", entry("F32", [2], 0, 8), "has 8 bytes after its last tensor"),
    _safetensors(
        "overlap",
        safetensors_bytes({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}, bytes(24)),
        "tensor 'b' begins at byte 8 of the data and overlaps",
    ),
    _safetensors(
        "hole",
        safetensors_bytes({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12)),
        "tensor 'b' begins at byte 8 of the data and leaves a gap",
    ),
    _safetensors(
        "scale that does not fit",
        safetensors_bytes(
            {"x.weight": entry("F8_E4M3", [2, 4], 0, 8), "x.weight_scale_inv": entry("F32", [3], 8, 20)}, bytes(20)
        ),
        r"'x.weight_scale_inv' of F32 \[3\] does not fit 'x.weight' of F8_E4M3 \[2, 4\]",
    ),
    _safetensors(
        "MXFP4 scales that do not fit",
        safetensors_bytes(
            {"x_blocks": entry("U8", [2, 1, 16], 0, 32), "x_scales": entry("U8", [2, 2], 32, 36)}, bytes(36)
        ),
        r"'x_scales' of U8 \[2, 2\] does not fit 'x_blocks'",
    ),
]

INDEX, SHARD = "model.safetensors.index.json", "model-00001-of-00001.safetensors"


def _index(name: str, index: object, fault: str, file: str = INDEX, **shards: bytes) -> Attack:
    def write(directory: Path) -> Path:
        (directory / INDEX).write_bytes(index if isinstance(index, bytes) else json.dumps(index).encode())
        (directory / SHARD).write_bytes(GOOD_SAFETENSORS)
        for letter, data in shards.items():
            (directory / f"{letter}.safetensors").write_bytes(data)
        return directory

    return Attack("index " + name, write, fault, file)


INDEX_ATTACKS = [
    _index("no JSON", b"{", "the JSON cannot be read"),
    _index("no object", [1], "expected a JSON object"),
    _index("empty", {"weight_map": {}}, "with at least one tensor"),
    _index("tensor twice", b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' occurs twice"),
    _index("number", {"weight_map": {"a": 1}}, "the shard of 'a' is '1'"),
    _index("missing shard", {"weight_map": {"a": "gone.safetensors"}}, "the shard gone.safetensors is missing"),
    _index(
        "tensor not there", {"weight_map": {"a": SHARD, "c": SHARD}}, f"lists the tensor 'c' in {SHARD}, which does not"
    ),
    _index("path upwards", {"weight_map": {"a": "../../etc/x.safetensors"}}, "is not a plain file name"),
    _index("absolute path", {"weight_map": {"a": "/etc/x.safetensors"}}, "is not a plain file name"),
    _index("Windows path", {"weight_map": {"a": "..\\x.safetensors"}}, "is not a plain file name"),
    _index("two lines", {"weight_map": {"a": "x\ny.safetensors"}}, "is not a plain file name"),
    _index(
        "tensor in two shards",
        {"weight_map": {"a": SHARD, "b": "z.safetensors"}},
        f"tensor 'a' is also in {SHARD}",
        "z.safetensors",
        z=GOOD_SAFETENSORS,
    ),
    _index(
        "broken shard", {"weight_map": {"a": SHARD, "b": "z.safetensors"}}, "the file is empty", "z.safetensors", z=b""
    ),
]

ATTACKS = GGUF_ATTACKS + SPLIT_ATTACKS + SAFETENSORS_ATTACKS + INDEX_ATTACKS


def main() -> None:
    for attack in ATTACKS:
        directory = Path(sys.argv[1]) / attack.name.replace(" ", "-").replace("^", "")
        directory.mkdir(parents=True)
        print(attack.write(directory))


if __name__ == "__main__":
    main()
