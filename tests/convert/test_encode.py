"""Values as blocks of a type: the bytes read back by the gguf package's own code, with the error that llama.cpp has."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from trilens.checkpoints.ggml_types import BY_NAME
from trilens.convert.file_types import FILE_TYPES
from trilens.convert.write_gguf import NATIVE, encode

# Squared error of llama.cpp (ggml 0.25) on these values.
LLAMA_CPP = {
    "Q2_K": {"normal": 4.5978, "heavy tails": 12.293, "all positive": 0.3269},
    "Q3_K": {"normal": 1.1888, "heavy tails": 3.5205, "all positive": 0.2087},
    "Q4_K": {"normal": 0.2668, "heavy tails": 0.77118, "all positive": 0.014865},
    "Q5_K": {"normal": 0.068584, "heavy tails": 0.19853, "all positive": 0.003666},
    "Q6_K": {"normal": 0.016508, "heavy tails": 0.053297, "all positive": 0.0031407},
}
EVERY = (*NATIVE, *sorted({kind.most for kind in FILE_TYPES.values()} - {*NATIVE, "F32"}))


def values(kind: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    match kind:
        case "normal":
            made = rng.standard_normal((64, 2048))
        case "heavy tails":
            made = rng.standard_t(4, (64, 2048))
        case _:
            made = rng.random((64, 2048))
    return (0.02 * made).astype(np.float32)


def read_back(x: np.ndarray, kind: str, threads: int = 1) -> np.ndarray:
    made = encode(x, kind, threads)
    assert made.dtype == np.uint8 and made.size == x.size // BY_NAME[kind].block * BY_NAME[kind].nbytes
    back: np.ndarray = dequantize(made, gguf.GGMLQuantizationType[kind]).reshape(x.shape)
    return back


@pytest.mark.parametrize("of", ["normal", "heavy tails", "all positive"])
@pytest.mark.parametrize("kind", NATIVE)
def test_the_error_is_llama_cpp_s(kind: str, of: str) -> None:
    x = values(of)
    error = float(((read_back(x, kind) - x).astype(np.float64) ** 2).sum())
    assert error < 1.02 * LLAMA_CPP[kind][of]


@pytest.mark.parametrize("kind", NATIVE)
def test_threads_change_no_byte(kind: str) -> None:
    x = np.tile(values("normal"), (12, 1))  # more than one thread's share
    assert (encode(x, kind, 3) == encode(x, kind, 1)).all()


SINGLE = {
    "zeros": np.zeros(512),
    "one value": np.full(512, 0.37),
    "minus one value": np.full(512, -0.37),
    "one among zeros": np.eye(1, 512, 77)[0],
    "large": np.linspace(-3e4, 3e4, 512),
    "small": np.linspace(-1e-2, 1e-2, 512),
    "subnormal": np.full(512, 1e-40),
    "zeros, then values": np.concatenate([np.zeros(256), np.linspace(-1, 1, 256)]),
}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("kind", EVERY)
def test_blocks_at_the_edges(kind: str, name: str) -> None:
    x = SINGLE[name].astype(np.float32).reshape(1, 512)
    back = read_back(x, kind)
    assert np.isfinite(back).all()
    bits = 2.0 if kind == "Q2_K" else 3.0 if kind == "Q3_K" else 4.0
    # a step of the widest block, and of the halves that scales are kept in
    assert np.abs(back - x).max() <= np.abs(x).max() * 2.0 ** (1 - bits) + 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", EVERY)
def test_what_is_no_number_is_refused(kind: str, bad: float) -> None:
    x = values("normal")[:1]
    x[0, 300] = bad
    with pytest.raises(ValueError, match="not finite"):
        encode(x, kind)
