"""A caller's mistake is answered with 400 and a word on it, never with a fault of the server or of the model."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.serve.conftest import Served

USER = {"role": "user", "content": "x"}
CALLS: list[Any] = [[{}], [5], [{"function": {}}], [{"function": {"name": 5}}], 5, "x"]
BODIES: list[tuple[dict[str, Any], str]] = [
    *(({"chat_template_kwargs": {name: 3}}, name) for name in ("tools", "messages", "add_generation_prompt")),
    *(
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": calls}, {"role": "user", "content": "x"}]},
            "tool",
        )
        for calls in CALLS
    ),
    ({"messages": [{"role": "user", "content": "word " * 400_000}]}, "characters"),
    ({"chat_template_kwargs": {"x": [[[]]]}, "max_tokens": 10**30}, "max_tokens"),
]


@pytest.mark.parametrize("number", range(len(BODIES)))
@pytest.mark.parametrize("stream", [False, True])
def test_a_callers_mistake_is_400(server: Served, number: int, stream: bool) -> None:
    change, says = BODIES[number]
    body = {"model": "tiny-dense", "messages": [{"role": "user", "content": "1+1="}], "stream": stream, **change}
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    said = json.load(caught.value)
    assert caught.value.code == 400, said
    assert says in said["error"]["message"]
