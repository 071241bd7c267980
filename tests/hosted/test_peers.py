"""Real engines that serve a small model of ours: the same prompts, thinking and not, and their counts beside ours.

TRILENS_PEER_PYTHON names a Python with llama-cpp-python and its server, TRILENS_VLLM_PYTHON one with vLLM, whose build
for the CPU will do.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import trilens
from tests.gguf_models import Gguf, write
from tests.serve.engines import free_ports
from trilens.errors import HostedError, RequestRefused
from trilens.hosted.load import load_hosted
from trilens.hosted.model import HostedModel
from trilens.model import Answer, Model
from trilens.text.events import ThinkingEvent

LLAMA_CPP, VLLM = os.environ.get("TRILENS_PEER_PYTHON"), os.environ.get("TRILENS_VLLM_PYTHON")
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
QUESTIONS = [
    "What is 47 times 86?",
    "What is 12 plus 30?",
    "What is 905 minus 467?",
    [
        {"role": "user", "content": "What is 3 plus 4?"},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "What is 61 times 7?"},
    ],
]

pytestmark = pytest.mark.peer


@contextmanager
def running(command: Sequence[str], log: Path, port: int, **options: Any) -> Iterator[HostedModel]:
    """An engine that answers, as a hosted model."""
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **ON_CPU})
    try:
        end = time.monotonic() + 300
        while True:
            try:
                model = load_hosted(f"http://127.0.0.1:{port}/v1", retries=0, timeout=120, **options)
                break
            except HostedError:
                assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(0.5)
        yield model
        model.close()
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def ours() -> Model:
    return trilens.load("tiny-dense")


@pytest.fixture(scope="module")
def vllm(ours: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedModel]:
    if not VLLM:
        pytest.skip("TRILENS_VLLM_PYTHON names no Python with vLLM")
    port, folder = free_ports(1), str(ours.files.found.path)
    command = [VLLM, "-m", "vllm.entrypoints.cli.main", "serve", folder, "--served-model-name", "tiny-dense"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "2048", "--max-num-seqs", "8", "--reasoning-parser", "qwen3"]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with running(command, log, port, tokenizer="tiny-dense") as model:
        yield model


@contextmanager
def llama_cpp(ours: Model, folder: Path, head: str) -> Iterator[HostedModel]:
    """llama-cpp-python's server, which has no field for thinking: the template says it, whose `head` this is."""
    if not LLAMA_CPP:
        pytest.skip("TRILENS_PEER_PYTHON names no Python with llama-cpp-python")
    source = ours.files.found.path
    file = write(Gguf("qwen3", "qwen3"), source, folder / "tiny.gguf", wide=True, template=lambda text: head + text)
    port = free_ports(1)
    command = [LLAMA_CPP, "-m", "llama_cpp.server", "--model", str(file), "--model_alias", "tiny-dense"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048", "--n_threads", "2"]
    with running(command, folder / "log", port, tokenizer="tiny-dense") as model:
        yield model


def written(answer: Answer[Any], *, opened: bool) -> str:
    """What the model wrote, its end token left out."""
    thought = f"<think>\n{answer.thinking.strip()}\n</think>\n\n" if answer.thinking else ""
    assert bool(thought) == opened
    return thought + answer.text


def count(ours: Model, text: str) -> int:
    return len(ours.text.tokenizer.encode(text))


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("question", QUESTIONS, ids=["times", "plus", "minus", "third turn"])
def test_vllm(vllm: HostedModel, ours: Model, question: Any, thinking: bool | None) -> None:
    theirs = vllm.generate(question, thinking=thinking, temperature=0)
    here = ours.generate(question, thinking=thinking, temperature=0)
    tokens, thinks = theirs.receipt.tokens, thinking is not False
    assert tokens.counted_by == "provider"
    assert tokens.prompt == here.receipt.tokens.prompt
    assert tokens.completion == count(ours, written(theirs, opened=thinks)) + 1
    if thinks:  # the line breaks beside its markers vLLM counts as thinking
        assert tokens.thinking == count(ours, f"\n{theirs.thinking.strip()}\n")
    else:
        assert (tokens.thinking, tokens.answer) == (0, count(ours, theirs.text) + 1)
    assert (theirs.receipt.thinking.thought, theirs.receipt.thinking.unasked) == (thinks, False)
    assert (theirs.text, theirs.thinking.strip()) == (here.text, here.thinking)  # float32 there, 16 bits here: no tie


def test_vllm_a_budget_and_a_limit(vllm: HostedModel, ours: Model) -> None:
    budget = vllm.generate(QUESTIONS[0], thinking=20, temperature=0)
    assert (budget.receipt.tokens.thinking, budget.receipt.thinking.closed_by) == (20, "budget")
    assert budget.text
    assert budget.thinking.strip() == ours.generate(QUESTIONS[0], thinking=19, temperature=0).thinking.strip()
    short = vllm.generate(QUESTIONS[0], thinking=False, max_tokens=2, temperature=0)
    assert (short.receipt.tokens.completion, short.receipt.finish) == (2, "length")


def test_vllm_streams_and_stops(vllm: HostedModel) -> None:
    events = list(vllm.stream(QUESTIONS[0], thinking=True, temperature=0))
    assert sum(isinstance(event, ThinkingEvent) for event in events) > 10
    stopped = vllm.generate(QUESTIONS[0], thinking=False, temperature=0, stop="9")
    assert (stopped.text, stopped.receipt.finish) == ("40", "stop_string")


def test_vllm_side_by_side(vllm: HostedModel, ours: Model) -> None:
    questions = [f"What is {a} plus {b}?" for a in (12, 35, 70) for b in (8, 14, 21, 29)]
    theirs, here = vllm.generate(questions, thinking=False, temperature=0), ours.generate(questions, thinking=False)
    assert [answer.receipt.tokens.prompt for answer in theirs] == [a.receipt.tokens.prompt for a in here]
    assert [a.receipt.tokens.completion for a in theirs] == [count(ours, a.text) + 1 for a in theirs]


def test_vllm_refuses_with_its_own_words(vllm: HostedModel) -> None:
    with pytest.raises(HostedError, match=r"max_model_len=2048.*HTTP 400") as refused:
        vllm.generate("Hello", thinking=False, max_tokens=5000)
    assert type(refused.value).__name__ == "Refused"


@pytest.mark.parametrize(
    ("head", "thinks"), [("", True), ("{%- set enable_thinking = false %}", False)], ids=["thinking", "at once"]
)
def test_llama_cpp_python(ours: Model, tmp_path: Path, head: str, thinks: bool) -> None:
    with llama_cpp(ours, tmp_path, head) as there:
        assert there.elsewhere.row.service == "llama-cpp-python"
        for question in QUESTIONS:
            here = ours.generate(question, thinking=thinks, temperature=0)
            theirs = there.generate(question, temperature=0)
            assert (theirs.text, theirs.thinking.strip()) == (here.text, here.thinking)
            tokens = theirs.receipt.tokens  # its stream has no counts: they are ours
            assert (tokens.prompt, tokens.counted_by) == (None, "us")
            assert (tokens.thinking, tokens.answer) == (count(ours, theirs.thinking), count(ours, theirs.text))
            usage = whole(there, question)["usage"]
            assert usage["prompt_tokens"] == here.receipt.tokens.prompt
            assert usage["completion_tokens"] == count(ours, written(theirs, opened=thinks))  # the end is not counted
        for thinking in (True, False):
            with pytest.raises(RequestRefused, match="its server has no field for it"):
                there.generate("Hello", thinking=thinking)


def whole(there: HostedModel, question: Any) -> Any:
    """The same answer as one piece, in which that server counts."""
    import httpx2 as httpx

    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    body = {"model": "tiny-dense", "messages": messages, "temperature": 0}
    return httpx.post(f"http://{there.elsewhere.host}/v1/chat/completions", json=body, timeout=60).json()
