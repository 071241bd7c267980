"""The command that asks a model: `run`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trilens.cli.answers import Results, answer_fields, answer_lines
from trilens.cli.inputs import prompt_with_context, structure, with_system
from trilens.cli.lines import open_lines
from trilens.cli.loading import load_model
from trilens.cli.options import GENERATION, MODEL
from trilens.cli.streams import json_text
from trilens.cli.terminal import print_stream, with_progress
from trilens.errors import UsageError
from trilens.text.strategy import as_thinking

if TYPE_CHECKING:
    from trilens.model import Prompt


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--file",
    "prompts_file",
    type=click.Path(path_type=Path),
    help='Answer a file of JSON lines: {"prompt": ...} or {"messages": ...}, each with options of its own.',
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append the answers of --file to this file.",
)
@click.option("--resume", is_flag=True, help="Answer only the lines of --file that have no answer in --output yet.")
@click.option(
    "-f",
    "context_files",
    multiple=True,
    metavar="FILE",
    help="Put this text file before the prompt. May be repeated.",
)
@click.option("--system", metavar="TEXT", help="A system message.")
@click.option("--raw", is_flag=True, help="Send the prompt as it is, without the chat template.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: text, thinking, receipt.")
@click.option("--quiet", is_flag=True, help="Do not print the receipt to standard error.")
@MODEL
@GENERATION
def run(
    prompt: str | None,
    prompts_file: Path | None,
    output: Path | None,
    resume: bool,
    context_files: tuple[str, ...],
    system: str | None,
    raw: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Answer PROMPT, standard input, or every prompt of a file.

    With PROMPT, standard input and the files of -f are put before it: `cat notes | trilens run "Sum up"`. With --file
    and --output, --resume continues an interrupted run.
    """
    if prompts_file is not None and (prompt is not None or context_files):
        raise UsageError("--file cannot be combined with a prompt or -f; give one of them")
    if output is not None and prompts_file is None:
        raise UsageError("--output works with --file only; redirect a single answer with >")
    if resume and output is None:
        raise UsageError("--resume needs --output, the file with the answers so far")
    if system is not None and raw:
        raise UsageError("--system needs the chat template; leave out --raw")
    hide, held = options.pop("hide_thinking"), structure(options)
    asked: Prompt = prompt_with_context(prompt, context_files) if prompts_file is None else ""
    lines = None if prompts_file is None else open_lines(prompts_file)
    with ExitStack() as unread:  # once it is read, its reader closes it
        if lines is not None:
            unread.enter_context(lines.file)
        results = Results(output, resume)
        if system is not None:
            asked = with_system(system, asked)
        loaded = load_model(options)
        unread.pop_all()
    options |= {"thinking": as_thinking(options["thinking"]), **held}
    if lines is not None:
        answer_lines(loaded, lines, system, {"raw": raw, **options}, results)
    elif as_json:
        from trilens.generate.whole import fold

        [answer] = fold(with_progress(loaded.stream(asked, raw=raw, **options)), 1)
        print(json_text(answer_fields(answer)))
    else:
        print_stream(loaded.stream(asked, raw=raw, **options), quiet, hide)
