"""Shared by all tests: tiny models on disk, loaded once a session."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OLLAMA_MODELS", "/nonexistent")  # models of this machine's other programs are none of ours
os.environ.setdefault("LLAMA_CACHE", "/nonexistent")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch, in children too: each worker has a core of its own
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy
os.environ["TRILENS_LEDGER"] = "/nowhere/ledger.db"  # tests write nothing into the user's own

import gc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trilens.checkpoints.find import find
from trilens.lenses.costs import calibration

if TYPE_CHECKING:  # the process that only hands out tests to workers needs neither torch nor transformers
    from trilens.executors.torch import TorchExecutor
    from trilens.text.tokenizer import Tokenizer

gc.disable()  # until all is collected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a directory, the tests of one tiny model come one after another, so that few workers make it."""

    def place(item: pytest.Item) -> tuple[str, str]:
        call = getattr(item, "callspec", None)
        tiny = call is not None and "tiny_directory" in getattr(item, "fixturenames", ())
        return str(item.path.parent), str(call.params.get("name", "")) if tiny else ""

    places: dict[tuple[str, str], int] = {}
    for item in items:
        at = place(item)
        places.setdefault((at[0], ""), len(places))
        places.setdefault(at, len(places))
    items.sort(key=lambda item: places[place(item)])


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no search for garbage has to go through it."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _certificates_read_once() -> Iterator[None]:
    """Each HTTP client reads all of the system's certificates, which takes longer than what most tests ask."""
    import ssl

    import httpcore2

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((ssl, "create_default_context"), (httpcore2, "default_ssl_context")):
            patch.setattr(module, name, cache(getattr(module, name)))
        yield


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's name -> the directory of its tiny model."""

    from tests.families import saved

    @cache
    def directory(name: str) -> Path:
        return saved(name, tmp_path_factory.mktemp(name.replace(" ", "-").replace(",", "")))

    return directory


@pytest.fixture(scope="session")
def tiny_executor(tiny_directory: Callable[[str], Path]) -> Callable[[str], TorchExecutor]:
    """A family's name -> its tiny model, read from disk by trilens, on the torch executor."""

    from trilens.checkpoints.into_torch import torch_executor
    from trilens.checkpoints.load import open_model

    @cache
    def executor(name: str) -> TorchExecutor:
        return torch_executor(open_model(find(str(tiny_directory(name)))))

    return executor


@pytest.fixture(scope="session", autouse=True)
def _own_calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests teach the predictor goes nowhere near the user's file."""
    usual, own = calibration._path, tmp_path_factory.mktemp("calibrations") / "calibration.json"
    calibration._path = lambda: usual() if "TRILENS_CACHE" in os.environ else own
    yield
    calibration._path = usual


@pytest.fixture
def measured_roughly(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_roughly(monkeypatch)


def measure_roughly(patch: pytest.MonkeyPatch) -> None:
    """This machine is measured as ever, but with few repetitions, with less that comes from memory, and without a look
    at what else runs: so it is measured once."""
    from trilens.lenses.machines import machine, made_up, rates

    def settle(threads: int, seconds: float = 0.0) -> float:
        return 1.0

    for module, values in (
        (machine, {"READ_BYTES": 16 << 20, "USUAL_LAYOUTS": ("Q4_K",), "AGREE": 1.0, "cache_bytes": lambda: 4 << 20}),
        (made_up, {"ROUNDS": 2, "PROMPT_ROUNDS": 1, "LONG_ENOUGH": 0.0, "MOST_STREAMED": 16 << 20, "settle": settle}),
        (rates, {"settle": settle}),
    ):
        for name, value in values.items():
            patch.setattr(module, name, value)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct file; fetched once into the cache."""
    return find("smollm2").path


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """Of the small models that come with trilens: digits alone, every byte, few words."""
    from trilens.text.tokenizer import Tokenizer

    return Tokenizer.from_directory(find("tiny-dense").path)
