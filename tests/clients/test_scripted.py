"""The scripted model keeps to the interface of executors: it answers, and goes on from kept pages."""

from __future__ import annotations

from tests.clients.scripted import scripted_server
from tests.serve.test_fields import post


def test_it_says_what_it_is_told() -> None:
    asked = {"role": "user", "content": f"{'Read this first. ' * 40}[[say PONG]]"}
    with scripted_server() as running:
        for cached in (False, True):
            body = {"model": "tiny-dense", "messages": [asked], "thinking": False}
            status, answer = post(f"{running.url}/v1/chat/completions", body)
            assert status == 200 and answer["choices"][0]["message"]["content"] == "PONG"
            assert (answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0) == cached
