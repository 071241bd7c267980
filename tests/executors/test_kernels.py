"""Every layout against the gguf package's values; every kernel against plain arithmetic and its portable twin."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tests.executors.packing import HALVES, random_rows, values_of
from trilens.executors.native import _native as native
from trilens.executors.native.record import CURVES
from trilens.spec.model import Curve

SETS = native.instruction_sets()
QUANTISED = [t for t, (block, _) in native.types().items() if block > 1 and t != "F8_E4M3"]


@pytest.mark.parametrize("kind", native.types())
def test_packing_loses_nothing(kind: str) -> None:
    raw = random_rows(kind, 19, 512)
    if kind == "MXFP4":  # the two smallest exponents are subnormal numbers
        raw[0, 0], raw[1, 0] = 0, 1
    out = np.empty((19, 512), np.float32)
    native.unpacked(kind, raw, out)
    assert np.array_equal(out, values_of(kind, raw, 512))


def quantised(x: np.ndarray, fine: bool = False) -> np.ndarray:
    """The rows as the executor's 8-bit (or 16-bit) activations stand for them."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    most = np.abs(groups).max(-1, keepdims=True)
    some = most > 1e-30
    exact = groups * np.where(some, np.float32(127) / np.where(some, most, 1), 0).astype(np.float32)
    codes = np.rint(exact)
    if fine:
        codes = codes + np.rint((exact - codes) * np.float32(256)).clip(-127, 127).astype(np.float64) / 256
    return (codes.astype(np.float64) * (most / np.float32(127))).reshape(x.shape)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("kind", native.types())
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("fine", [False, True], ids=["8 bits", "16 bits"])
def test_a_product_equals_float_arithmetic_on_the_same_activations(
    kernels: str, kind: str, rows: int, fine: bool
) -> None:
    raw = random_rows(kind, 21, 768)
    x = np.random.default_rng(1).standard_normal((rows, 768), np.float32)
    y = np.empty((rows, 21), np.float32)
    native.product(kernels, kind, raw, x, fine, y)
    given = quantised(x, fine) if kind in QUANTISED else x.astype(np.float64)
    weights = values_of(kind, raw, 768).astype(np.float64)
    expected = given @ weights.T
    size = np.abs(given) @ np.abs(weights).T  # what the summands weigh before they cancel
    assert (np.abs(y - expected) / size).max() < 1e-5 / 8
    assert np.linalg.norm(y - expected) / np.linalg.norm(expected) < 1e-5


@pytest.mark.parametrize("kind", native.types())
@pytest.mark.parametrize("fine", [False, True], ids=["8 bits", "16 bits"])
def test_every_instruction_set_and_every_batch_gives_the_same_bits(kind: str, fine: bool) -> None:
    columns = 768 if native.types()[kind][0] == 256 else 800  # of smaller blocks a broken span of 256 columns, too
    raw = random_rows(kind, 53, columns)  # seven tiles: four, and three
    x = np.random.default_rng(1).standard_normal((70, columns), np.float32)
    x[3] = 0
    x[5] = np.resize(np.float32([127, 0.5, -0.5, 1.5, -1.5, 126.5]), columns)  # in the middle of two codes
    together = np.empty((70, 53), np.float32)
    native.product("portable", kind, raw, x, fine, together)
    for kernels in SETS:
        for n in (1, 2, 3, 4, 5, 7, 8, 9, 11, 16, 31, 32, 70):
            y = np.empty((n, 53), np.float32)
            native.product(kernels, kind, raw, x[:n], fine, y)
            assert np.array_equal(y.view(np.uint32), together[:n].view(np.uint32)), (kernels, n)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_blocks_of_floats_are_summed_as_single_rows_are(kind: str) -> None:
    """Whole and broken blocks of tiles and rows, columns that are no multiple of the four sums."""
    for outputs, columns in ((8, 5), (16, 130), (21, 67), (40, 131), (61, 256)):
        raw = random_rows(kind, outputs, columns)
        x = np.random.default_rng(2).standard_normal((70, columns), np.float32)
        alone = np.empty((70, outputs), np.float32)
        for i in range(70):
            native.product("portable", kind, raw, x[i : i + 1], False, alone[i : i + 1])
        for kernels in SETS:
            for n in (3, 4, 6, 8, 9, 13, 17, 64, 70):
                y = np.empty((n, outputs), np.float32)
                native.product(kernels, kind, raw, x[:n], False, y)
                assert np.array_equal(y.view(np.uint32), alone[:n].view(np.uint32)), (kernels, outputs, columns, n)


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-38, 1e-32, 1e-29])
def test_the_smallest_activations_stay_numbers(kind: str, size: float) -> None:
    x = np.random.default_rng(3).uniform(-1, 1, (3, 256)).astype(np.float32) * np.float32(size)
    for kernels in SETS:
        for fine in (False, True):
            y = np.empty((3, 8), np.float32)
            native.product(kernels, kind, random_rows(kind, 8, 256), x, fine, y)
            assert np.isfinite(y).all() and np.abs(y).max() < 1e-20


def test_the_largest_codes_and_activations_do_not_overflow() -> None:
    for kind in QUANTISED:
        raw = random_rows(kind, 8, 256, seed=5)
        size = native.types()[kind][1]
        blocks = raw.reshape(8, -1, size)
        whole = blocks.copy()
        for fill in (0x00, 0x80, 0xFF, 0x7F):
            blocks[...] = fill
            for at in HALVES.get(kind, ()):
                blocks[:, :, at : at + 2] = whole[:, :, at : at + 2]
            if kind == "MXFP4":
                blocks[:, :, 0] = 120
            if kind == "NVFP4":
                blocks[:, :, :6] = whole[:, :, :6]
            if kind == "IQ1_M":
                blocks[:, :, 49::2] = whole[:, :, 49::2] & 0xF0 | blocks[:, :, 49::2] & 15
            for sign in (1, -1):
                # of each 32 the first becomes 127, the others 126 and with 16 bits 126 and 127 / 256
                x = np.full((40, 256), sign * 3.0 * 126.496 / 127, np.float32)
                x[:, ::32] = sign * 3.0
                for fine in (False, True):
                    given = quantised(x[:1], fine).astype(np.float64)
                    expected = given @ values_of(kind, raw, 256).astype(np.float64).T
                    if not np.isfinite(expected).all():
                        continue
                    alone = np.empty((1, 8), np.float32)
                    native.product("portable", kind, raw, x[:1], fine, alone)
                    assert np.allclose(alone, expected, rtol=1e-4, atol=1e-2), (kind, fill, fine)
                    for kernels in SETS:
                        for n in (1, 3, 40):
                            y = np.empty((n, 8), np.float32)
                            native.product(kernels, kind, raw, x[:n], fine, y)
                            assert (y.view(np.uint32) == alone.view(np.uint32)).all(), (kind, fill, kernels, fine, n)


@pytest.mark.parametrize("fine", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_rounded_to_one(wrong: float, fine: bool) -> None:
    for kind in QUANTISED:
        raw = random_rows(kind, 16, 256)
        x = np.random.default_rng(4).standard_normal((40, 256), np.float32)
        x[2, 70] = wrong
        sound = np.arange(40) != 2
        for kernels in SETS:
            y = np.empty((40, 16), np.float32)
            native.product(kernels, kind, raw, x, fine, y)
            assert np.isnan(y[2]).all() and np.isfinite(y[sound]).all(), (kind, kernels)


@pytest.mark.parametrize("kernels", SETS)
def test_activations_are_rounded_to_eight_bits_by_groups(kernels: str) -> None:
    x = np.random.default_rng(2).standard_normal(160).astype(np.float32) * 5
    x[32:64] = 0
    codes, scales = np.empty(160, np.int8), np.empty(5, np.float32)
    native.quantise(kernels, x, codes, scales)
    assert np.array_equal((codes.reshape(5, 32) * scales[:, None].astype(np.float64)).reshape(-1), quantised(x))


def test_functions_are_close_to_the_real_ones_and_the_same_bits_everywhere() -> None:
    x = np.concatenate([np.linspace(-100, 100, 4001), np.linspace(-1, 1, 999), [0.0, -0.0, 3e38, -3e38]]).astype(
        np.float32
    )
    one, wide = np.ones_like(x), x.astype(np.float64)
    erf = np.vectorize(math.erf)
    with np.errstate(over="ignore"):
        real = {
            Curve.SILU: wide / (1 + np.exp(-wide)),
            Curve.GELU: 0.5 * wide * (1 + erf(wide / np.sqrt(2))),
            Curve.GELU_TANH: 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))),
            Curve.BEND: np.expm1(np.minimum(wide, 0)) - np.minimum(wide, 0),
        }
    for curve, expected in real.items():
        results = []
        for kernels in SETS:
            y = np.empty_like(x)
            native.glu(kernels, CURVES[curve], np.inf, 1.0, 0.0, x, one, y)
            assert np.allclose(y, expected, rtol=2e-6, atol=1e-6)
            results.append(y.view(np.uint32))
        assert all(np.array_equal(results[0], r) for r in results)
    for kernels in SETS:
        y = np.empty_like(x)
        native.softcap(kernels, 30.0, x, y)
        assert np.allclose(y, 30 * np.tanh(wide / 30), atol=2e-5)


@pytest.mark.parametrize("columns", [1, 7, 64, 1001])
def test_what_lies_above_a_threshold_is_precise_and_the_same_bits_in_every_set(columns: int) -> None:
    x = np.random.default_rng(columns).standard_normal(columns).astype(np.float32) * 3 + 2
    for deviations in (-0.5, 0.0, 1.6448536):
        wide = x.astype(np.float64)
        expected, results = np.maximum(wide - wide.mean() - deviations * wide.std(), 0), []
        for kernels in SETS:
            y = np.empty_like(x)
            native.above(kernels, deviations, x, y)
            assert np.abs(y - expected).max() < 5e-6
            results.append(y.view(np.uint32))
        assert all(np.array_equal(results[0], r) for r in results)


def test_halves_are_rounded_as_numpy_rounds_them() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[np.isfinite(every)]
    with np.errstate(over="ignore"):
        between = (every + np.nextafter(every.astype(np.float16), np.float16(np.inf)).astype(np.float32)) / 2
    x = np.concatenate([every, between, np.nextafter(between, np.float32(0)), [1e-9, 65519.9, 65520.0, 1e30, -1e30]])
    x = x[np.isfinite(x)].astype(np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    for kernels in SETS:
        y = np.empty(len(x), np.uint16)
        native.to_f16(kernels, x, y)
        assert np.array_equal(y, expected)


def one_by_one(
    delta: bool, q: np.ndarray, k: np.ndarray, v: np.ndarray, decay: np.ndarray, beta: np.ndarray, state: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The recurrence as `Recurrence` says it, in 64 bits: the state behind the last token, and every token's result."""
    state, rows = state.astype(np.float64), []
    for t in range(len(v)):
        state = state * np.exp(decay[t].astype(np.float64))[:, None]
        d = beta[t] * (v[t] - (state.T @ k[t] if delta else 0))
        state = state + np.outer(k[t], d)
        rows.append(state.T @ q[t])
    return state, np.array(rows)


@pytest.mark.parametrize("delta", [False, True], ids=["sums", "delta rule"])
@pytest.mark.parametrize("vector", [False, True], ids=["one decay", "a decay a row"])
@pytest.mark.parametrize(("keys", "columns"), [(128, 32), (64, 20), (16, 24), (8, 5), (33, 31), (1, 1)])
def test_a_recurrence_is_that_of_plain_arithmetic_with_the_same_bits_in_every_set(
    delta: bool, vector: bool, keys: int, columns: int
) -> None:
    rng = np.random.default_rng(keys)
    for tokens in (1, 2, 9):
        q, k = (rng.standard_normal((tokens, keys), np.float32) / np.float32(keys**0.5) for _ in range(2))
        v, state = rng.standard_normal((tokens, columns), np.float32), rng.standard_normal((keys, columns), np.float32)
        decay = -rng.random((tokens, keys if vector else 1), np.float32)
        beta = rng.random((tokens, 1), np.float32)
        expected = one_by_one(delta, q, k, v, decay, beta, state)
        results = []
        for kernels in SETS:
            after, rows = np.empty_like(state), np.empty_like(v)
            native.recur(kernels, delta, q, k, v, decay, beta, state, after, rows)
            assert np.abs(after - expected[0]).max() < 1e-5
            assert np.abs(rows - expected[1]).max() < 1e-5
            part, first, second = np.empty_like(state), np.empty_like(v[:1]), np.empty_like(v[1:])
            native.recur(kernels, delta, q[:1], k[:1], v[:1], decay[:1], beta[:1], state, part, first)
            cut = part
            if tokens > 1:
                cut = np.empty_like(state)
                native.recur(kernels, delta, q[1:], k[1:], v[1:], decay[1:], beta[1:], part, cut, second)
            results += [(after, rows), (cut, np.concatenate((first, second)))]
        for after, rows in results:
            assert np.array_equal(after.view(np.uint32), results[0][0].view(np.uint32))
            assert np.array_equal(rows.view(np.uint32), results[0][1].view(np.uint32))


F32, F16, I8 = range(3)  # kinds of a cache, as csrc has them


def rounded(x: np.ndarray, kind: int) -> np.ndarray:
    """What a cache keeps of these rows."""
    if kind == F16:
        return x.astype(np.float16).astype(np.float64)
    if kind == I8:
        most, codes = np.abs(x).max(1, keepdims=True), np.float32(127)
        return np.rint(x * (codes / most)) * (most / codes).astype(np.float64)
    return x.astype(np.float64)


@pytest.mark.parametrize("kind", [F32, F16, I8], ids=["float32", "16 bits", "8 bits"])
@pytest.mark.parametrize(
    ("key_dim", "dim", "latent"),
    [(64, 64, False), (128, 128, False), (80, 80, False), (12, 21, False), (72, 64, True)],
)
@pytest.mark.parametrize("cap", [0.0, 2.0], ids=["", "capped"])
def test_attention_is_that_of_plain_arithmetic_with_the_same_bits_in_every_set(
    kind: int, key_dim: int, dim: int, latent: bool, cap: float
) -> None:
    """Rows see different windows of three spans; together they have the bits that each has alone."""
    rng = np.random.default_rng(dim)
    positions, most, scale = 600, 14, key_dim**-0.5
    q = rng.standard_normal((most, key_dim), np.float32) * 3
    keys = rng.standard_normal((positions, key_dim), np.float32)
    values = None if latent else rng.standard_normal((positions, dim), np.float32)
    last = np.sort(rng.integers(0, positions, most)).astype(np.int32)
    last[-1] = positions - 1
    first = np.where(np.arange(most) % 3, 0, np.maximum(0, last - 70)).astype(np.int32)
    kept = rounded(keys, kind)
    scores = (q @ kept.T) * scale
    if cap:
        scores = np.tanh(scores / cap) * cap
    at = np.arange(positions)
    scores[(at < first[:, None]) | (at > last[:, None])] = -np.inf
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    expected = shares @ (kept[:, :dim] if values is None else rounded(values, kind))
    results = []
    for kernels in SETS:
        for group, size in ((1, 1), (1, 2), (3, 3), (4, 4), (5, 5), (1, 7), (2, most)):
            y = np.empty((most, dim), np.float32)
            for start in range(0, most, size):
                rows = slice(start, start + size)
                native.attend(kernels, kind, q[rows], group, keys, values, first[rows], last[rows], scale, cap, y[rows])
            assert np.abs(y - expected).max() < 2e-5
            results.append(y.view(np.uint32))
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize(
    ("code", "curve"),
    [
        (0, lambda x: x / (1 + np.exp(-x))),
        (4, lambda x: 1 / (1 + np.exp(-x))),
        (5, lambda x: np.logaddexp(0, x)),
        (6, lambda x: np.maximum(x, 0) ** 2),
    ],
    ids=["silu", "sigmoid", "softplus", "squared relu"],
)
def test_curves_are_precise_and_the_same_bits_in_every_set(
    code: int, curve: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = np.concatenate([np.linspace(-86, 87, 2003), np.linspace(-1, 1, 101)]).astype(np.float32)
    expected, results = curve(x.astype(np.float64)), []
    for kernels in SETS:
        y = np.empty_like(x)
        native.activate(kernels, code, x, y)
        assert np.all(np.abs(y - expected) <= 3e-7 * np.abs(expected))
        results.append(y.view(np.uint32))
    assert all(np.array_equal(result, results[0]) for result in results)
