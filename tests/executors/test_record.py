"""The bet: the recorded program says everything. A toy in plain C replays it to the torch executor's logits."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.executors.tiny import MODELS, VOCAB, random_tensors
from trilens.executors.executor import StepInput
from trilens.executors.native.encode import encode
from trilens.executors.native.program import Op, Program, share_buffers
from trilens.executors.native.record import record
from trilens.executors.torch import TorchExecutor
from trilens.spec.model import ModelSpec
from trilens.spec.rope import rope_table

LENGTH, PREFILL = 24, 13


class CParameter(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("rows", ctypes.c_int), ("cols", ctypes.c_int), ("size", ctypes.c_int)]


class CCache(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("kv_heads", "key_dim", "value_dim", "latent")] + [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    ]


class CRope(ctypes.Structure):
    _fields_ = [("frequencies", ctypes.c_void_p), ("factor", ctypes.c_float)]


class CPositionScale(ctypes.Structure):
    _fields_ = [("beta", ctypes.c_float), ("period", ctypes.c_float), ("offset", ctypes.c_float)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "these tests compile a small C file: install a C compiler (on Debian: apt install gcc)"
    library = tmp_path_factory.mktemp("toy") / "toy_replay.so"
    source = Path(__file__).with_name("toy_replay.c")
    flags = ["-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Werror"]
    subprocess.run([compiler, *flags, "-o", library, source, "-lm"], check=True)
    return ctypes.CDLL(str(library))


class Toy:
    """One sequence, replayed by the C program."""

    def __init__(self, library: ctypes.CDLL, spec: ModelSpec, program: Program, tensors: dict[str, torch.Tensor]):
        self.library, self.program, self.encoded, self.past = library, program, encode(program), 0
        self.kept: list[np.ndarray] = []
        self.buffers = [np.zeros((LENGTH, w), np.float32) for w in program.widths]
        self.pointers = (ctypes.c_void_p * len(self.buffers))(*[b.ctypes.data for b in self.buffers])
        self.parameters = (CParameter * len(self.encoded.parameters))(
            *[
                CParameter(self.keep(tensors[p.name].numpy()), *((1, *p.shape)[-2:]), p.size)
                for p in self.encoded.parameters
            ]
        )
        self.caches = (CCache * len(program.caches))(
            *[
                CCache(
                    c.kv_heads,
                    c.key_dim,
                    c.value_dim,
                    c.latent,
                    self.keep(np.zeros((LENGTH, c.kv_heads * c.key_dim), np.float32)),
                    self.keep(np.zeros((LENGTH, c.kv_heads * c.value_dim), np.float32)),
                )
                for c in program.caches
            ]
        )
        self.rows = (ctypes.c_void_p * max(1, len(program.fixed)))(
            *[self.keep(np.zeros(tensor.shape, np.float32)) for tensor in program.fixed]
        )
        tables = [rope_table(r, LENGTH) for r in program.ropes]
        self.ropes = (CRope * max(1, len(tables)))(
            *[CRope(self.keep(np.array(t.frequencies, np.float32)), t.factor) for t in tables]
        )
        self.scales = (CPositionScale * max(1, len(program.position_scales)))(
            *[CPositionScale(s.beta, s.period, s.offset) for s in program.position_scales]
        )

    def keep(self, array: np.ndarray) -> int:
        self.kept.append(array)
        return array.ctypes.data

    def step(self, tokens: list[int]) -> np.ndarray:
        numbers = np.array(tokens, np.int32)
        self.library.replay(
            self.encoded.integers.ctypes.data_as(ctypes.c_void_p),
            self.encoded.numbers.ctypes.data_as(ctypes.c_void_p),
            len(self.program.instructions),
            self.parameters,
            self.pointers,
            self.caches,
            self.rows,
            self.ropes,
            self.scales,
            numbers.ctypes.data_as(ctypes.c_void_p),
            len(tokens),
            self.past,
        )
        self.past += len(tokens)
        return self.buffers[self.program.logits].reshape(-1)[: len(tokens) * VOCAB].reshape(-1, VOCAB).copy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shared", [False, True], ids=["own buffers", "shared buffers"])
def test_a_replay_of_the_program_gives_the_torch_executors_logits(toy: ctypes.CDLL, name: str, shared: bool) -> None:
    spec = MODELS[name]()
    tensors = random_tensors(spec)
    executor = TorchExecutor(spec, tensors)
    tokens = torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()
    sequence = executor.sequence(LENGTH)
    with torch.inference_mode():
        expected = torch.cat(
            [executor.forward([StepInput(sequence, tokens[:PREFILL])], every_row=True)]
            + [executor.forward([StepInput(sequence, [t])], every_row=True) for t in tokens[PREFILL:]]
        ).numpy()
    program = record(spec)
    program = share_buffers(program) if shared else program
    replays = []
    for _ in range(2):
        replay = Toy(toy, spec, program, tensors)
        replays.append(np.concatenate([replay.step(tokens[:PREFILL])] + [replay.step([t]) for t in tokens[PREFILL:]]))
    assert np.array_equal(replays[0], replays[1])
    # squares and carried states multiply what float32 rounds off
    assert np.abs(replays[0] - expected).max() < (1e-4 if name in ("recurrent", "streamed") else 1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_shared_buffers_hold_one_value_at_a_time(name: str) -> None:
    values, shared = record(MODELS[name]()), share_buffers(record(MODELS[name]()))
    holds: dict[int, int] = {}
    for before, after in zip(values.instructions, shared.instructions, strict=True):
        assert not set(after.outputs) & set(after.inputs)
        for value, buffer in zip(before.inputs, after.inputs, strict=True):
            assert holds[buffer] == value
        for value, buffer in zip(before.outputs, after.outputs, strict=True):
            holds[buffer] = value
            assert shared.widths[buffer] >= values.widths[value]
    assert holds[shared.logits] == values.logits
    assert len(shared.widths) < 16


def test_the_tiny_models_use_the_whole_vocabulary() -> None:
    used = {ins.op for make in MODELS.values() for ins in record(make()).instructions}
    assert used == set(Op) - {Op.LINEARS, Op.GLU_LINEAR, Op.GIVEN}  # made afterwards, and of the block that predicts


def test_only_the_head_runs_on_the_wanted_rows() -> None:
    program = record(MODELS["plain"]())
    first = next(i for i, ins in enumerate(program.instructions) if ins.op is Op.LAST_ROWS)
    assert all(ins.wanted for ins in program.instructions[first:])
    assert not any(ins.wanted for ins in program.instructions[:first])
