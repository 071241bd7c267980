"""Stands in for `vllm`: takes its command line, speaks its protocol, and behaves as FAKE_ENGINE says.

FAKE_ENGINE is JSON. `slow`: seconds until it listens. `exit`: it ends with this code instead. `broken`: it listens and
every request fails. `deaf`: SIGTERM does nothing. `child`: it starts a process that is deaf too. `pause`: seconds
before each piece of an answer. `note`: a file to which each of its processes adds its id, and its arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SAYS: dict[str, Any] = json.loads(os.environ.get("FAKE_ENGINE", "{}"))
THOUGHTS, ANSWER = ["\nfour ", "and two\n"], ["for", "ty-two"]


def note(what: dict[str, Any]) -> None:
    if "note" in SAYS:
        with Path(SAYS["note"]).open("a") as file:
            file.write(json.dumps(what) + "\n")


def sleeper() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note({"pid": os.getpid()})
    time.sleep(600)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = ""
    context = 2048

    def do_GET(self) -> None:
        entry = {"id": self.model, "object": "model", "owned_by": "vllm", "max_model_len": self.context}
        self._json(200, {"object": "list", "data": [entry]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers.get("authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self._json(401, {"error": {"message": "Unauthorized", "type": "x", "code": 401}})
        elif SAYS.get("broken"):
            self._json(500, {"error": {"message": "EngineDeadError", "type": "x", "code": 500}})
        else:
            self._answer(body)

    def _answer(self, body: Any) -> None:
        note({"asked": body})
        off = body.get("chat_template_kwargs", {}).get("enable_thinking") is False
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        thoughts = [] if off else [*({"reasoning": t} for t in THOUGHTS), {"content": "\n\n"}]
        pieces = [*thoughts, *({"content": t} for t in ANSWER)]
        for piece in ({"role": "assistant", "content": ""}, *pieces):
            time.sleep(SAYS.get("pause", 0))
            self._chunk([{"index": 0, "delta": piece, "finish_reason": None}])
        self._chunk([{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": None}])
        thinking = 0 if off else 5
        usage = {"prompt_tokens": 9, "completion_tokens": 4 + thinking, "total_tokens": 13 + thinking}
        self._chunk([], usage={**usage, "completion_tokens_details": {"reasoning_tokens": thinking}})
        self._write(b"data: [DONE]\n\n")
        self._write(b"")

    def _chunk(self, choices: list[Any], **more: Any) -> None:
        made = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": self.model, "choices": choices}
        self._write(b"data: " + json.dumps({**made, **more}).encode() + b"\n\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _json(self, status: int, said: Any) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def main() -> None:
    if sys.argv[1] == "sleep":
        sleeper()
    assert sys.argv[1] == "serve"
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--served-model-name")
    parser.add_argument("--port", type=int)
    parser.add_argument("--headless", action="store_true")
    known, _ = parser.parse_known_args(sys.argv[2:])
    if SAYS.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note({"pid": os.getpid(), "arguments": sys.argv[1:]})
    if SAYS.get("child"):
        subprocess.Popen([sys.executable, __file__, "sleep"])
    print("a fake engine starts", flush=True)
    time.sleep(SAYS.get("slow", 0))
    if "exit" in SAYS:
        print("RuntimeError: no room for the model", file=sys.stderr)
        sys.exit(SAYS["exit"])
    if known.headless:
        signal.pause()
    Handler.model = known.served_model_name
    ThreadingHTTPServer(("127.0.0.1", known.port), Handler).serve_forever()


main()
