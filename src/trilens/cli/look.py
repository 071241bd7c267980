"""The commands that look at models and at this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from trilens.cli.inputs import prompt_text, text_of
from trilens.cli.options import COUNTED_ADAPTERS, THREADS, Number, Rate, ThinkingWord
from trilens.cli.streams import json_text
from trilens.cli.terminal import Progress, say
from trilens.errors import UsageError
from trilens.files import exists, write_whole
from trilens.text.strategy import as_thinking


@click.command()
@click.argument("model")
@click.option(
    "--context",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of tokens that a token attends to, itself included.",
)
@click.option("--kv-type", default="f16", show_default=True, help="Number format of the KV cache.")
@COUNTED_ADAPTERS
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def card(
    model: str, context: int, kv_type: str, adapters: tuple[tuple[str, str], ...], offline: bool, as_json: bool
) -> None:
    """Show what MODEL is and what one token costs, through three lenses. Needs no weights."""
    from trilens.lenses.cards.card import card as make_card

    result = make_card(model, context=context, kv_type=kv_type, offline=offline, adapters=dict(adapters))
    print(json_text(result.as_dict()) if as_json else result.as_text())


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--context",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Number of tokens that a token attends to.",
)
@click.option("--machine", help="Compare speed and memory on this machine (this) or on accelerators (h100x8).")
@click.option("--engine", help="Engine on that machine. Default: trilens on this machine, otherwise vllm or mlx-lm.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of concurrent sequences on that machine.",
)
@click.option(
    "--thinking",
    type=ThinkingWord(),
    metavar="WORD",
    help="off, on, a level, or a maximum number of tokens, for models that can think.",
)
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path), metavar="FILE", help="Also draw a plot, as .svg or .png."
)
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of cards or plans.")
def compare(
    models: tuple[str, ...],
    context: int,
    machine: str | None,
    picture: Path | None,
    offline: bool,
    as_json: bool,
    **there: Any,
) -> None:
    """Compare models by memory and compute per token, or with --machine by memory and speed."""
    from trilens.lenses.plans.compare import compare as make_comparison
    from trilens.lenses.plans.compare_plans import PlanComparison, compare_plans
    from trilens.lenses.plans.plot import plot, plot_plans

    if machine is None and (there["thinking"] is not None or there["engine"] is not None or there["batch"] != 1):
        raise UsageError("--thinking, --engine and --batch compare speeds; name the machine too, as in --machine this")
    made = (
        make_comparison(models, context=context, offline=offline)
        if machine is None
        else compare_plans(models, context=context, machine=machine, offline=offline, say=say, **there)
    )
    if picture is not None:
        plot_plans(made, picture) if isinstance(made, PlanComparison) else plot(made, picture)
    print(json_text(made.as_dict()) if as_json else made.as_text())


@click.command()
@click.argument("model")
@click.option("--context", type=click.IntRange(1), help="Tokens per sequence. Default: 4096, or the model's maximum.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Number of concurrent sequences.")
@click.option(
    "--machine",
    default="this",
    show_default=True,
    help="This machine (this), accelerators (h100x8), or a file of doctor --export.",
)
@click.option(
    "--engine",
    help="trilens, llama.cpp, vllm, sglang, mlx-lm, tensorrt-llm or transformers. Default: the best for the machine.",
)
@click.option("--quantise", help="own, bf16, fp8, 8bit or 4bit. Default: the most bits that fit.")
@click.option("--kv-type", default="f16", show_default=True, help="Number format of the KV cache: one type, or K,V.")
@click.option(
    "--thinking",
    type=ThinkingWord(),
    metavar="WORD",
    help="off, on, a level, or a maximum number of tokens. Default: the model's own.",
)
@THREADS
@click.option("--bandwidth", type=Number(), metavar="GB/S", help="Memory bandwidth, for a machine that is not listed.")
@click.option("--tflops", type=Number(), metavar="TFLOPS", help="Its 32-bit arithmetic, without matrix units.")
@click.option("--memory", type=Number(), metavar="GB", help="Its memory.")
@click.option(
    "--accepted",
    type=Number(),
    default=1.0,
    show_default=True,
    metavar="TOKENS",
    help="Tokens that a step yields on average with speculative decoding.",
)
@COUNTED_ADAPTERS
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def plan(model: str, as_json: bool, adapters: tuple[tuple[str, str], ...], **options: Any) -> None:
    """Predict whether MODEL fits a machine and how fast it will be, and print the commands that start it."""
    from trilens.generate import arguments
    from trilens.lenses.plans.plan import plan as make_plan

    held = arguments.adapters(dict(adapters)).values()
    result = make_plan(model, say=say, adapters=held, **options)
    print(json_text(result.as_dict()) if as_json else result.as_text())


@click.command()
@click.option(
    "--machine",
    required=True,
    help="A machine that trilens knows (rtx4090, h100x8), a file of doctor --export, or cuda, metal, cpu, ...",
)
@click.option(
    "--task",
    type=click.Choice(["chat", "code", "any"]),
    default="chat",
    show_default=True,
    help="Which models to consider: those that chat, those made for code, or all.",
)
@click.option("--context", type=click.IntRange(1), default=4096, show_default=True, help="Tokens per sequence.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Number of concurrent sequences.")
@click.option(
    "--thinking",
    type=ThinkingWord(),
    metavar="WORD",
    help="off, on, a level, or a maximum number of tokens. Default: each model's own.",
)
@click.option(
    "--at-least", type=Rate(), default=0.0, metavar="RATE", help="Tokens a second per sequence, as in 20tok/s."
)
@click.option(
    "--sort",
    type=click.Choice(["total", "active", "speed", "answer"]),
    default="total",
    show_default=True,
    help="Sort by total or active parameters, tokens a second, or seconds of an answer.",
)
@click.option("--engine", help="llama.cpp, vllm, sglang or mlx-lm. Default: the usual one for the machine.")
@click.option("--bandwidth", type=Number(), metavar="GB/S", help="Memory bandwidth, for a machine that is not listed.")
@click.option("--tflops", type=Number(), metavar="TFLOPS", help="Its 32-bit arithmetic, without matrix units.")
@click.option("--memory", type=Number(), metavar="GB", help="Its memory.")
@click.option("--all", "every", is_flag=True, help="Show every model that fits, not only the first 15.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def which(machine: str, every: bool, as_json: bool, **options: Any) -> None:
    """Show which open models fit a machine, at which quantisation, and how fast they will be there."""
    from trilens.lenses.plans.which import which as find
    from trilens.lenses.plans.which_text import SHOWN, which_text

    answer = find(machine, **options)
    most = len(answer.candidates) if every else SHOWN
    print(json_text(answer.as_dict()) if as_json else which_text(answer, most=most))


@click.command()
@click.argument("model")
@click.option("--engine", help="Show only this engine, for example vllm.")
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def thinking(model: str, engine: str | None, offline: bool, as_json: bool) -> None:
    """Show how to ask MODEL for thinking: its template's settings, and the request fields of services and engines."""
    from trilens.hosted.asking import asking

    found = asking(model, engine=engine, offline=offline)
    dicts = [one.as_dict() for one in found]
    print(json_text(dicts) if as_json else "\n\n".join(one.as_text() for one in found))


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def tag(file: str, as_json: bool) -> None:
    """Classify the model names in FILE, one per line: dense or routed, and whether they think. - is standard input."""
    from trilens.lenses.cards.tag import read_names, tag_as_dict, tag_names, tags_as_text

    if file != "-" and not exists(Path(file)):
        raise UsageError(f"{file}: no such file; expected a file of model names. For one name: trilens card {file}")
    tags = tag_names(read_names(text_of(file)))
    if not tags:
        raise UsageError(f"{file}: contains no names; expected one model name per line")
    print(json_text([tag_as_dict(t) for t in tags]) if as_json else tags_as_text(tags))


@click.command()
@click.argument("model")
@click.argument("prompt")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: a line for each token, layer and rank.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path), metavar="FILE", help="Also draw a heat map, as .svg or .png."
)
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Quantise unquantised weights while loading.")
@click.option("--thinking", type=ThinkingWord(), metavar="WORD", help="The same as for run.")
@click.option("--max-tokens", type=click.IntRange(1), help="Maximum number of tokens of the answer.")
@click.option(
    "--temperature",
    type=Number(0, 100),
    default=0.0,
    show_default=True,
    help="Randomness. 0 always takes the most likely token.",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="The same seed gives the same answer.")
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
    """Show which experts of MODEL fire for PROMPT and its answer, for each token and layer."""
    import csv

    from trilens.loading import load
    from trilens.trials.routing import trace as make_trace

    smaller: dict[str, Any] = {"quantise": quantise} if quantise else {}
    loaded = load(model, offline=offline, progress=Progress(model), **smaller)
    result = make_trace(loaded, prompt_text(prompt), thinking=as_thinking(thinking), **options)
    if picture is not None:
        from trilens.trials.heat_map import heat_map

        heat_map(result, picture)
    if as_csv:
        rows = list(result.rows())
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else ["position"])
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(json_text(result.as_dict()) if as_json else result.as_text())


@click.command()
@click.option(
    "--questions",
    type=click.IntRange(1),
    default=120,
    show_default=True,
    help="Number of held-out questions for each combination.",
)
@click.option("--stretch", is_flag=True, help="Ask harder questions: products with a number of three digits.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of four objects.")
def combos(questions: int, stretch: bool, as_json: bool) -> None:
    """Ask the two small models, dense and routed, the same questions with thinking and without.

    None of the questions was trained on. Two single digits were, in other wordings.
    """
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
    print(json_text(as_dicts(rows)) if as_json else as_text(rows))


@click.command()
@click.argument("model")
def pull(model: str) -> None:
    """Download MODEL and print where its files are."""
    from trilens.checkpoints.find import find

    print(find(model).path)


@click.command()
@click.argument("model")
@click.option("--prompt", type=click.IntRange(1), default=256, show_default=True, help="Number of prompt tokens.")
@click.option("--decode", type=click.IntRange(1), default=32, show_default=True, help="Number of answer tokens.")
@THREADS
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of measured rounds. A warm-up round comes first.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Number of sequences that decode together."
)
@click.option(
    "--activations",
    type=click.Choice(["8bit", "16bit"]),
    default="8bit",
    show_default=True,
    help="Number format of activations for quantised weights.",
)
@click.option("--quantise", type=click.Choice(["8bit", "4bit"]), help="Quantise unquantised weights first.")
@click.option(
    "--kernels",
    type=click.Choice(["", "avx512", "avx2", "neon", "portable"]),
    default="",
    help="Kernel set. Default: the fastest that this processor supports.",
)
@click.option(
    "--share",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also append the result to this CSV file as a row of benchmarks/published.csv, with what made it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def bench(model: str, as_json: bool, share: Path | None, **options: Any) -> None:
    """Measure the speed of MODEL here, and compare it with this machine's memory bandwidth and arithmetic."""
    from trilens.lenses.costs.calibration import add, key_of
    from trilens.lenses.machines.bench import as_text, measure

    result = measure(model, **options)
    if result["expert_overlap"] is not None:  # what a batch costs depends on it, so later forecasts use it
        key = key_of(model, result["threads"], result["activations"], "f16", result["weight_bytes"])
        add(key, {"overlap": result["expert_overlap"]})
    print(json_text(result) if as_json else as_text(result))
    if share is not None:  # last, so that nothing measured is lost where it cannot be written
        from trilens.lenses.machines.share import append

        append(share, result)


@click.command()
@click.option("--measure", is_flag=True, help="Also measure this machine, and save the result.")
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Number of threads to measure with. Default: the physical cores."
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Measure this machine and write FILE, which --machine FILE of plan, compare and which reads elsewhere.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def doctor(measure: bool, threads: int | None, export: Path | None, as_json: bool) -> None:
    """Show what is installed, what this machine has, and where files are kept."""
    from trilens.lenses.machines.doctor import examine

    if export is not None and export.suffix != ".json":
        raise UsageError(f"--export is {export}; expected a name that ends in .json, by which --machine knows it")

    report: dict[str, Any] = {**examine()}
    machine = None
    if measure or export is not None:
        from trilens.lenses.machines.machine import measured

        machine = measured(threads, anew=True, say=say)
    if as_json:
        print(json_text({**report, **({} if machine is None else {"machine": machine.as_dict()})}))
    else:
        for name, value in report.items():
            print(f"{name:12} {value}")
        if machine is not None:
            print(machine.as_text())
    if export is not None and machine is not None:
        try:
            write_whole(export, json_text(machine.exported()) + "\n", 0o644)
        except OSError as problem:
            raise UsageError(f"{export}: cannot be written ({problem.strerror}); choose another place") from None


COMMANDS = (card, compare, plan, which, thinking, tag, trace, combos, pull, bench, doctor)
