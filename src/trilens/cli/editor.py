"""The source of a conversation's lines: a line editor on a terminal, else standard input."""

from __future__ import annotations

import sys
from contextlib import suppress

from trilens import system
from trilens.cli.conversation import state_directory
from trilens.cli.streams import read_line


class LineReader:
    """Standard input, a message a line."""

    def read(self) -> str | None:
        """None at the end."""
        return read_line() or None

    def close(self) -> None:
        pass


class Editor:
    """A line editor with a history that is kept. Several lines are one message: typed with Alt-Enter, or pasted."""

    def __init__(self, commands: tuple[str, ...]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
        from prompt_toolkit.output import create_output

        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        history: History = InMemoryHistory()
        with suppress(OSError):
            directory = state_directory()
            directory.mkdir(parents=True, exist_ok=True)
            file = directory / "chat-history"
            file.touch(mode=0o600)
            history = FileHistory(file)
        self._session: PromptSession[str] = PromptSession(
            multiline=True,  # the up key then moves within a message first, and Enter is the binding above
            history=history,
            key_bindings=keys,
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            prompt_continuation="  ",
            # answers may go to a file, so the editor is where a person is
            output=create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr),
        )

    def read(self) -> str | None:
        """None at Ctrl-D. Raises KeyboardInterrupt for Ctrl-C."""
        try:
            return self._session.prompt("> ")
        except EOFError:
            return None

    def close(self) -> None:
        """Discard what was typed or pasted but not read; otherwise the shell would run it."""
        system.drop_typed_input()
