"""A served model's block for multi-token prediction changes no answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.serve.conftest import served
from trilens.cli import commands
from trilens.serve.registry import ModelRegistry

TRAINED = Path(__file__).parents[1] / "data" / "tiny-hybrid"  # recipes/prediction made it
QUESTIONS = ("What is 17 + 25?", "hi", "Which is larger, 45 or 54?", "What is 80 - 31?")


def answers(**options: Any) -> list[dict[str, Any]]:
    """Of two clients who ask at the same time, each question at two temperatures."""
    with served([str(TRAINED)], options=options) as server:

        def ask(question: str, temperature: float) -> dict[str, Any]:
            messages = [{"role": "user", "content": question}]
            asked = {"model": "tiny-hybrid", "messages": messages, "temperature": temperature, "seed": 3}
            response = httpx.post(f"{server.url}/v1/chat/completions", json={**asked, "max_tokens": 60}, timeout=60)
            return dict(response.raise_for_status().json())

        ask("hi", 0.0)  # it is loaded now
        assert isinstance(server.registry, ModelRegistry)
        loop = server.registry.place("tiny-hybrid")[0].loop
        assert loop is not None
        if options.get("speculation", True):
            loop.model._scheduler.speculates = "always"
        with ThreadPoolExecutor(2) as clients:
            return list(clients.map(ask, QUESTIONS * 2, [0.0] * len(QUESTIONS) + [0.8] * len(QUESTIONS)))


def test_answers_are_equal() -> None:
    plain, drafted = answers(speculation=False), answers(prediction_block=True)
    for one, other in zip(plain, drafted, strict=True):
        assert other["choices"][0]["message"] == one["choices"][0]["message"]
        assert other["trilens"]["receipt"]["replay"] == one["trilens"]["receipt"]["replay"]
    drafts = [answer["trilens"]["receipt"]["drafts"] for answer in drafted]
    assert sum(d["predicted_accepted"] for d in drafts) > 20


def test_the_command_has_the_option() -> None:
    assert {"--prediction-block"} <= {name for p in commands.commands["serve"].params for name in p.opts}
