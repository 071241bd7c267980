"""The packed form in the cache: the same bits as without it, and no damage to it goes unseen."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checkpoints.coded_files import BY_NAME as FORMS
from tests.checkpoints.test_coded import ONE_OF_EACH, quantised_model
from tests.checkpoints.test_kept_size import KEPT, model_of
from tests.executors.packing import random_rows
from tests.families import FAMILIES, prompt
from tests.grids import in_turn
from tests.lora import lora
from tests.prediction import saved_with_block

from trilens import load
from trilens.checkpoints import gguf, packed
from trilens.checkpoints.find import PACKAGE, find
from trilens.checkpoints.into_native import native_executor, to_blocks
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.checkpoints.packed import PACKING, Unusable, kept_forms, packed_form
from trilens.cli import main
from trilens.errors import BadCheckpoint, UsageError
from trilens.executors.executor import StepInput
from trilens.executors.native import _native
from trilens.executors.native.executor import NativeExecutor
from trilens.executors.native.matrices import native_types

TRAINED = Path(__file__).parents[1] / "data" / "tiny-hybrid"
QUANTISED = (None, "8bit", "4bit")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRILENS_CACHE", str(directory))
    monkeypatch.setattr(packed, "PIECE", 10_000)  # several to a matrix, none of them a whole number of pages
    monkeypatch.setattr(packed, "WRITTEN", 16_384)
    monkeypatch.setattr(packed, "SETTLED", 0.02)  # seconds; every test begins with files that have just been written
    return directory


def started(files: ModelFiles, quantise: str | None = None, **options: Any) -> tuple[NativeExecutor, bool]:
    """An executor that keeps the packed form, and whether it had one."""
    form = packed_form(files, quantise)
    opened = form.open(2)
    executor = native_executor(files, None, quantise, packed=form, opened=opened, threads=2, **options)
    return executor, bool(executor._packed) and all(e.in_file(p) for e, p in executor._packed.values())


def logits(executor: NativeExecutor, length: int = 10) -> np.ndarray:
    tokens = [token % executor.spec.vocab for token in prompt(length)]
    return executor.step([StepInput(executor.sequence(length), tokens)], every_row=True)


def alike(directory: Path, quantise: str | None = None, prediction: bool = False, **options: Any) -> NativeExecutor:
    """Checks that what a start without, a first and a second start with the packed form hold and compute is equal."""
    plain = native_executor(open_model(find(str(directory)), (), prediction), None, quantise, threads=2, **options)
    first, had = started(open_model(find(str(directory)), (), prediction), quantise, **options)
    assert not had
    second, had = started(open_model(find(str(directory)), (), prediction), quantise, **options)
    assert had
    for name in plain._packed:
        assert np.array_equal(plain.packed(name), second.packed(name)), name
    for other in (first, second):
        assert other.types == plain.types and other.converted == plain.converted
        assert other.weight_bytes == plain.weight_bytes and other._bytes == plain._bytes
        assert other.costs.weight_bytes(3, 1) == plain.costs.weight_bytes(3, 1)
        assert np.array_equal(logits(other), logits(plain))
    return second


# ----------------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize(("kind", "kernels"), in_turn(KEPT, _native.instruction_sets()))
def test_every_type_of_a_gguf_file(kind: str, kernels: str, tmp_path: Path) -> None:
    alike(model_of(kind, tmp_path / "m.gguf"), kernels=kernels)


@pytest.mark.parametrize(("name", "quantise"), in_turn([family.name for family in FAMILIES], QUANTISED, 6))
def test_every_family(name: str, quantise: str | None, tiny_directory: Callable[[str], Path]) -> None:
    alike(tiny_directory(name), quantise)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_kind_of_quantised_safetensors(name: str, tmp_path: Path) -> None:
    quantised_model(FORMS[name], tmp_path)[0].checkpoint.close()
    alike(tmp_path)


@pytest.mark.parametrize("name", ["qwen3-next", "deepseek v3"])
def test_a_block_that_predicts(name: str, tmp_path: Path) -> None:
    """Its matrices are in the file too; without it, the form is another file."""
    saved_with_block(name, tmp_path)
    executor = alike(tmp_path, prediction=True)
    assert executor.prediction is not None and any(name.startswith("prediction.") for name in executor._packed)
    alike(tmp_path)
    assert len(list(kept_forms())) == 2


@pytest.mark.parametrize("prediction_block", [False, True])
def test_answers_with_drafts_and_adapters(prediction_block: bool, tmp_path: Path) -> None:
    """Two requests at once, on two steppers that share the mapped weights."""
    tensors = open_model(find(str(TRAINED))).checkpoint.tensors
    names = [name for name in tensors if name.startswith("model.") and "self_attn.o_proj" in name]
    shapes = {name.removesuffix(".weight"): (tensors[name].shape[0], tensors[name].shape[1]) for name in names}
    adapter = lora(shapes).save(tmp_path / "poet")
    options: dict[str, Any] = {"prediction_block": prediction_block, "adapters": {"poet": adapter}, "threads": 2}
    said = []
    for keep in (False, True, True):
        with load(str(TRAINED), keep_packed=keep, **options) as model:
            for chosen in (None, "poet"):
                answers = model.generate(["ab ab ab", "the sum of"], raw=True, max_tokens=24, adapter=chosen, seed=3)
                said.append([(a.text, a.receipt.replay, a.receipt.tokens) for a in answers])
    assert said[:2] == said[2:4] == said[4:]
    assert len(list(kept_forms())) == 1  # adapters are not in it


# ---------------------------------------------------------------------------------------- another state, other options


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # of the last tensor's values
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a hostile copy would


@pytest.mark.parametrize("how", ["changed", "replaced", "touched"])
def test_a_changed_file_is_packed_again(how: str, tmp_path: Path) -> None:
    path = model_of("Q8_0", tmp_path / "m.gguf")
    started(open_model(find(str(path))))
    if how == "changed":
        changed(path)
    elif how == "replaced":
        model_of("Q4_0", path)
    else:
        os.utime(path)
    executor, had = started(open_model(find(str(path))))
    assert not had
    assert np.array_equal(logits(executor), logits(native_executor(open_model(find(str(path))), threads=2)))
    assert started(open_model(find(str(path))))[1]
    assert len(list(kept_forms())) == 1  # in place of the other


def test_a_changed_configuration_is_another_model(tiny_directory: Callable[[str], Path], tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_directory("qwen3"), tmp_path / "m")
    started(open_model(find(str(directory))))
    config = directory / "config.json"
    config.write_text(config.read_text() + "\n")
    assert not started(open_model(find(str(directory))))[1]


def test_each_way_to_quantise_has_its_own(tiny_directory: Callable[[str], Path]) -> None:
    files = [open_model(find(str(tiny_directory("qwen3")))) for _ in range(6)]
    assert [started(f, q)[1] for f, q in zip(files, QUANTISED * 2, strict=True)] == [False] * 3 + [True] * 3
    assert len(list(kept_forms())) == 3


def test_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_of("Q8_0", tmp_path / "m.gguf")
    started(open_model(find(str(path))))
    monkeypatch.setattr(packed, "PACKING", PACKING + 1)
    assert not started(open_model(find(str(path))))[1]
    monkeypatch.setattr(packed, "__version__", "another")
    assert not started(open_model(find(str(path))))[1]
    assert started(open_model(find(str(path))))[1]


def test_a_file_that_is_replaced_after_it_was_opened(tmp_path: Path) -> None:
    """What was read is of the old file, and must not be kept as the new one's."""
    path = model_of("Q8_0", tmp_path / "m.gguf")
    files = open_model(find(str(path)))
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    new.replace(path)
    with pytest.raises(BadCheckpoint, match="was replaced while it was being read; start again"):
        packed_form(files)


def test_a_file_that_changes_while_it_is_packed_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = model_of("Q8_0", tmp_path / "m.gguf")
    native_executor(
        open_model(find(str(path))),
        lambda done, total: os.utime(path),
        packed=packed_form(files := open_model(find(str(path)))),
    )
    files.checkpoint.close()
    assert not list(kept_forms()) and "changed meanwhile" in caplog.text


GOLDEN = "a1dcb0b4b912f6ca"


def test_what_is_packed_has_this_number() -> None:
    """If this fails, the bytes of packed matrices have changed: raise PACKING in checkpoints/packed.py, and write the
    new number here, or files of an earlier state of trilens would be used."""
    numbers = [PACKING]
    for kind in sorted(native_types()):
        rows, columns = 19, 512
        out = np.empty(_native.packed_bytes(kind, 1, rows, columns), np.uint8)
        _native.packed(kind, np.ascontiguousarray(random_rows(kind, rows, columns)), out, columns)
        numbers.append(_native.checksum(out))
    values = np.random.default_rng(0).standard_normal((19, 512), np.float32)
    numbers += [_native.checksum(to_blocks(values, kind).reshape(-1)) for kind in ("Q8_0", "Q4_1", "F16")]
    assert f"{_native.checksum(np.array(numbers, np.uint64).view(np.uint8)):016x}" == GOLDEN


# ------------------------------------------------------------------------------------------------------------- damage


def damages(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Ways in which the file can be wrong."""
    size = len(data)

    def put(at: int, new: bytes) -> bytes:
        return data[:at] + new + data[at + len(new) :]

    for _ in range(25):
        at = rng.randrange(size)
        yield f"byte {at}", put(at, bytes([data[at] ^ 1 << rng.randrange(8)]))
    for at in (0, 5, 20, 60, size - 1, size - 40):
        yield f"byte {at}", put(at, bytes([data[at] ^ 0x10]))
    for left in (0, 1, 17, 4096, size - 1, size - 32, *(rng.randrange(size) for _ in range(3))):
        yield f"cut to {left}", data[:left]
    for more in (b"\0", b"trilens", data):
        yield f"{len(more)} more", data + more
    for _ in range(4):
        at = rng.randrange(size // 4096) * 4096
        if any(data[at : at + 4096]):
            yield f"zeros at {at}", put(at, bytes(4096))
        one, other = (rng.randrange(4096, size - 9000) for _ in range(2))
        a, b = data[one : one + 4096], data[other : other + 4096]
        if a != b and abs(one - other) >= 4096:
            swapped = bytearray(data)
            swapped[one : one + 4096], swapped[other : other + 4096] = b, a
            yield f"{one} and {other} swapped", bytes(swapped)
    yield "another version", data.replace(b"trilens packed 1", b"trilens packed 2", 1)
    yield "zeros everywhere", bytes(size)
    yield "noise", rng.randbytes(size)


@pytest.mark.parametrize("kind", ["Q4_0", "F16"])
def test_no_damage_goes_unseen(kind: str, tmp_path: Path) -> None:
    """Whatever is wrong, the model is packed again, computes the same, and the file is as it was."""
    source = model_of(kind, tmp_path / "m.gguf")
    right = logits(started(open_model(find(str(source))))[0])
    path = packed_form(open_model(find(str(source)))).path
    data = path.read_bytes()
    for what, damaged in damages(data, random.Random(kind)):
        assert damaged != data
        path.write_bytes(damaged)
        executor, had = started(open_model(find(str(source))))
        assert not had, what
        assert np.array_equal(logits(executor), right), what
        assert path.read_bytes() == data, what


def test_damage_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = model_of("Q4_0", tmp_path / "m.gguf")
    started(open_model(find(str(source))))
    path = packed_form(open_model(find(str(source)))).path
    for what, said in ((-5000, "1 of its"), (-1, "checksums are damaged")):
        data = bytearray(path.read_bytes())
        data[what] ^= 1
        path.write_bytes(data)
        caplog.clear()
        started(open_model(find(str(source))))
        [line] = [record.getMessage() for record in caplog.records]
        assert str(path) in line and said in line and "packed again" in line
    path.unlink()
    path.mkdir()
    assert not started(open_model(find(str(source))))[1]  # cannot be written either, and it runs


def test_two_that_write_at_once(tmp_path: Path) -> None:
    source = model_of("Q4_0", tmp_path / "m.gguf")
    threads = [threading.Thread(target=started, args=[open_model(find(str(source)))]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started(open_model(find(str(source))))[1]
    assert [path.suffix for path in packed.packed_dir().iterdir()] == [".packed"]


# --------------------------------------------------------------------------------------------------------- not written


def fails(number: int) -> Callable[..., None]:
    def call(*given: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = model_of("Q4_0", tmp_path / "m.gguf")
    for patch in (
        lambda patched: patched.setattr(packed.os, "fsync", fails(errno.ENOSPC)),
        lambda patched: patched.setattr(packed.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1000)),
        lambda patched: patched.setattr(packed.tempfile, "NamedTemporaryFile", fails(errno.EROFS)),
    ):
        caplog.clear()
        with monkeypatch.context() as patched:
            patch(patched)
            executor, had = started(open_model(find(str(source))))
        assert not had and logits(executor).any()
        [line] = [record.getMessage() for record in caplog.records]
        assert "not kept" in line and "\n" not in line
        assert not packed.packed_dir().exists() or not list(packed.packed_dir().iterdir())


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    source = model_of("Q4_0", tmp_path / "m.gguf")
    files = open_model(find(str(source)))
    form, executor = packed_form(files), native_executor(files)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        form.write(executor.packed, interrupt)
    assert not list(packed.packed_dir().iterdir())


def test_half_written_files_are_swept_away(tmp_path: Path) -> None:
    packed.packed_dir().mkdir(parents=True)
    old, young = (packed.packed_dir() / f"{name}.partial" for name in ("old", "young"))
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    started(open_model(find(str(model_of("Q4_0", tmp_path / "m.gguf")))))
    assert young.exists() and not old.exists()


def test_it_needs_the_native_executor() -> None:
    with pytest.raises(UsageError, match="keep_packed"):
        load("tiny-dense", keep_packed=True, executor="torch")
    with pytest.raises(UsageError, match="keep_packed"):
        load("tiny-dense", keep_packed="yes")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ changed while mapped


def cut(path: Path, left: int) -> None:
    os.truncate(path, left)


def written_to(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"x")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("change", [cut, written_to])
@pytest.mark.parametrize("prediction_block", [False, True])
def test_a_file_that_changes_while_it_is_mapped(
    change: Callable[[Path, int], None], share: float, prediction_block: bool
) -> None:
    """Every call fails with one line, and a new start is sound again."""
    options: dict[str, Any] = {"keep_packed": True, "prediction_block": prediction_block}
    ask: dict[str, Any] = {"raw": True, "max_tokens": 8, "temperature": 0}
    right = load(str(TRAINED), **options).generate("ab ab", **ask).text
    model = load(str(TRAINED), **options)
    path = next(kept_forms()).path
    assert model.generate("ab ab", **ask).text == right
    change(path, int(path.stat().st_size * share))
    for _ in range(2):
        with pytest.raises(BadCheckpoint, match=f"{path}: was changed while it was in use; load the model again"):
            model.generate("ab ab", **ask)
    again = load(str(TRAINED), **options)
    assert again.generate("ab ab", **ask).text == right
    assert load(str(TRAINED), **options).executor.engine.in_file(0)  # type: ignore[attr-defined]


def test_a_new_file_in_its_place_changes_nothing(tmp_path: Path) -> None:
    """As other processes write it, or `trilens rm` removes it."""
    source = model_of("Q4_0", tmp_path / "m.gguf")
    started(open_model(find(str(source))))
    executor, had = started(open_model(find(str(source))))
    right = logits(executor)
    path = next(kept_forms()).path
    path.with_suffix(".new").write_bytes(b"something else")
    path.with_suffix(".new").replace(path)
    assert had and np.array_equal(logits(executor), right)
    path.unlink()
    assert np.array_equal(logits(executor), right)


def test_a_file_that_is_cut_before_it_is_checked(tmp_path: Path) -> None:
    source = model_of("Q4_0", tmp_path / "m.gguf")
    started(open_model(find(str(source))))
    form = packed_form(open_model(find(str(source))))
    with form.path.open("rb") as file:
        mapped = _native.MappedFile(file.fileno(), form.bytes, str(form.path))
    os.truncate(form.path, 5000)
    opened = packed.OpenedForm(mapped, form._matrices, form._cuts, bytes(8 * (len(form._cuts) - 1)), 2)
    with pytest.raises(Unusable, match="was changed"):
        opened.checked()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_checks_all_of_it(threads: int, tmp_path: Path) -> None:
    source = model_of("Q4_0", tmp_path / "m.gguf")
    started(open_model(find(str(source))))
    form = packed_form(open_model(find(str(source))))
    opened = form.open(threads)
    assert opened is not None
    opened.checked()
    data = np.fromfile(form.path, np.uint8)
    assert opened._checksums.sums() == [_native.checksum(data[a:b]) for a, b in itertools.pairwise(form._cuts)]
    damaged = bytearray(data)
    damaged[form._cuts[-1] // 2] ^= 1
    form.path.write_bytes(damaged)
    opened = form.open(threads)
    assert opened is not None
    with pytest.raises(Unusable, match="checksums of 1 of its"):
        opened.checked()


def test_pieces_outside_of_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    with path.open("rb") as file:
        mapped = _native.MappedFile(file.fileno(), 100, str(path))
    for cuts in ([0, 101], [50, 0]):
        with pytest.raises(_native.Refused, match="do not lie in the file"):
            _native.Checksums(mapped, cuts)


def test_a_start_reads_the_header_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    once = gguf._read_part
    monkeypatch.setattr(gguf, "_read_part", lambda path: read.append(path) or once(path))
    model = load("smollm2", keep_packed=True, threads=2)
    assert read == [model.files.found.path]
    model.close()


ORDER = """
import sys
from trilens.checkpoints.packed import PackedForm
open_form = PackedForm.open
def opened(form, threads):
    print("check", *sys.modules)
    return open_form(form, threads)
PackedForm.open = opened
kept, path = sys.argv[1:]
if kept == "command":
    from trilens.cli import main
    assert main(["run", "hi", "--raw", "--model", path, "--keep-packed", "--max-tokens", "1"]) == 0
else:
    import trilens
    model = trilens.load(path, keep_packed=True)
    stream = iter(model.stream("hi", raw=True, max_tokens=1, min_tokens=1))
    next(stream)
    print("first", *sys.modules)
    next(stream)
    print("last", *sys.modules)
"""


def modules(how: str, path: Path) -> dict[str, set[str]]:
    """What is imported when the packed form's check begins, behind the first event and behind the last."""
    done = subprocess.run([sys.executable, "-c", ORDER, how, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines() if line.startswith(("check ", "first ", "last "))]
    return {moment: set(names) for moment, *names in found}


@pytest.mark.parametrize("how", ["command", "library"])
def test_the_check_begins_before_what_only_an_answer_needs_is_imported(how: str) -> None:
    imported = modules(how, PACKAGE / "models" / "tiny-dense")
    later = {"numpy", "tokenizers", "jinja2", "sqlite3", "trilens.model", "trilens.spec.catalog"}
    later |= {"trilens.text.model_text", "trilens.generate.scheduler", "trilens.executors.native.executor"}
    assert "trilens.checkpoints.load" in imported["check"] and not later & imported["check"]
    if how == "library":
        receipt = {"trilens.lenses.costs.predictor", "trilens.ledger", "sqlite3"}
        assert later - receipt - {"trilens.spec.catalog"} <= imported["first"] and not receipt & imported["first"]
        assert receipt <= imported["last"]


CUT_AT_WORK = """
import os, sys, threading, time
from trilens import load
from trilens.errors import BadCheckpoint
load(sys.argv[1], keep_packed=True)
model = load(sys.argv[1], keep_packed=True)
[name] = [n for n in os.listdir(os.environ["TRILENS_CACHE"] + "/packed")]
path = os.path.join(os.environ["TRILENS_CACHE"], "packed", name)
def cut():
    time.sleep(float(sys.argv[2]))
    os.truncate(path, 8192)
threading.Thread(target=cut).start()
try:
    for _ in range(1000):
        model.generate(["ab ab", "the sum"], raw=True, max_tokens=200, ignore_eos=True, temperature=0)
except BadCheckpoint as problem:
    print(problem)
"""
OWN_FAULT = """
import mmap, os, sys
from trilens import load
models = [load(sys.argv[1], keep_packed=True) for _ in range(2)]
if sys.argv[2] == "faulthandler":
    import faulthandler; faulthandler.enable()
if sys.argv[2] == "sent":
    os.kill(os.getpid(), 7 if sys.platform == "linux" else 10)
with open(sys.argv[3], "w+b") as file:
    file.truncate(8192)
    data = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    print(data[5000])
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("seconds", ["0.01", "0.05", "0.2"])
def test_a_file_that_is_cut_at_work_is_no_signal(seconds: str) -> None:
    done = python(CUT_AT_WORK, str(TRAINED), seconds)
    assert done.returncode == 0 and "was changed while it was in use" in done.stdout, done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="a mapped file cannot be cut here")
@pytest.mark.parametrize("how", ["mapped", "faulthandler", "sent"])
def test_the_signal_of_others_is_theirs(how: str, tmp_path: Path) -> None:
    """What trilens did not map ends the process as ever."""
    assert python(OWN_FAULT, str(TRAINED), how, str(tmp_path / "mine")).returncode == -signal.SIGBUS


# --------------------------------------------------------------------------------------------------------- its checksum


def test_the_checksum_sees_every_bit_and_every_length() -> None:
    rng = np.random.default_rng(1)
    for size in (0, 1, 7, 8, 63, 64, 65, 200, 4097, 9000):
        data = rng.integers(0, 256, size, np.uint8)
        seen = {_native.checksum(data)}
        for bit in range(min(8 * size, 2000)):
            other = data.copy()
            other[bit // 8] ^= 1 << bit % 8
            seen.add(_native.checksum(other))
        seen.update(_native.checksum(np.append(data, np.zeros(more, np.uint8))) for more in (1, 7, 8, 64))
        assert len(seen) == 1 + min(8 * size, 2000) + 4


# ------------------------------------------------------------------------------------------------------- the commands


def test_models_lists_them_and_rm_removes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = model_of("Q4_0", tmp_path / "m.gguf")
    started(open_model(find(str(source))))
    path = next(kept_forms()).path
    assert main(["models", "--json"]) == 0
    [row] = [row for row in json.loads(capsys.readouterr().out) if row["where"] == "packed form"]
    assert (row["name"], row["bytes"], row["path"]) == (f"packed:{source}", path.stat().st_size, str(path))
    assert main(["rm", row["name"]]) == 2 and main(["rm", row["name"], "--yes"]) == 0
    assert source.exists() and not path.exists()


def test_rm_removes_a_model_with_its_packed_form(smollm2: Path, cache: Path) -> None:
    target = cache / "models" / smollm2.parent.name / smollm2.name
    target.parent.mkdir(parents=True)
    shutil.copyfile(smollm2, target)
    started(open_model(find(str(target))))
    path = next(kept_forms()).path
    assert main(["rm", "smollm2", "--yes"]) == 0
    assert not target.exists() and not path.exists()
