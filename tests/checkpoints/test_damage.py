"""Damage that a look at every value shows, and files that are no files or change while they are read."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.executors.packing import HALVES, random_rows

from trilens.checkpoints import sound
from trilens.checkpoints.find import find
from trilens.checkpoints.gguf import read_gguf
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import open_model, read_spec
from trilens.errors import BadCheckpoint, TrilensError
from trilens.executors.native.matrices import native_types
from trilens.files import read_json_object

Directory = Callable[[str], Path]
EXECUTORS = {"native": native_executor, "torch": torch_executor}
FAULTS: dict[str, Callable[[torch.Tensor], object]] = {
    "nan": lambda t: t.view(-1)[-1].fill_(float("nan")),
    "inf": lambda t: t.view(-1)[t.numel() // 2].fill_(float("inf")),
    "minus inf": lambda t: t.view(-1)[0].fill_(-float("inf")),
    "all nan": lambda t: t.fill_(float("nan")),
    "zero": lambda t: t.zero_(),
}


def kinds(tensors: dict[str, torch.Tensor]) -> list[str]:
    """One tensor of each kind: names without their numbers."""
    found: dict[str, str] = {}
    for name in tensors:
        found.setdefault(re.sub(r"\d+", "N", name), name)
    return list(found.values())


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])  # of the faults; others in each family
@pytest.mark.parametrize("family", ["llama with biases", "qwen3 moe", "deepseek v3", "gpt-oss", "gemma 3 (text)"])
def test_every_kind_of_tensor_with_every_kind_of_damage(
    family: str, every: int, tiny_directory: Directory, tmp_path: Path
) -> None:
    source = tiny_directory(family)
    for file in source.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).symlink_to(file)
    good = load_file(source / "model.safetensors")
    path, tried = tmp_path / "model.safetensors", 0
    for i, name in enumerate(kinds(good)):
        for j, (fault, damage) in enumerate(FAULTS.items()):
            if ((i + j) // 2 + len(family)) % every:
                continue
            # a norm that is stored as its distance from one may be zero; so may what is added
            if fault == "zero" and (
                good[name].abs().max() == 0 or "bias" in name or "sinks" in name or good[name].ndim == 1
            ):
                continue
            tensors = {**good, name: good[name].clone()}
            damage(tensors[name])
            save_file(tensors, path, metadata={"format": "pt"})
            run = list(EXECUTORS.values())[(i + j) % 2]
            with pytest.raises(BadCheckpoint) as problem:
                run(open_model(find(str(tmp_path))))
            said = str(problem.value)
            assert said.startswith(str(path)) and repr(name) in said and "\n" not in said, (name, fault)
            assert ("is zero everywhere" if fault == "zero" else "not finite") in said, (name, fault)
            tried += 1
    assert tried > 30 // every


@pytest.mark.parametrize("run", EXECUTORS.values(), ids=EXECUTORS)
def test_last_hundred_kilobytes_zeroed(run: Callable[..., object], tiny_directory: Directory, tmp_path: Path) -> None:
    """What a download that stopped leaves: the last tensors of the file are zero."""
    source = tiny_directory("llama 2")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-100_000] + bytes(100_000))
    with pytest.raises(BadCheckpoint, match="is zero everywhere") as problem:
        run(open_model(find(str(tmp_path))))
    assert str(path) in str(problem.value)


@pytest.mark.parametrize("kind", sorted(native_types()))
def test_every_scale_of_every_type(kind: str) -> None:
    rows = random_rows(kind, 8, 512).reshape(8, -1)
    assert sound.fault_of_blocks(rows, kind) is None
    block, size = native_types()[kind]
    halves = {"F16": (0,), **HALVES}.get(kind, ())
    bad_values: list[tuple[int, bytes]] = [
        (at, np.float16(v).tobytes()) for at in halves for v in (np.nan, -np.nan, np.inf, -np.inf)
    ]
    if kind == "F32":
        bad_values = [(0, np.float32(v).tobytes()) for v in (np.nan, np.inf, -np.inf)]
    elif kind == "BF16":
        bad_values = [(0, bytes.fromhex(v)) for v in ("807f", "80ff", "c07f")]
    elif kind == "MXFP4":
        bad_values = [(0, b"\xff")]
    elif kind == "NVFP4":
        bad_values = [(0, np.float32(v).tobytes()) for v in (np.nan, np.inf)] + [(4, b"\x7f"), (5, b"\xff")]
    elif kind == "F8_E4M3":
        bad_values = [(0, np.float32(v).tobytes()) for v in (np.nan, np.inf)] + [(4, b"\x7f"), (35, b"\xff")]
    elif kind == "IQ1_M":
        bad_values = [(54, b"\x00\x70"), (54, b"\x00\xf0")]  # with 0xc in the word before it
        rows.reshape(8, -1, size)[:, :, 53] |= 0xC0
        assert sound.fault_of_blocks(rows, kind) is None
    assert bad_values
    for number, (at, value) in enumerate(bad_values):
        damaged = rows.copy()
        place = (number * 37 + 5) % (512 // block) * size + at
        damaged[7 - number % 8, place : place + len(value)] = np.frombuffer(value, np.uint8)
        assert sound.fault_of_blocks(damaged, kind) == sound.NOT_FINITE


def test_largest_finite_values_are_sound() -> None:
    for values, kind in ((np.finfo(np.float16), "F16"), (np.finfo(np.float32), "F32")):
        extremes = np.array([[values.max, values.min, values.tiny, 0]], values.dtype)
        assert sound.fault_of_blocks(extremes.view(np.uint8), kind) is None


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("what", ["pipe", "directory", "loop", "device", "socket", "empty"])
def test_files_that_are_no_files(file: str, what: str, tiny_directory: Directory, tmp_path: Path) -> None:
    for other in tiny_directory("llama 2").iterdir():
        if other.name != file:
            (tmp_path / other.name).symlink_to(other)
    odd = tmp_path / file
    match what:
        case "pipe":
            os.mkfifo(odd)
        case "directory":
            odd.mkdir()
        case "loop":
            odd.symlink_to(odd)
        case "device":
            odd.symlink_to("/dev/zero")
        case "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(odd))
        case "empty":
            odd.write_bytes(b"")
    ended = refusals(lambda: open_model(find(str(tmp_path))), lambda: read_spec(find(str(tmp_path), only_small=True)))
    assert len(ended) == 2 if file == "config.json" else 1


def refusals(*calls: Callable[[], object]) -> list[str]:
    """What the calls were refused with. Each has ten seconds, and a refusal is the only error."""
    said: list[str] = []
    wrong: list[Exception] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except TrilensError as problem:
            said.append(str(problem))
        except Exception as problem:
            wrong.append(problem)

    for call in calls:
        thread = threading.Thread(target=run, args=(call,), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "it waits"
    assert not wrong and all("\n" not in line for line in said)
    return said


@pytest.mark.parametrize("run", EXECUTORS.values(), ids=EXECUTORS)
@pytest.mark.parametrize("left", [0, 1, 1000, -1])
def test_a_file_cut_while_it_is_loaded(
    left: int, run: Callable[..., object], tiny_directory: Directory, tmp_path: Path
) -> None:
    for file in tiny_directory("llama 2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    files = open_model(find(str(tmp_path)))
    path = tmp_path / "model.safetensors"
    os.truncate(path, left % path.stat().st_size)
    with pytest.raises(BadCheckpoint, match="was truncated while it was being read"):
        run(files)


def test_gguf_vocabulary_cut_behind_its_header(tmp_path: Path, smollm2: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(smollm2.read_bytes())
    file = read_gguf(path)
    os.truncate(path, 5000)
    with pytest.raises(BadCheckpoint, match=r"m\.gguf: was truncated"):
        list(file.metadata["tokenizer.ggml.tokens"])


def test_damaged_scale_in_a_real_file(tmp_path: Path, smollm2: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(smollm2.read_bytes())
    tensor = next(t for t in read_gguf(path).tensors.values() if t.type == "Q4_1")
    with path.open("r+b") as file:
        file.seek(tensor.offset + 20 * 33 + 2)
        file.write(b"\x00\x7c")  # infinity
    with pytest.raises(BadCheckpoint, match="not finite") as problem:
        native_executor(open_model(find(str(path))))
    assert repr(tensor.name) in str(problem.value) and str(path) in str(problem.value)


@pytest.mark.parametrize("depth", [900, 10_000, 1_000_000])
@pytest.mark.parametrize("open_, close", [("[", "]"), ('{"a":', "}")])
def test_deeply_nested_json(depth: int, open_: str, close: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"x":' + open_ * depth + "1" + close * depth + "}")
    said = refusals(lambda: read_json_object(path), lambda: read_spec(find(str(path))))
    assert len(said) >= 1 and all(line.startswith(str(path)) for line in said)


def test_a_file_longer_than_a_small_file_may_be(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10**12)
    assert "expected at most" in refusals(lambda: read_spec(find(str(path))))[0]
