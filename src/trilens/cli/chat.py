"""`trilens chat`: a conversation in a terminal, or line by line if standard input is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trilens.cli.conversation import Saved, last_conversation, read_conversation, write_conversation
from trilens.cli.editor import Editor, LineReader
from trilens.cli.inputs import as_typed, structure
from trilens.cli.loading import load_model
from trilens.cli.options import GENERATION, MODEL, thinking_word
from trilens.cli.terminal import Said, columns, folded, interrupts, print_stream, receipt_line, say
from trilens.errors import ContextFull, TrilensError, UsageError
from trilens.text.strategy import as_thinking

if TYPE_CHECKING:
    from trilens.hosted.model import HostedModel
    from trilens.model import Model


@click.command()
@click.option("--system", metavar="TEXT", help="A system message.")
@click.option("-c", "--continue", "goes_on", is_flag=True, help="Continue the last conversation with its model.")
@click.option("--quiet", is_flag=True, help="Do not print the receipt to standard error.")
@MODEL
@GENERATION
def chat(system: str | None, goes_on: bool, quiet: bool, **options: Any) -> None:
    """Have a conversation. /help lists its commands. Ctrl-D or /exit ends it.

    Enter sends, Alt-Enter starts a new line, and pasted lines stay one message. Ctrl-C ends the thinking, and a second
    time the answer. The text so far is kept.
    """
    saved = Saved()
    if goes_on:
        saved = read_conversation(last_conversation())
        if (
            click.get_current_context().get_parameter_source("model") != click.core.ParameterSource.COMMANDLINE
            and saved.model
        ):
            options["model"] = saved.model
    if system is not None:
        saved.system = system
    if options["thinking"] is not None:
        saved.thinking = options["thinking"]
    hide, held = options.pop("hide_thinking"), structure(options)
    names = ("model", "offline", "ignore_keys", "executor", "threads", "quantise", "kv", "prefix_dir", "prefix_bytes")
    more = ("trust_control_tokens", "speculation", "prediction_block", "keep_packed", "adapter")
    loading = {name: options.pop(name) for name in (*names, *more)}
    if loading["adapter"] is not None:
        options["adapter"], _ = loading["adapter"]
    saved.model = loading["model"]
    conversation = Conversation(saved, load_model(dict(loading)), loading, {**options, **held}, quiet, hide)
    conversation.run(Editor(tuple(COMMANDS)) if sys.stdin.isatty() else LineReader())


class Conversation:
    """The turns so far, and the model that answers the next one."""

    def __init__(
        self,
        saved: Saved,
        model: Model | HostedModel,
        loading: dict[str, Any],
        options: dict[str, Any],
        quiet: bool,
        hide: bool,
    ) -> None:
        self.saved = saved
        self.model = model
        self.receipt: Any = None
        self.question: str | None = None  # the last one, whether or not it was answered
        self.ended = False
        self._loading, self._options, self._quiet, self._hide = loading, options, quiet, hide

    def run(self, reader: Editor | LineReader) -> None:
        while not self.ended:
            try:
                line = reader.read()
            except KeyboardInterrupt:
                say("Ctrl-D or /exit ends the conversation")
                continue
            if line is None:
                break
            try:
                self._said(line.strip())
            except TrilensError as problem:
                if problem is getattr(sys.stdout, "failure", None):
                    raise  # no answer can be shown any more
                say(" ".join(as_typed(str(problem)).split()))
        reader.close()

    def _said(self, line: str) -> None:
        if line.startswith("/") and not line.startswith("//"):
            word, _, rest = line.partition(" ")
            command = COMMANDS.get(word)
            if command is None:
                raise UsageError(
                    f"{word} is not a command; /help lists the commands. Write // for a message that begins with /"
                )
            command(self, rest.strip())
        elif line:
            self.ask(line[1:] if line.startswith("//") else line)

    def ask(self, question: str) -> None:
        """One turn. An error or Ctrl-C before the first word leaves the conversation as it was, for /retry."""
        self.question = question
        system = [] if self.saved.system is None else [{"role": "system", "content": self.saved.system}]
        asked = {"role": "user", "content": question}
        options = {**self._options, "thinking": as_thinking(self.saved.thinking)}
        said = Said()
        try:
            stream = self.model.stream([*system, *self.saved.messages, asked], **options)
            with interrupts(stream):
                print_stream(stream, True, self._hide, said)
        except KeyboardInterrupt:
            with suppress(Exception):
                stream.close()
            if said.content or said.thinking:
                print(file=sys.stdout, flush=True)
                say("stopped; the answer so far is kept")
            else:
                say("stopped before the answer; /retry asks again")
        except ContextFull as problem:
            raise ContextFull(f"{problem}; /undo removes a turn, /exit ends the conversation") from None
        finally:
            if said.content or said.thinking:
                self.saved.messages += [asked, said.message]
                self._keep()
        if said.receipt is not None:
            self.receipt = said.receipt
            if not self._quiet:
                width = columns()
                say(receipt_line(said.receipt, width and width - len("trilens: ")))

    def _keep(self) -> None:
        """Save the conversation for -c. If the disk is full, the conversation continues all the same."""
        with suppress(OSError):
            last_conversation().parent.mkdir(parents=True, exist_ok=True)
            write_conversation(last_conversation(), self.saved)

    # ---------------------------------------------------------------------------------------- commands

    def help(self, rest: str) -> None:
        """show this list"""
        for name, command in COMMANDS.items():
            print(folded(f"  {name:10} {command.__doc__}", " " * 13), file=sys.stderr)
        print(folded("  Enter sends, Alt-Enter starts a new line, Ctrl-C stops an answer"), file=sys.stderr)

    def change_model(self, rest: str) -> None:
        """NAME: continue with another model; without NAME, show the current one"""
        if rest:
            loading = {**self._loading, "model": rest, "adapter": None}  # which was the other model's
            self.model, self._loading, self.saved.model = load_model(dict(loading)), loading, rest
            self._options.pop("adapter", None)
        say(f"the model is {self.saved.model}")

    def change_thinking(self, rest: str) -> None:
        """WORD: on, off, a level or a maximum of tokens; "default" for the model's own"""
        if rest:
            self.saved.thinking = None if rest == "default" else thinking_word(rest)
        say(f"thinking: {self.saved.thinking or 'default of the model'}")

    def change_system(self, rest: str) -> None:
        """TEXT: set the system message; "none" removes it"""
        if rest:
            self.saved.system = None if rest == "none" else rest
        say(f"system: {self.saved.system or 'none'}")

    def save(self, rest: str) -> None:
        """FILE: save the conversation as JSON"""
        if not rest:
            raise UsageError("/save needs a file, as in /save talk.json")
        try:
            write_conversation(Path(rest).expanduser(), self.saved)
        except OSError as problem:
            raise UsageError(f"{rest}: cannot be written ({problem.strerror})") from None
        say(f"saved {_turns(self.saved.messages)} in {rest}")

    def load(self, rest: str) -> None:
        """FILE: continue a saved conversation with the current model"""
        if not rest:
            raise UsageError("/load needs a file, as in /load talk.json")
        found = read_conversation(Path(rest).expanduser())
        found.model = self.saved.model
        self.saved, self.question = found, None
        say(f"loaded {_turns(found.messages)} from {rest}")

    def show_receipt(self, rest: str) -> None:
        """show the whole receipt of the last answer"""
        if self.receipt is None:
            raise UsageError("there is no receipt yet; ask something first")
        print(self.receipt.as_text(), file=sys.stderr)

    def retry(self, rest: str) -> None:
        """ask the last question again"""
        messages = self.saved.messages
        question = self.question or (messages[-2]["content"] if messages else None)
        if question is None:
            raise UsageError("there is no question yet")
        before = messages[-2:] if messages and messages[-2]["content"] == question else []
        del messages[len(messages) - len(before) :]
        left = len(messages)
        try:
            self.ask(question)
        finally:
            if len(messages) == left:  # there is no new answer, so the old one stays
                messages += before

    def undo(self, rest: str) -> None:
        """remove the last question and its answer"""
        if not self.saved.messages:
            raise UsageError("there is no turn to remove")
        del self.saved.messages[-2:]
        self.question = None
        self._keep()
        say(f"removed; {_turns(self.saved.messages)} left")

    def exit(self, rest: str) -> None:
        """end the conversation, as Ctrl-D does; `trilens chat -c` continues it"""
        self.ended = True


def _turns(messages: list[dict[str, Any]]) -> str:
    count = len(messages) // 2
    return f"{count} turn" if count == 1 else f"{count} turns"


COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "/help": Conversation.help,
    "/model": Conversation.change_model,
    "/thinking": Conversation.change_thinking,
    "/system": Conversation.change_system,
    "/save": Conversation.save,
    "/load": Conversation.load,
    "/receipt": Conversation.show_receipt,
    "/retry": Conversation.retry,
    "/undo": Conversation.undo,
    "/exit": Conversation.exit,
}
