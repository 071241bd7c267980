"""`trilens serve --engine vllm` with vLLM itself, on one node and on two.

TRILENS_VLLM_PYTHON names a Python that has it; its build for the CPU will do.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import trilens
from tests.serve.engines import free_ports, of_group, serving
from trilens.errors import HostedError, ServiceFailed, Unreachable

VLLM = os.environ.get("TRILENS_VLLM_PYTHON")
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
QUESTION = "What is 47 times 86?"
SLOW = 300  # seconds until it answers, on two busy cores

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not VLLM, reason="TRILENS_VLLM_PYTHON names no Python with vLLM"),
]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    """A number for the node, its options, what vLLM is told beside -> `trilens serve`."""

    def begin(model: str, rank: int, *words: str, tell: tuple[str, ...] = ()) -> Any:
        folder = tmp_path / str(rank)
        folder.mkdir()
        command = (model, "--port", "0", "--engine", "vllm", "--engine-path", str(VLLM), "--parallel", "8", *words)
        own = {**ON_CPU, "VLLM_CPU_OMP_THREADS_BIND": str(rank)}
        return serving(*command, "--", "--dtype", "float32", *tell, folder=folder, **own)

    return begin


def gone(group: int) -> bool:
    """A vLLM that nobody is left to kill gives its workers 4 seconds to end, and 4 to die."""
    end = time.monotonic() + 20
    while of_group(group) and time.monotonic() < end:
        time.sleep(0.05)
    return not of_group(group)


def shared() -> set[str]:
    """What vLLM makes there and leaves behind when it is killed."""
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


@pytest.mark.parametrize("model", ["tiny-dense", "tiny-routed"])
def test_one_node(start: Callable[..., Any], model: str) -> None:
    ours = trilens.load(model)
    with start(model, 0, tell=("--enforce-eager",)) as serve:
        url = serve.address(SLOW)
        group = serve.engine()
        assert len(of_group(group)) > 1  # vLLM is several processes
        there = trilens.load(f"{url}/v1", retries=0)
        for thinking in (True, False):
            answer = there.generate(QUESTION, thinking=thinking, temperature=0)
            here = ours.generate(QUESTION, thinking=thinking, temperature=0)
            assert (answer.text, answer.thinking.strip()) == (here.text, here.thinking)
            theirs, own = answer.receipt.tokens, here.receipt.tokens
            assert (theirs.prompt, theirs.completion) == (own.prompt, own.completion)
            served = answer.receipt.served
            assert served is not None and served["executor"].startswith("vllm at 127.0.0.1:")
            assert (served["backbone"], served["parameters"]["total"]) == (
                ours.spec.backbone,
                ours.card().parameters.total,
            )
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        tool = {"name": "weigh", "parameters": {"type": "object", "properties": {"grams": {"const": 7}}}}
        asked: Any = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
        shown = client.chat.completions.create(**asked, tools=[{"type": "function", "function": tool}], max_tokens=4)
        described = {
            "type": "function",
            "function": {"name": "weigh", "description": "", "parameters": tool["parameters"]},
        }
        assert shown.usage is not None and shown.usage.prompt_tokens == len(
            ours.prepare(asked["messages"], tools=[described]).ids
        )
        message = anthropic.Anthropic(base_url=url, api_key="x", max_retries=0).messages.create(
            **asked, max_tokens=900, thinking={"type": "enabled", "budget_tokens": 20}
        )
        assert [block.type for block in message.content] == ["thinking", "text"]
        with pytest.raises(openai.BadRequestError, match="the engine's context 2048"):
            client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "12 " * 3000}], max_tokens=5
            )
        there.close()
        assert serve.end(signal.SIGINT, 60) == 130
        assert gone(group)


def test_an_option_that_vllm_does_not_know(start: Callable[..., Any]) -> None:
    with start("tiny-dense", 0, tell=("--no-such-option",)) as serve:
        assert serve.end(seconds=SLOW) == 7
        assert serve.last_line().startswith("trilens: vllm ended by itself (exit code 2); its log is ")
        assert "unrecognized arguments: --no-such-option" in serve.said


@pytest.mark.parametrize("lost", ["vllm on the other", "trilens on the other", "vllm on the head"])
def test_two_nodes_of_which_one_is_killed(start: Callable[..., Any], lost: str) -> None:
    port, before = str(free_ports()), shared()
    meet = ("--nnodes", "2", "--master-port", port, "--start-limit", str(SLOW))
    with start("tiny-dense", 1, *meet, "--node-rank", "1") as other, start("tiny-dense", 0, *meet) as head:
        url = head.address(SLOW)
        groups = [head.engine(), other.engine()]
        there = trilens.load(f"{url}/v1", retries=0)
        assert there.generate(QUESTION, thinking=True, temperature=0).text == "4042"
        faults: list[HostedError] = []

        def ask() -> None:
            try:
                while True:
                    there.generate(QUESTION, thinking=True)
            except HostedError as problem:
                faults.append(problem)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        time.sleep(1)
        victim = {
            "vllm on the other": groups[1],
            "trilens on the other": other.process.pid,
            "vllm on the head": groups[0],
        }
        os.kill(victim[lost], signal.SIGKILL)
        begin = time.monotonic()
        assert head.end(seconds=60) == 7
        print(f"{lost}: the head ended {time.monotonic() - begin:.1f} s later: {head.last_line()}")
        for thread in asking:
            thread.join()
        assert {type(fault) for fault in faults} <= {
            ServiceFailed,
            Unreachable,
        }  # the second: asked again, and too late
        assert any("the engine has ended" in str(fault) for fault in faults)
        told = {
            "vllm on the other": "trilens: vllm has lost node 1, which ended by itself (signal SIGKILL); its log is ",
            "trilens on the other": "trilens: vllm has lost node 1, whose connection broke; its log is ",
            "vllm on the head": "trilens: vllm ended by itself (signal SIGKILL); its log is ",
        }
        assert head.last_line().startswith(told[lost])
        assert "Traceback" not in head.said.partition("the last lines of")[0]
        if lost != "trilens on the other":  # whose vLLM ends as it can
            assert other.end(seconds=60) == 7
            print(f"{lost}: the other says: {other.last_line()}")
            assert shared() <= before
        assert all(gone(group) for group in groups)
        there.close()
