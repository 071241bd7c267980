"""The command that prints a shell's completion script. click writes the script and answers its questions."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class, shell_complete

VARIABLE = "_TRILENS_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    print(kind(context.find_root().command, {}, "trilens", VARIABLE).source())


def complete(commands: click.Group, instruction: str) -> int:
    """Answer the script's question, which comes in the environment; an exit code."""
    return shell_complete(commands, {}, "trilens", VARIABLE, instruction)
