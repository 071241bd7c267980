"""trilens on the command line. Answers go to standard output, everything else to standard error; never a traceback.

Exit codes: 0 done, 1 a bug in trilens, 2 wrong usage (also a value that no model could take), 3 a part of the model is
not supported, 4 a damaged file, 5 not found or no network, 6 the request cannot be carried out, a line of a file could
not be answered, or the answer could not be written, 7 a service or an engine failed, 130 interrupted, 141 the reader of
a pipe has left.
"""

from __future__ import annotations

import os
import sys

import click

from trilens import __version__
from trilens.cli import ledger, look, models, quantise
from trilens.cli.chat import chat
from trilens.cli.completion import VARIABLE, complete, completion
from trilens.cli.examples import EXAMPLES, epilog, example
from trilens.cli.inputs import as_typed
from trilens.cli.serve import serve
from trilens.cli.streams import standard_streams
from trilens.cli.talk import run
from trilens.errors import TrilensError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="trilens %(version)s")
def commands() -> None:
    """Run open-weight language models and see what each call costs.

    `trilens COMMAND --help` lists the options of a command and ends with examples.
    """


for _command in (run, chat, *look.COMMANDS, *models.COMMANDS, *ledger.COMMANDS, *quantise.COMMANDS, serve, completion):
    _command.epilog = epilog(str(_command.name))
    commands.add_command(_command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    with standard_streams():
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    try:
        code = _invoked(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except click.exceptions.NoArgsIsHelpError as bare:
        print(bare.format_message())
        return 0
    except click.ClickException as problem:
        return _complain(_wrong_usage(problem), 2)
    except TrilensError as problem:
        return _complain(as_typed(str(problem)), problem.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:
        return 141
    except MemoryError:
        return _complain("not enough memory for this model; try a smaller one or fewer tokens", 6)
    except Exception as fault:
        if os.environ.get("TRILENS_DEBUG"):
            raise
        where = type(fault).__name__
        return _complain(f"bug in trilens ({where}: {fault}); set TRILENS_DEBUG=1 to see where", 1)


def _invoked(given: list[str]) -> int:
    """Not click's own main(), which handles a closed pipe by itself."""
    instruction = os.environ.get(VARIABLE)
    if instruction:
        return complete(commands, instruction)
    try:
        with commands.make_context("trilens", list(given)) as context:
            commands.invoke(context)
    except click.exceptions.Exit as leave:  # --help and --version
        return leave.exit_code
    return 0


def _wrong_usage(problem: click.ClickException) -> str:
    """What click says; for arguments that are missing or too many, also the command's usage and an example."""
    said, context = problem.format_message(), getattr(problem, "ctx", None)
    about_arguments = isinstance(problem, click.MissingParameter) or "unexpected extra argument" in said
    if not about_arguments or context is None or context.command.name not in EXAMPLES:
        return said
    usage = " ".join([context.command_path, *context.command.collect_usage_pieces(context)])
    return f"{said.rstrip('.')}; expected {usage}, as in: {example(context.command.name)}"


def _complain(problem: str, code: int) -> int:
    print("trilens: " + " ".join(problem.split()), file=sys.stderr)
    return code
