"""The command that starts an engine: where the user's engine is, and the options that `trilens plan` writes for it."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from trilens.errors import UsageError
from trilens.lenses.plans.plan import plan
from trilens.serve.nodes import Node

EngineName = Literal["vllm", "sglang"]
MODULES = {"vllm": "vllm.entrypoints.cli.main", "sglang": "sglang.launch_server"}
WORDS = {"vllm": 1, "sglang": 3}  # of the planned command that name the program: `vllm`; `python -m sglang...`
STAGES = {"vllm": "--pipeline-parallel-size", "sglang": "--pp-size"}


@dataclass(frozen=True)
class Launch:
    """`engine` and where it is; `path` names its command, or a Python that has it. `machine` as `trilens plan` takes it
    is all nodes together, `batch` the calls at once. `ray`: the other nodes are a Ray cluster's, which the user runs.
    `options` are the engine's own, and count last. `trust_control_tokens`: callers may write control tokens."""

    engine: EngineName
    path: str | None = None
    machine: str = "this"
    batch: int = 64
    node: Node = field(default_factory=Node)
    ray: bool = False
    options: Sequence[str] = ()
    offline: bool = False
    trust_control_tokens: bool = False

    def command(self, model: str, served: str, port: int, say: Callable[[str], None]) -> list[str]:
        """Serves `model` as `served` at that port of the loopback address. Raises UsageError and what `plan` raises."""
        engine, node = self.engine, self.node
        planned = plan(
            model,
            engine=engine,
            machine=self.machine,
            batch=self.batch,
            quantise="own",
            offline=self.offline,
            say=say,
        )
        command = shlex.split(planned.commands[engine])
        command = [*program(engine, self.path), *command[WORDS[engine] :]]
        if planned.job.tensor * planned.job.pipeline % node.count and planned.target.count > 1:
            raise UsageError(
                f"{self.machine} cannot be divided among {node.count} nodes; name all devices of all nodes"
            )
        if planned.target.count == 1 and node.count > 1:  # one device a node: a stage each
            command[command.index(STAGES[engine]) + 1] = str(node.count)
        command += ["--served-model-name", served]
        if node.head:
            command += ["--host", "127.0.0.1", "--port", str(port)]
        return [*command, *self._nodes(), *self.options]

    def environment(self, key: str) -> dict[str, str]:
        """The engine's additional environment variables."""
        found = {"VLLM_API_KEY": key} if self.engine == "vllm" else {}
        if self.node.count > 1 and self.engine == "vllm" and "VLLM_HOST_IP" not in os.environ:
            found["VLLM_HOST_IP"] = _address_towards(self.node.master)
        return found

    @property
    def meets(self) -> Node:
        """The nodes on which trilens runs; those of a Ray cluster have none."""
        return Node() if self.ray else self.node

    def _nodes(self) -> list[str]:
        node = self.node
        if self.ray:
            return ["--distributed-executor-backend", "ray"]
        if node.count == 1:
            return []
        flags = ["--nnodes", str(node.count), "--node-rank", str(node.rank)]
        if self.engine == "sglang":
            return [*flags, "--dist-init-addr", f"{node.master}:{node.port}"]
        flags += ["--master-addr", node.master, "--master-port", str(node.port)]
        flags += ["--distributed-executor-backend", "mp"]
        return flags if node.head else [*flags, "--headless"]


def program(engine: EngineName, path: str | None) -> list[str]:
    """The words that run the user's engine. Raises UsageError with what to install."""
    variable = f"TRILENS_{engine.upper()}"
    stated = path or os.environ.get(variable)
    if stated:
        found = shutil.which(str(Path(stated).expanduser()))
        if found is None:
            raise UsageError(f"{stated}: no such command; expected {engine}'s, or the Python that has {engine}")
        return [found, "-m", MODULES[engine]] if Path(found).name.startswith("python") else [found]
    with suppress(ImportError, ValueError):
        if find_spec(engine) is not None:
            return [sys.executable, "-m", MODULES[engine]]
    if engine == "vllm" and (found := shutil.which("vllm")) is not None:
        return [found]
    raise UsageError(
        f"{engine} is not installed here; pip install {engine} in an environment of its own, and name that "
        f"environment's Python with --engine-path or {variable}"
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def new_key() -> str:
    """A key for the engine, so that nobody else on this machine can use it directly."""
    return secrets.token_urlsafe(24)


def _address_towards(host: str) -> str:
    """This machine's address on the way to that one; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError as problem:
        raise UsageError(
            f"{host} cannot be reached ({problem.strerror or problem}); expected the head's address"
        ) from None
