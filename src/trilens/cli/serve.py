"""The command that answers over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trilens.checkpoints.find import check_name
from trilens.cli.options import PREFIXES, TRUST, Number, options
from trilens.errors import UsageError


class _WithEngineOptions(click.Command):
    """What stands behind `--` is the engine's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["engine options"] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])


@click.command(cls=_WithEngineOptions)
@click.argument("models", nargs=-1, metavar="[MODEL...]")
@click.option("--host", default="127.0.0.1", show_default=True, help="What to listen on; 0.0.0.0 for every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--api-key", envvar="TRILENS_API_KEY", help="Ask for this key.  [env: TRILENS_API_KEY]")
@click.option("--origin", "origins", multiple=True, help="Pages of this origin may ask too; may be given again.")
@click.option("--parallel", type=click.IntRange(1, 1024), default=64, show_default=True, help="Calls at once.")
@click.option("--queue", type=click.IntRange(0, 65536), default=128, show_default=True, help="Calls that may wait.")
@click.option("--time-limit", type=click.IntRange(1), default=600, show_default=True, help="Seconds of a call.")
@click.option("--read-limit", type=Number(0.1), default=10, show_default=True, help="Seconds to send a header in.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores this process may use.")
@click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Make unquantised weights smaller.")
@click.option("--offline", is_flag=True, help="Use only what is on this disk.")
@options(
    *PREFIXES,
    TRUST,
    click.option("--engine", type=click.Choice(["vllm", "sglang"]), help="Start your own engine, and answer for it."),
    click.option("--engine-path", help="Its command, or a Python that has it.  [env: TRILENS_VLLM, TRILENS_SGLANG]"),
    click.option("--machine", default="this", show_default=True, help="All nodes together, as in h100x16."),
    click.option("--nnodes", type=click.IntRange(1, 1024), default=1, show_default=True, help="Nodes of the engine."),
    click.option("--node-rank", type=click.IntRange(0), default=0, show_default=True, help="This one; 0 is the head."),
    click.option("--master-addr", default="127.0.0.1", show_default=True, help="The head, where nodes meet."),
    click.option(
        "--master-port", type=click.IntRange(1, 65534), default=29501, show_default=True, help="And the next."
    ),
    click.option("--ray", is_flag=True, help="The other nodes are those of a Ray cluster that runs."),
    click.option(
        "--start-limit", type=click.IntRange(1), default=1800, show_default=True, help="Seconds to its answer."
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
    prefix_dir: Path | None,
    prefix_bytes: int,
    trust_control_tokens: bool,
    engine: Any,
    **start: Any,
) -> None:
    """Answer over HTTP as the OpenAI and Anthropic APIs do, with a page at /. Without MODEL: the two small ones that
    come with trilens.

    With --engine one MODEL runs on your own vLLM or SGLang, started with the command that `trilens plan` writes; what
    stands behind -- goes to it. On several nodes each runs the same command with its own --node-rank.
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
        check_name(name)
    context = click.get_current_context()
    limits = Limits(head=read_limit, body=6 * read_limit, stalled=6 * read_limit, whole=time_limit + 6 * read_limit)
    rules, more = Rules(host, origins, api_key), context.meta["engine options"]
    if engine is not None:
        if len(models) != 1 or threads is not None or quantise is not None or prefix_dir is not None:
            raise UsageError(
                "--engine takes one MODEL, and its own options behind --; no --threads, --quantise or --prefix-dir"
            )
        limit = start.pop("start_limit")
        launch = _launch(engine, parallel, offline, trust_control_tokens, more, **start)
        serve_engine(models[0], launch, rules, port, Room(parallel, queue, float(time_limit)), limit, limits)
        return
    given = next((name for name in start if _stated(context, name)), None)
    if more or given:
        what = "what stands behind --" if given is None else "--" + given.replace("_", "-")
        raise UsageError(f"{what} is for an engine; name it, as in --engine vllm")
    stated = {"threads": threads, "quantise": quantise, "offline": offline or None, "prefix_dir": prefix_dir}
    if prefix_dir is not None:
        stated["prefix_bytes"] = prefix_bytes
    stated["trust_control_tokens"] = trust_control_tokens or None
    options = {name: value for name, value in stated.items() if value is not None}
    registry = ModelRegistry(models or ("tiny-dense", "tiny-routed"), Room(parallel, queue, float(time_limit), options))
    run_server(registry, rules, port, limits)


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
            "--ray is vLLM's, and given at the head alone; join the others with: ray start --address=HEAD:6379"
        )
    node = Node(nnodes, node_rank, master_addr, master_port)
    return Launch(engine, engine_path, machine, batch, node, ray, options, offline, trust_control_tokens)
