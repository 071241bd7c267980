"""The commands that make a model's file smaller, and measure the loss in quality."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from trilens.cli.inputs import text_of
from trilens.cli.options import THREADS
from trilens.cli.streams import json_text
from trilens.cli.terminal import Progress, say
from trilens.units import data


@click.command()
@click.argument("model")
@click.option(
    "--to",
    required=True,
    metavar="TYPE",
    help="The new type: F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, Q3_K_M and others.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The new GGUF file."
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Number of threads. Default: the cores that this process may use."
)
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as a JSON object.")
def quantise(model: str, to: str, output: Path, threads: int | None, offline: bool, as_json: bool) -> None:
    """Write a GGUF file with MODEL's weights in another type. It runs in trilens and in llama.cpp."""
    from trilens.checkpoints.find import find
    from trilens.convert.file_types import file_type
    from trilens.convert.write_gguf import quantise as write

    kind = file_type(to)
    found = find(model, offline=offline)
    made = write(found, kind, output, threads=threads, progress=Progress(model, "quantising"))
    if made.twice:
        say(f"{model} was quantised before, and the errors add up; the original weights give a better file")
    if as_json:
        print(json_text({**asdict(made), "path": str(made.path)}))
    else:
        types = ", ".join(f"{count} {name}" for name, count in sorted(made.types.items()))
        print(f"{made.path}: {data(made.after)} of weights ({data(made.before)} before), {types}")


@click.command()
@click.argument("model")
@click.argument("file")
@click.option("--context", type=click.IntRange(16), default=512, show_default=True, help="Number of tokens per piece.")
@click.option("--pieces", type=click.IntRange(1), help="Read only this many pieces.")
@THREADS
@click.option("--offline", is_flag=True, help="Use only files on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def perplexity(
    model: str, file: str, context: int, pieces: int | None, threads: int | None, offline: bool, as_json: bool
) -> None:
    """Measure how well MODEL predicts the text in FILE. Lower is better. - is standard input."""
    from trilens.loading import load
    from trilens.trials.perplexity import perplexity as measure

    text = text_of(file)
    loaded = load(model, offline=offline, threads=threads, progress=Progress(model))
    found = measure(loaded, text, context=context, pieces=pieces, progress=Progress(model, "reading with"))
    print(json_text(asdict(found)) if as_json else found.as_text())


COMMANDS = (quantise, perplexity)
