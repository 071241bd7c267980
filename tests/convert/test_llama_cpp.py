"""`trilens quantise` beside llama.cpp: the same types, errors no larger, files that llama.cpp loads and finds as good.

`pytest -m peer -s tests/convert` prints the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

import trilens
from tests.convert.test_quantise import shapes_of
from trilens.checkpoints.find import find
from trilens.checkpoints.gguf import GgufFile, read_gguf
from trilens.convert.file_types import FILE_TYPES
from trilens.convert.write_gguf import quantise
from trilens.errors import ModelNotFound
from trilens.trials.perplexity import perplexity

PEER = os.environ.get("TRILENS_PEER_PYTHON", "")
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
SMALLER = ("Q3_K_M", "Q2_K")  # what rows that no k-quant fits become is another type here
CONTEXT, PIECES = 256, 4
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not PEER, reason="TRILENS_PEER_PYTHON names no Python with llama-cpp-python"),
]

QUANTISE = """
import sys, llama_cpp
options = llama_cpp.llama_model_quantize_default_params()
options.ftype, options.nthread = int(sys.argv[3]), 2
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), options))
"""
PERPLEXITY = """
import json, math, sys, llama_cpp, numpy
pieces, found = json.loads(sys.stdin.read()), []
model = llama_cpp.Llama(sys.argv[1], n_ctx=len(pieces[0]), logits_all=True, n_threads=2, verbose=False)
for piece in pieces:
    model.reset()
    model.eval(piece)
    rows = model.scores[len(piece) // 2 : len(piece) - 1].astype(numpy.float64)
    rows -= rows.max(axis=1, keepdims=True)
    following = piece[len(piece) // 2 + 1 :]
    found.append(numpy.log(numpy.exp(rows).sum(axis=1)) - rows[numpy.arange(len(rows)), following])
print(math.exp(numpy.concatenate(found).mean()))
"""


def theirs(source: Path, to: str, out: Path) -> Path:
    words = [PEER, "-c", QUANTISE, str(source), str(out), str(FILE_TYPES[to].number)]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    return out


def their_perplexity(path: Path, pieces: list[list[int]]) -> float:
    """Raises where llama.cpp does not load the file."""
    words = [PEER, "-c", PERPLEXITY, str(path)]
    done = subprocess.run(words, input=json.dumps(pieces), check=True, capture_output=True, text=True, timeout=900)
    return float(done.stdout)


def wide(path: Path, width: int, layers: int, experts: int) -> Path:
    """A random llama, eight layers of which take every kind of choice, with four query heads for each head of keys."""
    rng, w, kv, ffn, vocab = np.random.default_rng(0), gguf.GGUFWriter(path, "llama"), width // 4, 512, 256
    w.add_block_count(layers)
    w.add_context_length(128)
    w.add_embedding_length(width)
    w.add_feed_forward_length(ffn)
    w.add_head_count(8)
    w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(width // 8)
    w.add_vocab_size(vocab)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
    w.add_tokenizer_model("gpt2")
    w.add_token_list([f"t{i}" for i in range(vocab)])
    w.add_token_types([1] * vocab)
    w.add_token_merges(["t 1"])
    shapes = shapes_of(layers, width, kv, ffn, tied=False, vocab=vocab)
    if experts:
        for i in range(layers):
            for name in ("gate", "up", "down"):
                shape = shapes.pop(f"blk.{i}.ffn_{name}.weight")
                shapes[f"blk.{i}.ffn_{name}_exps.weight"] = (experts, *shape)
            shapes[f"blk.{i}.ffn_gate_inp.weight"] = (experts, width)
    for name, shape in shapes.items():
        w.add_tensor(name, (0.02 * rng.standard_normal(shape)).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model in 32-bit floats."""
    path = tmp_path_factory.mktemp("source") / "source.gguf"
    if request.param == "smollm2":
        try:
            held = find("smollm2", offline=True)
        except ModelNotFound:
            pytest.skip("SmolLM2 is not on this disk; trilens pull smollm2 fetches it")
        quantise(held, "F32", path)
    else:
        wide(path, 2048 if request.param == "wide" else 256, 8, 8 if request.param == "experts" else 0)
    yield path
    path.unlink()


def squared_errors(file: GgufFile, original: GgufFile) -> dict[str, float]:
    """By the type of the tensors."""
    errors: Counter[str] = Counter()
    for name, tensor in file.tensors.items():
        difference = file.read(name).astype(np.float64) - original.read(name)
        errors[tensor.type] += float((difference**2).sum())  # type: ignore[assignment]
    return dict(errors)


@pytest.mark.parametrize("to", [*TYPES, *SMALLER])
@pytest.mark.parametrize("source", ["smollm2", "wide", "experts"], indirect=True)
def test_types_and_errors_are_llama_cpp_s(
    source: Path, to: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mine, other = tmp_path / "mine.gguf", theirs(source, to, tmp_path / "theirs.gguf")
    quantise(find(str(source)), to, mine)
    original, one, two = read_gguf(source), read_gguf(mine), read_gguf(other)
    assert {n: t.type for n, t in one.tensors.items()} == {n: t.type for n, t in two.tensors.items()}
    ours, expected = squared_errors(one, original), squared_errors(two, original)
    counts = Counter(t.type for t in one.tensors.values())
    for kind in sorted(ours):
        share = "" if not expected[kind] else f"{ours[kind] / expected[kind] - 1:+.2%} of llama.cpp's squared error"
        print(f"\n{request.node.callspec.id:18} {counts[kind]:4} tensors of {kind:5} {share}", end="")
        assert ours[kind] <= 1.02 * expected[kind], kind
    mine.unlink()
    other.unlink()


@pytest.mark.parametrize("source", ["smollm2"], indirect=True)
def test_llama_cpp_loads_each_and_finds_it_as_good(source: Path, tmp_path: Path) -> None:
    """Perplexity on this project's own pages: of our file and llama.cpp's in llama.cpp, and of our file here."""
    root = Path(__file__).parents[2]
    text = "\n".join((root / name).read_text() for name in ("README.md", "docs/architecture.md"))
    with trilens.load(str(source), offline=True) as model:
        ids = model.text.tokenizer.encode(text, special=False)
    pieces = [ids[i * CONTEXT : (i + 1) * CONTEXT] for i in range(PIECES)]
    exact = their_perplexity(source, pieces)
    print(f"\nperplexity in llama.cpp: {exact:.4f} of the 32-bit floats")
    for to in TYPES:
        mine, other = tmp_path / "mine.gguf", theirs(source, to, tmp_path / "theirs.gguf")
        quantise(find(str(source)), to, mine)
        ours, expected = their_perplexity(mine, pieces), their_perplexity(other, pieces)
        with trilens.load(str(mine), offline=True) as model:
            here = perplexity(model, text, context=CONTEXT, pieces=PIECES).perplexity
        print(
            f"{to:7} {ours:.4f} ours, {expected:.4f} llama.cpp's ({ours / expected - 1:+.2%}); ours run here {here:.4f}"
        )
        assert ours <= 1.01 * expected
        assert here == pytest.approx(ours, rel=0.01)
        mine.unlink()
        other.unlink()


def test_llama_cpp_loads_the_wide_model_in_each_type(tmp_path: Path) -> None:
    source = wide(tmp_path / "source.gguf", 2048, 2, 0)
    for to in TYPES:
        quantise(find(str(source)), to, tmp_path / f"{to}.gguf")
        assert their_perplexity(tmp_path / f"{to}.gguf", [list(range(64))]) > 1
