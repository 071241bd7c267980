"""What is fuzzed: one row a kind of input. A row says how valid inputs are made, how they are damaged, and what is done
with one: it returns a few words about what happened, or raises.

A TrilensError is a refusal, which is a right answer to damage. Whatever else is raised is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzz import formats, mutate, prefixes, seeds
from fuzz.mutate import Mutator
from fuzz.weights import random_executor
from trilens.errors import BadCheckpoint, RequestRefused

if TYPE_CHECKING:
    from trilens.model import Model

Try = Callable[[bytes, Path], str]  # an input, and an empty folder to write it into
TEXTS = ("", "Hello, world!", "he hell 123 \n\n  \u00e9\u2581 \U0001f600 <s></s>", "a" * 300)
FEW = 1 << 20  # parameters; larger models are looked at, and not run


@dataclass(frozen=True)
class Target:
    """`native`: it reaches the compiled part, so it is worth running under sanitizers."""

    name: str
    what: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutator
    attempt: Try
    native: bool = False


# ------------------------------------------------------------------------------------------------- models


def _generate(path: Path) -> str:
    """Load it and generate two tokens, as `trilens run` does."""
    from trilens.loading import load

    model = load(str(path), threads=1)
    try:
        model.generate("hell a", max_tokens=2, temperature=0)
    finally:
        model.forget()
    return "generated"


def gguf(data: bytes, folder: Path) -> str:
    (folder / "model.gguf").write_bytes(data)
    return _generate(folder / "model.gguf")


def safetensors(data: bytes, folder: Path) -> str:
    (folder / "config.json").write_bytes(mutate.as_json(seeds.DENSE))
    (folder / "tokenizer.json").write_bytes(seeds.tokenizer_json()[1])
    (folder / "model.safetensors").write_bytes(data)
    return _generate(folder)


def configuration(name: str) -> Try:
    def attempt(data: bytes, folder: Path) -> str:
        """Its card; and where the model is small, random weights of the shapes it asks for, and two tokens."""
        from trilens.checkpoints.local import at_path
        from trilens.decoder.weights import decoder_weights, parameters
        from trilens.errors import UnsupportedModel
        from trilens.lenses.cards.card import card
        from trilens.spec.huggingface import read_config_file

        path = folder / name
        path.write_bytes(data)
        reading = read_config_file(path)
        card(at_path(path, "path"), context=min(64, max(1, reading.spec.context)))
        if reading.unread:
            raise UnsupportedModel(f"nobody here knows what {', '.join(reading.unread)} means")
        left = FEW
        for p in parameters(decoder_weights(reading.spec)):
            left -= p.size
            if left < 0:
                return "described"
        _run_random(reading.spec)
        return "run"

    return attempt


def _run_random(spec: Any) -> None:
    from trilens.executors.executor import StepInput

    executor = random_executor(spec)
    sequence = executor.sequence(min(64, spec.context))
    last = spec.vocab - 1
    executor.step([StepInput(sequence, [0, last, last // 2])])
    executor.step([StepInput(sequence, [last])])
    sequence.free()


# --------------------------------------------------------------------------------------------------- text


def vocabulary(name: str, **config: Any) -> Try:
    def attempt(data: bytes, folder: Path) -> str:
        """Read it, and take a few texts to tokens and back."""
        from trilens.text.tokenizer import Tokenizer

        (folder / name).write_bytes(data)
        (folder / "tokenizer_config.json").write_bytes(mutate.as_json(config))
        tokenizer = Tokenizer.from_directory(folder)
        for text in TEXTS:
            tokenizer.decode(tokenizer.encode(text))
            with contextlib.suppress(RequestRefused):  # a text may spell a control token
                tokenizer.encode(text, special=False)
        return "read"

    return attempt


def template(data: bytes, folder: Path) -> str:
    """Read it as a checkpoint's, find out what it can do about thinking, and render conversations."""
    from trilens.text.read_template import inference_of
    from trilens.text.template import directory_template

    (folder / "chat_template.jinja").write_bytes(data)
    found = directory_template(folder, None)
    inference_of(found)
    if found is None:
        return "no template"
    ask = [{"role": "user", "content": "Hello"}]
    found.render(ask)
    found.render(
        [{"role": "system", "content": "Be kind."}, *ask], tools=[{"type": "function", "function": seeds.TOOL}]
    )
    return "rendered"


# ------------------------------------------------------------------------------------- prompts and requests


@cache
def tiny() -> Model:
    from trilens.loading import load

    return load("tiny-dense", threads=1)


class Failed(Exception):
    """Something that no user should see, found in what came out."""


def prompts(data: bytes, folder: Path) -> str:
    """The command line's exit code. The model is loaded once for all."""
    import trilens.loading
    from trilens.cli import main

    loaded = tiny()
    trilens.loading.load = lambda *_, **__: loaded

    path = folder / "prompts.jsonl"
    path.write_bytes(data)
    said, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
        code = main(["run", "--model", "tiny-dense", "--file", str(path), "--max-tokens", "2", "--temperature", "0"])
    line = complaint.getvalue().strip()
    if code not in (0, 2, 3, 4, 5, 6) or "Traceback" in line:
        raise Failed(f"exit code {code}: {line}")
    return f"exit {code}" if code == 0 else f"refused: exit {code}: {line.replace(str(folder), '')}"


LEAST = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n")


@cache
def _server() -> tuple[Any, asyncio.AbstractEventLoop, list[logging.LogRecord]]:
    from trilens.serve.app import application
    from trilens.serve.registry import ModelRegistry, Room

    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    for name in ("trilens", "asyncio"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).propagate = False
    app = application(ModelRegistry(["tiny-dense"], Room(seconds=8.0, options={"threads": 1})))
    return app, asyncio.new_event_loop(), records


def endpoint(path: str) -> Try:
    def attempt(data: bytes, folder: Path) -> str:
        """The status of the answer and, where the request is refused, which field was wrong."""
        app, loop, records = _server()
        records.clear()
        status, body = loop.run_until_complete(_asked(app, path, _small(data)))
        for record in records:
            if record.exc_info and record.exc_info[1] is not None:
                raise record.exc_info[1]
            if record.levelno >= logging.ERROR:
                raise Failed(record.getMessage())
        if status >= 500:
            raise Failed(f"status {status}: {body[:300]!r}")
        return f"{status}" if status < 400 else f"refused: {status}: {body[:200].decode('utf-8', 'replace')}"

    return attempt


def _small(data: bytes) -> bytes:
    """The same request with few tokens asked for, so that many can be tried; damage to these fields stays."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return data
    found = [name for name in LEAST if isinstance(body, dict) and type(body.get(name)) is int and body[name] > 8]
    return mutate.as_json({**body, **dict.fromkeys(found, 8)}) if found else data


async def _asked(app: Any, path: str, data: bytes) -> tuple[int, bytes]:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    waiting = [{"type": "http.request", "body": data, "more_body": False}]
    status, body = 0, bytearray()

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        body.extend(message.get("body", b""))

    await app(scope, receive, send)
    return status, bytes(body)


# ------------------------------------------------------------------------------------------------ the table

JINJA = """{{ }} {% %} {%- -%} {# #} {% if x %} {% endif %} {% for i in range(9) %} {% endfor %} {% set x = messages %}
{% macro f(x) %} {% endmacro %} {{f(f)}} | tojson | join | sort | map('upper') | list | items | length | int | round
namespace() loop.index0 messages[0] [0:9] ['role'] .content .__class__ + * ** // % 'a'*9999999 10**9999 range(10**9)
~ == not is defined is string tools enable_thinking raise_exception('x') strftime_now('%Y') [] {} () {{ ''.join(x) }}
{% call f() %} {% endcall %} {% filter upper %} {% endfilter %} {% raw %} {% endraw %} {% include 'x' %} {% block b %}
{% endblock %} {% break %} {% generation %} {% endgeneration %} <think> </think> \u2028 \ud800 \0 99999999999""".split()
RANKS = [
    "0",
    "-1",
    "255",
    "260",
    "99999999999999999999",
    "aGVsbA==",
    "YQ==",
    "====",
    "QUFB" * 5000,
    " ",
    "\n",
    "\ud800",
]
JSON = [
    '"',
    "{",
    "}",
    "[",
    "]",
    "null",
    "NaN",
    "1e999",
    '{"prompt": ""}',
    '{"messages": []}',
    "\\ud800",
    "\ufeff",
    "\u2028",
]
JSON += ["[" * 5000, '"role"', '"content"', '{"prompt": 3}', '"tool_calls": [{}]', "9" * 5000, "\r", "\x85", "\0"]

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("gguf", "a GGUF file", seeds.gguf_files, formats.mutate_gguf, gguf, native=True),
        Target(
            "safetensors", "a safetensors file", seeds.safetensors, formats.mutate_safetensors, safetensors, native=True
        ),
        Target("config", "config.json", seeds.configs, mutate.mutate_json, configuration("config.json"), native=True),
        Target("params", "params.json", seeds.params, mutate.mutate_json, configuration("params.json"), native=True),
        Target(
            "tokenizer-json", "tokenizer.json", seeds.tokenizer_json, mutate.mutate_json, vocabulary("tokenizer.json")
        ),
        Target(
            "tokenizer-model",
            "tokenizer.model (SentencePiece)",
            seeds.tokenizer_model,
            formats.mutate_sentencepiece,
            vocabulary("tokenizer.model"),
        ),
        Target(
            "tiktoken",
            "tiktoken.model",
            seeds.tiktoken,
            mutate.mutate_lines(RANKS),
            vocabulary("tiktoken.model", tokenizer_class="TikTokenTokenizer"),
        ),
        Target("tekken", "tekken.json", seeds.tekken, mutate.mutate_json, vocabulary("tekken.json")),
        Target("template", "a chat template", seeds.templates, mutate.mutate_lines(JINJA), template),
        Target("prefix", "a block of the prefix cache", prefixes.files, prefixes.mutate, prefixes.attempt, native=True),
        Target("prompts", "lines of `run --file`", seeds.prompts, mutate.mutate_lines(JSON), prompts),
        *(
            Target(f"http-{name}", f"a body for {path}", bodies, mutate.mutate_json, endpoint(path))
            for name, path, bodies in (
                ("chat", "/v1/chat/completions", seeds.chat_bodies),
                ("completions", "/v1/completions", seeds.completion_bodies),
                ("responses", "/v1/responses", seeds.response_bodies),
                ("messages", "/v1/messages", seeds.message_bodies),
                ("count", "/v1/messages/count_tokens", seeds.count_bodies),
            )
        ),
    )
}


def _own(data: bytes, folder: Path) -> str:
    """Fails as the input says."""
    match data:
        case b"signal":
            ctypes.string_at(0)
        case b"hang":
            while True:
                pass
        case b"wait":
            time.sleep(1000)
        case b"stop":  # somebody else's hand: it is stopped for three seconds, and goes on
            subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        case b"memory":
            (b"x" * (600 << 20)).count(b"y")
        case b"raise":
            raise ValueError("raised")
        case b"refuse":
            raise BadCheckpoint("refused")
    return "fine"


# How the tests see that failures are seen; in no table.
OWN = Target("own", "what the fuzzer has to notice", lambda: [b""], mutate.mutate_bytes, _own)


def chosen(names: Iterable[str]) -> list[Target]:
    """Raises SystemExit, naming what there is, for a name that is not in the table."""
    wanted = list(names)
    for name in wanted:
        if name not in TARGETS:
            sys.exit(f"fuzz: no target {name!r}; expected one of {', '.join(TARGETS)}")
    return [TARGETS[name] for name in wanted] or list(TARGETS.values())
