"""Shared by all tests: tiny models on disk, loaded once a session."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OLLAMA_MODELS", "/nonexistent")  # models of this machine's other programs are none of ours
os.environ.setdefault("LLAMA_CACHE", "/nonexistent")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["TRILENS_LEDGER"] = "/nowhere/ledger.db"  # tests write nothing into the user's own

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.families import saved
from trilens.checkpoints.find import find
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.executors.torch import TorchExecutor
from trilens.lenses.costs import calibration
from trilens.text.tokenizer import Tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's name -> the directory of its tiny model."""

    @cache
    def directory(name: str) -> Path:
        return saved(name, tmp_path_factory.mktemp(name.replace(" ", "-").replace(",", "")))

    return directory


@pytest.fixture(scope="session")
def tiny_executor(tiny_directory: Callable[[str], Path]) -> Callable[[str], TorchExecutor]:
    """A family's name -> its tiny model, read from disk by trilens, on the torch executor."""

    @cache
    def executor(name: str) -> TorchExecutor:
        files: ModelFiles = open_model(find(str(tiny_directory(name))))
        return torch_executor(files)

    return executor


@pytest.fixture(scope="session", autouse=True)
def _own_calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests teach the predictor goes nowhere near the user's file."""
    usual, own = calibration._path, tmp_path_factory.mktemp("calibrations") / "calibration.json"
    calibration._path = lambda: usual() if "TRILENS_CACHE" in os.environ else own
    yield
    calibration._path = usual


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct file; fetched once into the cache."""
    return find("smollm2").path


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """Of the small models that come with trilens: digits alone, every byte, few words."""
    return Tokenizer.from_directory(find("tiny-dense").path)
