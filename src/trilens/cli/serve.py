"""The command that serves models over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trilens.cli.options import (
    KEEP_PACKED,
    PREDICTION_BLOCK,
    PREFIXES,
    SPECULATION,
    THREADS,
    TRUST,
    AdapterPath,
    Number,
    options,
)
from trilens.errors import ModelNotFound, UsageError
from trilens.files import exists


class _WithEngineOptions(click.Command):
    """Arguments after `--` belong to the engine."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["engine options"] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])


@click.command(cls=_WithEngineOptions)
@click.argument("models", nargs=-1, metavar="[MODEL...]")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. 0.0.0.0 means every network."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on. 0 takes a free one.",
)
@click.option("--api-key", envvar="TRILENS_API_KEY", help="Require this key.  [env: TRILENS_API_KEY]")
@click.option(
    "--origin", "origins", multiple=True, help="Also accept requests from pages of this origin. May be repeated."
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 1024),
    default=64,
    show_default=True,
    help="Maximum number of concurrent calls.",
)
@click.option(
    "--queue", type=click.IntRange(0, 65536), default=128, show_default=True, help="Maximum number of waiting calls."
)
@click.option("--time-limit", type=click.IntRange(1), default=600, show_default=True, help="Maximum seconds per call.")
@click.option(
    "--read-limit", type=Number(0.1), default=10, show_default=True, help="Maximum seconds for a request header."
)
@THREADS
@click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Quantise unquantised weights while loading.")
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    type=AdapterPath(),
    metavar="[MODEL:]NAME=PATH",
    help="Serve this LoRA adapter of a model as MODEL:NAME. May be repeated.",
)
@options(
    *PREFIXES,
    TRUST,
    SPECULATION,
    PREDICTION_BLOCK,
    KEEP_PACKED,
    click.option(
        "--engine", type=click.Choice(["vllm", "sglang"]), help="Start this engine of yours, and serve its model."
    ),
    click.option(
        "--engine-path", help="The engine's command, or a Python that has it.  [env: TRILENS_VLLM, TRILENS_SGLANG]"
    ),
    click.option(
        "--machine", default="this", show_default=True, help="Devices of all nodes together, for example h100x16."
    ),
    click.option(
        "--nnodes", type=click.IntRange(1, 1024), default=1, show_default=True, help="Number of nodes of the engine."
    ),
    click.option(
        "--node-rank", type=click.IntRange(0), default=0, show_default=True, help="Rank of this node. 0 is the head."
    ),
    click.option(
        "--master-addr", default="127.0.0.1", show_default=True, help="Address of the head, where the nodes connect."
    ),
    click.option(
        "--master-port",
        type=click.IntRange(1, 65534),
        default=29501,
        show_default=True,
        help="Port for the engines' connections. trilens uses the next one too.",
    ),
    click.option("--ray", is_flag=True, help="Use the nodes of a running Ray cluster."),
    click.option(
        "--start-limit",
        type=click.IntRange(1),
        default=1800,
        show_default=True,
        help="Maximum seconds until the engine answers.",
    ),
)
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    origins: tuple[str, ...],
    parallel: int,
    queue: int,
    time_limit: int,
    read_limit: float,
    threads: int | None,
    quantise: str | None,
    offline: bool,
    adapters: tuple[tuple[str, str], ...],
    prefix_dir: Path | None,
    prefix_bytes: int,
    trust_control_tokens: bool,
    speculation: bool,
    prediction_block: bool,
    keep_packed: bool,
    engine: Any,
    **start: Any,
) -> None:
    """Serve models over HTTP with the OpenAI and Anthropic APIs, and a page at /. Without MODEL, the two small models
    that come with trilens are served.

    With --engine, one MODEL runs on your own vLLM or SGLang, started with the command that `trilens plan` writes.
    Options after -- are passed to the engine. With several nodes, run the same command on each with its own
    --node-rank.
    """
    try:
        from trilens.serve.connections import Limits
        from trilens.serve.guard import Rules
        from trilens.serve.registry import ModelRegistry, Room
        from trilens.serve.server import serve as run_server
        from trilens.serve.server import serve_engine
    except ImportError as missing:
        raise UsageError(f"serving needs {missing.name}; install it with: pip install 'trilens[serve]'") from None
    if api_key == "":
        raise UsageError("the API key is empty; give one, or leave --api-key out")
    for name in models:
        from trilens.checkpoints.find import check_name

        check_name(name)
    context = click.get_current_context()
    limits = Limits(head=read_limit, body=6 * read_limit, stalled=6 * read_limit, whole=time_limit + 6 * read_limit)
    rules, more = Rules(host, origins, api_key), context.meta["engine options"]
    if engine is not None:
        own = (threads, quantise, prefix_dir, adapters or None)
        changed = not speculation or prediction_block or keep_packed
        if len(models) != 1 or any(option is not None for option in own) or changed:
            raise UsageError(
                "--engine takes one MODEL, without --threads, --quantise, --prefix-dir, --adapter, --no-speculation, "
                "--prediction-block or --keep-packed; its own options go after --"
            )
        limit = start.pop("start_limit")
        launch = _launch(engine, parallel, offline, trust_control_tokens, more, **start)
        serve_engine(models[0], launch, rules, port, Room(parallel, queue, float(time_limit)), limit, limits)
        return
    given = next((name for name in start if _stated(context, name)), None)
    if more or given:
        what = "anything after --" if given is None else "--" + given.replace("_", "-")
        raise UsageError(f"{what} is for an engine; name one, for example --engine vllm")
    stated = {"threads": threads, "quantise": quantise, "offline": offline or None, "prefix_dir": prefix_dir}
    if prefix_dir is not None:
        stated["prefix_bytes"] = prefix_bytes
    stated["trust_control_tokens"] = trust_control_tokens or None
    stated["speculation"] = None if speculation else False
    stated["prediction_block"] = prediction_block or None
    stated["keep_packed"] = keep_packed or None
    options = {name: value for name, value in stated.items() if value is not None}
    models = models or ("tiny-dense", "tiny-routed")
    room = Room(parallel, queue, float(time_limit), options)
    registry = ModelRegistry(models, room, _by_model(models, adapters))
    run_server(registry, rules, port, limits)


def _by_model(models: tuple[str, ...], adapters: tuple[tuple[str, str], ...]) -> dict[str, dict[str, str]]:
    """The adapters of each served name. Raises UsageError for one that could be of several models, or of none."""
    from trilens.generate import arguments
    from trilens.serve.registry import served_name

    served = [served_name(model) for model in models]
    found: dict[str, dict[str, str]] = {name: {} for name in served}
    for called, path in adapters:
        model, _, name = called.rpartition(":")
        if not model and len(served) == 1:
            model = served[0]
        if model not in found:
            raise UsageError(f"--adapter {called}={path}: which model is it for? Write {served[0]}:{name}={path}")
        if not exists(Path(path).expanduser()):
            raise ModelNotFound(f"--adapter {called}={path}: no such file or directory")
        if name in found[model]:
            raise UsageError(f"--adapter {called}={path}: {model} has two adapters of that name; rename one")
        found[model][name] = path
    return {model: arguments.adapters(paths) for model, paths in found.items() if paths}


def _stated(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE


def _launch(
    engine: Any,
    batch: int,
    offline: bool,
    trust_control_tokens: bool,
    options: tuple[str, ...],
    engine_path: str | None,
    machine: str,
    nnodes: int,
    node_rank: int,
    master_addr: str,
    master_port: int,
    ray: bool,
) -> Any:
    from trilens.serve.launch import Launch
    from trilens.serve.nodes import Node

    if ray and (engine != "vllm" or node_rank):
        raise UsageError(
            "--ray works with vLLM only, and only on the head; join the other nodes with: ray start --address=HEAD:6379"
        )
    node = Node(nnodes, node_rank, master_addr, master_port)
    return Launch(engine, engine_path, machine, batch, node, ray, options, offline, trust_control_tokens)
