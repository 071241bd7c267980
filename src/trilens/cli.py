"""trilens on the command line. Answers go to standard output, everything else to standard error; never a traceback.

Exit codes: 0 done, 2 wrong usage, 3 a part of the model is unknown, 4 a damaged file, 5 not found or no network,
6 the request cannot be carried out, 7 somebody else's service failed or refused, 1 a fault of our own,
130 interrupted, 141 the reader of a pipe went away.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trilens import __version__
from trilens.errors import TrilensError, UsageError
from trilens.text.strategy import as_thinking

if TYPE_CHECKING:
    from trilens.hosted.model import HostedModel, HostedStream
    from trilens.model import Answer, Model, Prompt, Stream

F = TypeVar("F", bound=Callable[..., Any])


# A model can write anything; on a terminal an escape sequence in its answer would be obeyed. A pipe gets every byte.
UNSAFE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        # not click's own main(): it answers a closed pipe by itself
        given = sys.argv[1:] if arguments is None else arguments
        with commands.make_context("trilens", list(given)) as context:
            commands.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as problem:
        return _complain(problem.format_message(), 2)
    except TrilensError as problem:
        return _complain(str(problem), problem.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError:
        return _complain("not enough memory for this model; try a smaller one or fewer tokens", 6)
    except Exception as fault:
        if os.environ.get("TRILENS_DEBUG"):
            raise
        where = type(fault).__name__
        return _complain(f"a fault in trilens itself ({where}: {fault}); TRILENS_DEBUG=1 shows where", 1)
    return 0


def _complain(problem: str, code: int) -> int:
    print("trilens: " + " ".join(problem.split()), file=sys.stderr)
    return code


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


MODEL = _options(
    click.option("--model", default="smollm2", show_default=True, help="Catalog name, path or hub id."),
    click.option("--offline", is_flag=True, help="Use only what is on this disk."),
    click.option(
        "--executor", type=click.Choice(["native", "torch"]), default="native", show_default=True, help="What computes."
    ),
    click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores this process may use."),
    click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Make unquantised weights smaller."),
    click.option("--kv", type=click.Choice(["f16", "8bit", "f32"]), help="Numbers of the cache; default f16."),
    click.option("--ignore-key", "ignore_keys", multiple=True, metavar="NAME", help="A config key to leave unread."),
)
GENERATION = _options(
    click.option(
        "--thinking",
        metavar="WORD",
        help="on, off, a level (minimal to max), off-or-least, or the most tokens of it. Default: the model's own.",
    ),
    click.option("--hide-thinking", is_flag=True, help="Do not show the thinking on standard error."),
    click.option("--temperature", type=float, help="0 takes the likeliest token every time."),
    click.option("--top-k", type=int, help="Keep the k likeliest tokens; 0 keeps all."),
    click.option("--top-p", type=float, help="Keep the likeliest tokens that reach this share together."),
    click.option("--min-p", type=float, help="Keep tokens with at least this part of the likeliest one's share."),
    click.option("--repetition-penalty", type=float),
    click.option("--presence-penalty", type=float),
    click.option("--frequency-penalty", type=float),
    click.option("--seed", type=int, help="The same seed gives the same answer."),
    click.option("--max-tokens", type=int, help="Most tokens of an answer."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text. May be repeated."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="trilens %(version)s")
def commands() -> None:
    """One call runs any open-weight language model and tells what the call cost."""


@commands.command()
@click.argument("prompt", required=False)
@click.option("--file", "prompts_file", type=click.Path(path_type=Path), help='A JSON line each: {"prompt": ...}.')
@click.option("--system", metavar="TEXT", help="A system message before the prompt.")
@click.option("--raw", is_flag=True, help="Send the prompt as it is, without the chat template.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: text, thinking, receipt.")
@click.option("--quiet", is_flag=True, help="No receipt on standard error.")
@MODEL
@GENERATION
def run(
    prompt: str | None,
    prompts_file: Path | None,
    system: str | None,
    raw: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Answer PROMPT, or standard input, or every prompt of a file."""
    if prompts_file is not None and prompt is not None:
        raise UsageError("both a prompt and --file were given; expected one of them")
    if system is not None and raw:
        raise UsageError("--system needs the chat template; leave out --raw")
    hide = options.pop("hide_thinking")
    prompts: list[Prompt] = [_prompt_text(prompt)] if prompts_file is None else _prompts_of(prompts_file)
    if system is not None:
        prompts = [_with_system(system, p) for p in prompts]
    loaded = _load(options)
    options["thinking"] = as_thinking(options["thinking"])
    if prompts_file is not None:
        for answer in loaded.generate(prompts, raw=raw, **options):
            print(json.dumps(_answer(answer), ensure_ascii=False))
        return
    if as_json:
        [answer] = loaded.generate(prompts, raw=raw, **options)
        print(json.dumps(_answer(answer), ensure_ascii=False))
        return
    _print_stream(loaded.stream(prompts[0], raw=raw, **options), quiet, hide)


@commands.command()
@click.option("--system", metavar="TEXT", help="A system message.")
@click.option("--quiet", is_flag=True, help="No receipt on standard error.")
@MODEL
@GENERATION
def chat(system: str | None, quiet: bool, **options: Any) -> None:
    """A conversation; an empty line or Ctrl-D ends it. Ctrl-C ends a thinking, once more the answer."""
    hide = options.pop("hide_thinking")
    loaded = _load(options)
    options["thinking"] = as_thinking(options["thinking"])
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    while True:
        try:
            print("> ", end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            line = ""
        if not line.strip():
            print(file=sys.stderr)
            return
        messages.append({"role": "user", "content": line.strip()})
        try:
            stream = loaded.stream(messages, **options)
            with _interrupts(stream):
                said = _print_stream(stream, quiet, hide)
        except KeyboardInterrupt:
            print("\n(interrupted; the answer is not kept)", file=sys.stderr)
            messages.pop()
            continue
        messages.append(said)


@commands.command()
@click.argument("model")
@click.option("--context", type=int, default=1, show_default=True, help="Tokens that a token sees, its own included.")
@click.option("--kv-type", default="f16", show_default=True, help="Type of the KV cache's numbers.")
@click.option("--offline", is_flag=True, help="Use only what is on this disk.")
@click.option("--json", "as_json", is_flag=True, help="The same as a JSON object.")
def card(model: str, context: int, kv_type: str, offline: bool, as_json: bool) -> None:
    """What MODEL is and what a token of it costs. Needs no weights."""
    from trilens.lenses.card import card as make_card

    result = make_card(model, context=context, kv_type=kv_type, offline=offline)
    print(json.dumps(result.as_dict(), ensure_ascii=False) if as_json else result.as_text())


@commands.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--context", type=int, default=4096, show_default=True, help="Tokens that a token sees.")
@click.option("--machine", help="Compare speed and memory there: this, or accelerators as in h100x8.")
@click.option("--engine", help="On that machine; default: trilens here, else vllm or mlx-lm.")
@click.option("--batch", type=int, default=1, show_default=True, help="Sequences at once, on that machine.")
@click.option("--thinking", metavar="WORD", help="off, on, a level, or the most tokens, of those that can think.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), metavar="FILE", help="Also draw it: .svg or .png.")
@click.option("--offline", is_flag=True, help="Use only what is on this disk.")
@click.option("--json", "as_json", is_flag=True, help="A list of cards, or of plans, as JSON.")
def compare(
    models: tuple[str, ...],
    context: int,
    machine: str | None,
    picture: Path | None,
    offline: bool,
    as_json: bool,
    **there: Any,
) -> None:
    """Cards side by side: memory against compute per token; with --machine, against speed."""
    from trilens.lenses.compare import compare as make_comparison
    from trilens.lenses.compare_plans import PlanComparison, compare_plans
    from trilens.lenses.plot import plot, plot_plans

    if machine is None and (there["thinking"] is not None or there["engine"] is not None or there["batch"] != 1):
        raise UsageError("--thinking, --engine and --batch compare speeds; name the machine too, as in --machine this")
    made = (
        make_comparison(models, context=context, offline=offline)
        if machine is None
        else compare_plans(models, context=context, machine=machine, offline=offline, say=_say, **there)
    )
    if picture is not None:
        plot_plans(made, picture) if isinstance(made, PlanComparison) else plot(made, picture)
    print(json.dumps(made.as_dict(), ensure_ascii=False) if as_json else made.as_text())


@commands.command()
@click.argument("model")
@click.option("--context", type=int, help="Tokens of a sequence; default 4096, or the model's most.")
@click.option("--batch", type=int, default=1, show_default=True, help="Sequences at once.")
@click.option("--machine", default="this", show_default=True, help="this, or accelerators as in h100x8.")
@click.option("--engine", help="trilens, llama.cpp, vllm, sglang, mlx-lm, tensorrt-llm or transformers.")
@click.option("--quantise", help="own, bf16, fp8, 8bit or 4bit; default: the most bits that fit.")
@click.option("--kv-type", default="f16", show_default=True, help="Numbers of the cache: a type, or K,V.")
@click.option("--thinking", metavar="WORD", help="off, on, a level, or the most tokens. Default: the model's own.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores this process may use.")
@click.option("--offline", is_flag=True, help="Use only what is on this disk.")
@click.option("--json", "as_json", is_flag=True, help="The same as a JSON object.")
def plan(model: str, as_json: bool, **options: Any) -> None:
    """Whether MODEL fits a machine, how fast it will be there, and the commands that start it."""
    from trilens.lenses.plan import plan as make_plan

    result = make_plan(model, say=_say, **options)
    print(json.dumps(result.as_dict(), ensure_ascii=False) if as_json else result.as_text())


@commands.command()
@click.argument("model")
@click.option("--engine", help="Of the engines only this one, as in vllm.")
@click.option("--offline", is_flag=True, help="Use only what is on this disk.")
@click.option("--json", "as_json", is_flag=True, help="A list as JSON.")
def thinking(model: str, engine: str | None, offline: bool, as_json: bool) -> None:
    """How thinking is asked for of MODEL: what its template takes here, and the request's fields elsewhere."""
    from trilens.hosted.asking import asking

    found = asking(model, engine=engine, offline=offline)
    dicts = [one.as_dict() for one in found]
    print(json.dumps(dicts, ensure_ascii=False) if as_json else "\n\n".join(one.as_text() for one in found))


@commands.command()
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="A list as JSON.")
def tag(file: str, as_json: bool) -> None:
    """Backbone and inference for the model names of FILE, one a line as people write them; - is standard input."""
    from trilens.lenses.tag import read_names, tag_as_dict, tag_names, tags_as_text

    tags = tag_names(read_names(_text_of(file)))
    if not tags:
        raise UsageError(f"{file}: holds no names; expected one model name a line")
    print(json.dumps([tag_as_dict(t) for t in tags], ensure_ascii=False) if as_json else tags_as_text(tags))


@commands.command()
@click.argument("model")
@click.argument("prompt")
@click.option("--csv", "as_csv", is_flag=True, help="A line for each token, layer and rank.")
@click.option("--json", "as_json", is_flag=True, help="The same as a JSON object.")
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path), metavar="FILE", help="Also a heat map: .svg or .png."
)
@click.option("--offline", is_flag=True, help="Use only what is on this disk.")
@click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Make unquantised weights smaller.")
@click.option("--thinking", metavar="WORD", help="As for run.")
@click.option("--max-tokens", type=int, help="Most tokens of the answer.")
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--seed", type=int, help="The same seed gives the same answer.")
def trace(
    model: str,
    prompt: str,
    as_csv: bool,
    as_json: bool,
    picture: Path | None,
    offline: bool,
    quantise: str | None,
    thinking: str | None,
    **options: Any,
) -> None:
    """Which experts of MODEL fire for PROMPT and its answer, token by token and layer by layer."""
    import csv

    from trilens.model import load
    from trilens.trials.routing import trace as make_trace

    loaded = load(model, offline=offline, progress=_Progress(model), **({"quantise": quantise} if quantise else {}))
    result = make_trace(loaded, _prompt_text(prompt), thinking=as_thinking(thinking), **options)
    if picture is not None:
        from trilens.trials.heat_map import heat_map

        heat_map(result, picture)
    if as_csv:
        rows = list(result.rows())
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else ["position"])
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(json.dumps(result.as_dict(), ensure_ascii=False) if as_json else result.as_text())


@commands.command()
@click.option("--questions", default=120, show_default=True, help="Held-out questions for each of the four.")
@click.option("--stretch", is_flag=True, help="Products of three by three digits instead, harder than required.")
@click.option("--json", "as_json", is_flag=True, help="A list of four objects.")
def combos(questions: int, stretch: bool, as_json: bool) -> None:
    """The same questions through a dense and a routed model, thinking and not: the two that come with trilens."""
    from trilens.trials.combos import as_dicts, as_text, combine
    from trilens.trials.questions import KINDS, STRETCH

    done = 0

    def asked(name: str, count: int) -> None:
        nonlocal done
        done += count
        if sys.stderr.isatty():
            end = "\r\033[K" if done == 4 * questions else ""
            print(f"\r{name} {done} of {4 * questions}{end}", end="", file=sys.stderr, flush=True)

    rows = combine(questions, STRETCH if stretch else KINDS, asked)
    print(json.dumps(as_dicts(rows)) if as_json else as_text(rows))


class _WithEngineOptions(click.Command):
    """What stands behind `--` is the engine's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["engine options"] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])


@commands.command(cls=_WithEngineOptions)
@click.argument("models", nargs=-1, metavar="[MODEL...]")
@click.option("--host", default="127.0.0.1", show_default=True, help="What to listen on; 0.0.0.0 for every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--api-key", envvar="TRILENS_API_KEY", help="Ask for this key.  [env: TRILENS_API_KEY]")
@click.option("--origin", "origins", multiple=True, help="Pages of this origin may ask too; may be given again.")
@click.option("--parallel", type=click.IntRange(1, 1024), default=64, show_default=True, help="Calls at once.")
@click.option("--queue", type=click.IntRange(0, 65536), default=128, show_default=True, help="Calls that may wait.")
@click.option("--time-limit", type=click.IntRange(1), default=600, show_default=True, help="Seconds of a call.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores this process may use.")
@click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Make unquantised weights smaller.")
@click.option("--offline", is_flag=True, help="Use only what is on this disk.")
@_options(
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
    threads: int | None,
    quantise: str | None,
    offline: bool,
    engine: Any,
    **start: Any,
) -> None:
    """Answer over HTTP as the OpenAI and Anthropic APIs do, with a page at /. Without MODEL: the two small ones that
    come with trilens.

    With --engine one MODEL runs on your own vLLM or SGLang, started with the command that `trilens plan` writes; what
    stands behind -- goes to it. On several nodes each runs the same command with its own --node-rank.
    """
    try:
        from trilens.serve.guard import Rules
        from trilens.serve.server import serve as run_server
        from trilens.serve.server import serve_engine
        from trilens.serve.shelf import Room, Shelf
    except ImportError as missing:
        raise UsageError(f"serving needs {missing.name}; install it with: pip install 'trilens[serve]'") from None
    if api_key == "":
        raise UsageError("the API key is empty; give one, or leave --api-key out")
    context = click.get_current_context()
    rules, more = Rules(host, origins, api_key), context.meta["engine options"]
    if engine is not None:
        if len(models) != 1 or threads is not None or quantise is not None:
            raise UsageError("--engine takes one MODEL, and its own options behind --; no --threads or --quantise")
        limit = start.pop("start_limit")
        launch = _launch(engine, parallel, offline, more, **start)
        serve_engine(models[0], launch, rules, port, Room(parallel, queue, float(time_limit)), limit)
        return
    given = next((name for name in start if _stated(context, name)), None)
    if more or given:
        what = "what stands behind --" if given is None else "--" + given.replace("_", "-")
        raise UsageError(f"{what} is for an engine; name it, as in --engine vllm")
    stated = {"threads": threads, "quantise": quantise, "offline": offline or None}
    options = {name: value for name, value in stated.items() if value is not None}
    shelf = Shelf(models or ("tiny-dense", "tiny-routed"), Room(parallel, queue, float(time_limit), options))
    run_server(shelf, rules, port)


def _stated(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE


def _launch(
    engine: Any,
    batch: int,
    offline: bool,
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
    return Launch(engine, engine_path, machine, batch, node, ray, options, offline)


@commands.command()
@click.argument("model")
def pull(model: str) -> None:
    """Fetch MODEL's files and say where they are."""
    from trilens.checkpoints.find import find

    print(find(model).path)


@commands.command()
@click.argument("model")
@click.option("--prompt", default=256, show_default=True, help="Tokens of the prompt.")
@click.option("--decode", default=32, show_default=True, help="Tokens of the answer.")
@click.option("--threads", type=int, help="Default: the physical cores that this process may use.")
@click.option("--repeat", default=3, show_default=True, help="Rounds that count; one more comes before them.")
@click.option("--batch", default=1, show_default=True, help="Sequences that decode at once.")
@click.option("--activations", type=click.Choice(["8bit", "16bit"]), default="8bit", show_default=True)
@click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Make an unquantised model smaller first.")
@click.option("--kernels", default="", help="avx512, avx2 or portable; default: the fastest this processor runs.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def bench(model: str, as_json: bool, **options: Any) -> None:
    """How fast MODEL runs here, beside what this machine's memory and arithmetic give."""
    from trilens.lenses.bench import as_text, measure

    result = measure(model, **options)
    print(json.dumps(result) if as_json else as_text(result))


@commands.command()
@click.option("--measure", is_flag=True, help="Also measure what this machine can do, and keep it.")
@click.option("--threads", type=click.IntRange(1, 1024), help="To measure with; default: the physical cores.")
@click.option("--json", "as_json", is_flag=True, help="The same as a JSON object.")
def doctor(measure: bool, threads: int | None, as_json: bool) -> None:
    """What is installed, what this machine has, and where files are kept."""
    from trilens.lenses.doctor import examine

    report: dict[str, Any] = {**examine()}
    machine = None
    if measure:
        from trilens.lenses.machine import measured

        machine = measured(threads, anew=True, say=_say)
    if as_json:
        print(json.dumps({**report, **({} if machine is None else {"machine": machine.as_dict()})}))
        return
    for name, value in report.items():
        print(f"{name:12} {value}")
    if machine is not None:
        print(machine.as_text())


def _say(line: str) -> None:
    print(f"trilens: {line}", file=sys.stderr)


def _prompt_text(prompt: str | None) -> str:
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise UsageError("no prompt; give one as an argument, on standard input, or with --file")
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8").strip("\n")
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8 text; expected a prompt") from None
    if not prompt.strip():
        raise UsageError("the prompt is empty; give one as an argument, on standard input, or with --file")
    return prompt


def _text_of(file: str) -> str:
    """A text file's content, or standard input's for "-"."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8")
    except OSError as problem:
        raise UsageError(f"{file}: cannot be read ({problem.strerror}); expected a text file, or -") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not UTF-8 text; expected one model name a line") from None


def _prompts_of(path: Path) -> list[Prompt]:
    """A JSON line each: a string, or an object with `prompt` (a string) or `messages` (a conversation)."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise UsageError(f"{path}: cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text; expected JSON lines") from None
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f'{path}:{number}: not JSON; expected a line such as {{"prompt": "..."}}') from None
        found: Any = entry.get("prompt", entry.get("messages")) if isinstance(entry, dict) else entry
        conversation = isinstance(found, list) and found and all(isinstance(m, dict) for m in found)
        if not (isinstance(found, str) and found) and not conversation:
            raise UsageError(f'{path}:{number}: has no prompt; expected {{"prompt": "..."}} or {{"messages": [...]}}')
        prompts.append(found)
    if not prompts:
        raise UsageError(f"{path}: holds no prompts; expected JSON lines")
    return prompts


def _with_system(system: str, prompt: Prompt) -> Prompt:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [{"role": "system", "content": system}, *messages]


def _load(options: dict[str, Any]) -> Model | HostedModel:
    """The model that the options name; takes the options of loading out, so that those of generating are left."""
    from trilens.hosted.load import is_hosted, load_hosted
    from trilens.model import load

    name, offline, ignore_keys = (options.pop(key) for key in ("model", "offline", "ignore_keys"))
    executor = options.pop("executor")
    stated = {key: value for key in ("threads", "quantise", "kv") if (value := options.pop(key)) is not None}
    if is_hosted(name):
        given = [*stated, *(["executor"] if executor != "native" else []), *(["offline"] if offline else [])]
        if given or ignore_keys:
            raise UsageError(f"--{(given or ['ignore-key'])[0]} is for models that run here, and {name} does not")
        return load_hosted(name)
    progress = _Progress(name)
    return load(name, offline=offline, ignore_keys=ignore_keys, progress=progress, executor=executor, **stated)


class _Progress:
    """A line on a terminal's standard error while weights are read; nothing elsewhere, and nothing for quick loads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown = False
        self.started = self.last = time.monotonic()
        self.wanted = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.wanted and now - self.started > 1 and (now - self.last > 0.2 or done == total):
            self.last, self.shown = now, True
            print(f"\rloading {self.name} {100 * done // max(total, 1):3} %", end="", file=sys.stderr, flush=True)
        if done == total and self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _print_stream(stream: Stream | HostedStream, quiet: bool, hide: bool) -> dict[str, Any]:
    """Print an answer as it comes, its thinking beside it and its receipt behind it; the message for the next turn."""
    from trilens.model import EndEvent, TextEvent, ThinkingEvent

    said: dict[str, list[str]] = {"content": [], "thinking": []}
    state: Any = None
    answers, errors = sys.stdout.isatty(), sys.stderr.isatty()
    for event in stream:
        match event:
            case ThinkingEvent(text):
                said["thinking"].append(text)
                if not hide:
                    shown = f"\033[2m{text.translate(UNSAFE)}\033[0m" if errors else text
                    print(shown, end="", file=sys.stderr, flush=True)
            case TextEvent(text):
                if said["thinking"] and not said["content"] and not hide:
                    print("\n", file=sys.stderr)
                said["content"].append(text)
                print(text.translate(UNSAFE) if answers else text, end="", flush=True)
            case EndEvent(receipt, state=state):
                print(flush=True)
                if receipt.finish in ("length", "context"):
                    why = "max_tokens was reached" if receipt.finish == "length" else "the model's context is full"
                    print(f"(cut off: {why})", file=sys.stderr)
                if not quiet:
                    print("\n" + receipt.as_text(), file=sys.stderr)
    message = {"role": "assistant", **{part: "".join(pieces) for part, pieces in said.items()}}
    return message if state is None else {**message, "state": state}


@contextmanager
def _interrupts(stream: Stream | HostedStream) -> Iterator[None]:
    """Ctrl-C asks for the answer first, and ends it the second time."""
    asked = False

    def on_interrupt(number: int, frame: object) -> None:
        nonlocal asked
        if asked or not stream.thinking:
            raise KeyboardInterrupt
        asked = True
        stream.answer_now()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer(answer: Answer[Any]) -> dict[str, Any]:
    return {"text": answer.text, "thinking": answer.thinking, "receipt": answer.receipt.as_dict()}


if __name__ == "__main__":
    sys.exit(main())
