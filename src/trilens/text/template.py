"""Chat templates: messages in, the text that the model was trained on out.

A template is code that came with the weights. It runs in `sandbox`, without files, network or other templates, and
always ends in time.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError

from trilens.errors import BadCheckpoint, BadTemplate, RequestRefused
from trilens.files import read_json_object
from trilens.text.accepts import Accepts, probed
from trilens.text.allowance import together, used_up
from trilens.text.conversation import Message, Text, plain, read_conversation
from trilens.text.meter import METER, Meter, OverLimit, TemplateRefusal
from trilens.text.sandbox import MAX_SOURCE, Callback, environment

if TYPE_CHECKING:
    from trilens.text.tokenizer import Tokenizer

RESERVED = frozenset(  # no caller's variables
    ("messages", "tools", "add_generation_prompt", "continue_final_message", "strftime_now")
)
TOKEN_NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
OWN_NAMES = RESERVED | {*TOKEN_NAMES, "additional_special_tokens"}
CONTROL = 3  # the type of a control token in GGUF; a card must not wait for the tokenizers library
SECONDS = 1.5  # of processor time for all renderings that find out what a template accepts


class _Failed(BadTemplate):
    """A rendering failed. `always`: because of what the template tries to access, whatever the conversation."""

    def __init__(self, said: str, always: bool) -> None:
        super().__init__(f"{said}; it is damaged or hostile, use another")
        self.said = said
        self.always = always


class ChatTemplate:
    """One template, compiled. Renders from any number of threads at a time.

    Prints what transformers prints, but for `| safe`, which is here no more than the text itself: there it makes
    what is added to it HTML, quotes and all.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        tokens: Mapping[str, Any] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`tokens` are further special tokens by the names that templates know, such as "pad_token"; `now` is the clock
        behind `strftime_now`. Raises BadTemplate for a template that cannot be compiled."""
        if len(source) > MAX_SOURCE:
            raise BadTemplate(f"the chat template has {len(source)} characters; at most {MAX_SOURCE} are read")
        self.source = source
        self._tokens = {**(tokens or {}), "bos_token": bos_token, "eos_token": eos_token}
        self._now = now
        try:
            self._template = environment().from_string(source)
            names = meta.find_undeclared_variables(environment().parse(source))
        except TemplateSyntaxError as fault:
            raise BadTemplate(f"chat template, line {fault.lineno}: {_one_line(fault.message)}; use another") from None
        except Exception as fault:  # whatever a hostile text brings Jinja or Python's compiler to
            raise BadTemplate(f"the chat template cannot be compiled: {_one_line(fault)}; use another") from None
        self._reads_tools = "tools" in names
        self._variables = frozenset(names) - OWN_NAMES - environment().globals.keys()

    @property
    def reads_tools(self) -> bool:
        """Whether it shows the model its tools."""
        return self._reads_tools

    def variables(self) -> frozenset[str]:
        """Names that the template reads and `render` does not give it by itself, such as "enable_thinking"."""
        return self._variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any] | Message],
        /,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt, with the messages in the form that this template reads (`accepts`).

        With `continue_final_message` it ends with the last message's own text, for the model to go on with it.
        `variables` are JSON data, passed to the template by name. Raises RequestRefused for what is no conversation,
        for one that the template itself refuses, and for one that it fails on though it renders a plain one;
        BadTemplate for a template that fails on that too.
        """
        read = read_conversation(messages)
        given = plain({**self._tokens, **variables, "tools": None if tools is None else list(tools)}, "the variables")
        try:
            if continue_final_message:
                return self._continued(read, given)
            shown = self.accepts.shown(read)
            return self._render({**given, "messages": shown, "add_generation_prompt": add_generation_prompt})
        except _Failed as problem:
            if problem.always or not self._works:
                raise
            raise RequestRefused(
                f"the model's chat template fails on this conversation, though not on a plain one ({problem.said}); "
                "look at its tool calls, tools and template variables"
            ) from None

    def _continued(self, messages: list[Message], given: dict[str, Any]) -> str:
        """The prompt up to the end of the last message's text, found by a word that is put behind it."""
        last = messages[-1]
        if last.role != "assistant" or not last.text or last.calls:
            raise RequestRefused(
                "continue_final_message has nothing to continue: the last message is not a text of the assistant; "
                "end the conversation with one, or leave the option out"
            )
        word = f"TRILENS{secrets.token_hex(8)}"
        *before, end = last.texts
        ended = last.with_texts([*before, end + word])
        shown = self.accepts.shown([*messages[:-1], ended])
        prompt = self._render({**given, "messages": shown, "add_generation_prompt": False})
        at = prompt.rfind(word)
        if at < 0:
            raise RequestRefused(
                "the model's chat template does not show the last message as it is, so it cannot be continued; end "
                "the conversation with the user's"
            )
        return prompt[:at]

    @cached_property
    def accepts(self) -> Accepts:
        """What it reads of a conversation, found out once. What a template refuses to show stays at the usual form."""
        with together(SECONDS):
            found = probed(self._printed)
            if used_up() and found != Accepts():
                raise BadTemplate(
                    f"the chat template takes more than {SECONDS:g} s of processor time for a few short "
                    "conversations; it is damaged or hostile, use another"
                )
        return found

    def changes(self, said: str) -> bool:
        """Whether it shows this text of the assistant otherwise than as it is, now or in later turns."""
        asked, answered = Message("user", (Text("Hello"),)), Message("assistant", (Text(said),))
        with together(SECONDS):
            shown = [self._printed(self.accepts.shown(chat)) for chat in ([asked, answered, asked], [asked, answered])]
        return any(prompt is not None and said not in prompt for prompt in shown)

    def _printed(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str | None:
        """Render exactly these messages; None if that fails."""
        if used_up():
            return None
        given = {**self._tokens, "tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            return self._render({**given, "messages": list(messages)})
        except (BadTemplate, RequestRefused):
            return None

    @cached_property
    def _works(self) -> bool:
        """Whether it renders the simplest conversation."""
        plain = {**self._tokens, "tools": None, "add_generation_prompt": True}
        try:
            self._render({**plain, "messages": [{"role": "user", "content": "Hello"}]})
        except (BadTemplate, RequestRefused):
            return False
        return True

    def _render(self, variables: dict[str, Any]) -> str:
        token = METER.set(Meter(variables))
        try:
            context = self._template.new_context({**variables, "strftime_now": Callback(self._strftime)})
            return environment().concat(self._template.root_render_func(context))
        except TemplateRefusal as refusal:
            raise RequestRefused(f"the chat template refuses the conversation: {_one_line(refusal)}") from None
        except Exception as fault:
            said = f"chat template, line {self._line(fault)}: {_one_line(fault)}"
            raise _Failed(said, isinstance(fault, SecurityError)) from None
        finally:
            METER.reset(token)

    def _strftime(self, form: str) -> str:
        if len(form) > 100 or any(character.isdigit() for character in form):  # a digit can be a width
            raise OverLimit(f"it formats the time with {form[:40]!r}")
        return self._now().strftime(form)

    def _line(self, fault: BaseException) -> int:
        """The line of the template where an error occurred; 1 if rendering did not begin."""
        line, frame = 1, fault.__traceback__
        while frame is not None:
            if frame.tb_frame.f_globals.get("__jinja_template__") is self._template:
                line = self._template.get_corresponding_lineno(frame.tb_lineno)
            frame = frame.tb_next
        return line


def find_templates(directory: str | Path) -> dict[str, str]:
    """The chat templates beside a checkpoint, by name; the usual one is "default". {} if there is none.

    In rising order of precedence: tokenizer_config.json, chat_template.json, chat_template.jinja and
    additional_chat_templates/. Raises BadCheckpoint for a file that cannot be read as what it should be.
    """
    directory = Path(directory)
    found: dict[str, str] = {}
    try:
        for name in ("tokenizer_config.json", "chat_template.json"):
            if (path := directory / name).is_file():
                found |= _named(json.loads(path.read_bytes()).get("chat_template"))
        path = directory / "chat_template.jinja"
        if path.is_file():
            found["default"] = path.read_text(encoding="utf-8")
        for path in sorted((directory / "additional_chat_templates").glob("*.jinja")):
            found[path.stem] = path.read_text(encoding="utf-8")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as fault:
        raise BadCheckpoint(
            f"{path}: its chat template cannot be read ({_one_line(fault)}); download it again"
        ) from None
    return found


def gguf_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates in GGUF metadata, by name; the usual one is "default". {} if there is none."""
    key = "tokenizer.chat_template"
    found = {name[len(key) + 1 :]: source for name, source in metadata.items() if name.startswith(key + ".")}
    if key in metadata:
        found["default"] = metadata[key]
    if not all(isinstance(source, str) for source in found.values()):
        raise BadCheckpoint(f"{key} in the GGUF file is not a text; convert the model again")
    return found


def directory_template(
    directory: str | Path, tokenizer: "Tokenizer | None" = None, *, name: str = "default"
) -> ChatTemplate | None:
    """The chat template beside a checkpoint, None if there is none of that name; raises as its parts do."""
    source = find_templates(directory).get(name)
    return None if source is None else _template(source, tokenizer, directory_tokens(Path(directory)))


def gguf_template(
    metadata: Mapping[str, Any], tokenizer: "Tokenizer | None" = None, *, name: str = "default"
) -> ChatTemplate | None:
    """The chat template in GGUF metadata, None if there is none of that name; raises as its parts do."""
    source = gguf_templates(metadata).get(name)
    return None if source is None else _template(source, tokenizer, gguf_tokens(metadata))


def directory_tokens(directory: Path) -> dict[str, Any]:
    """The special tokens that the files beside a checkpoint name, by the names that templates know."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        with suppress(FileNotFoundError):
            config |= read_json_object(directory / name)
    named = {key: text for key, value in config.items() if key.endswith("_token") and (text := _text_of(value))}
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    if isinstance(extra, dict):
        return named | {key: text for key, value in extra.items() if (text := _text_of(value))}
    listed = [text for value in extra if (text := _text_of(value))] if isinstance(extra, list) else []
    return {**named, "additional_special_tokens": listed}


def gguf_tokens(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens in GGUF metadata, by the names that templates know. All control tokens without a name of their
    own are additional ones, for the file says no more."""
    tokens, types = metadata.get("tokenizer.ggml.tokens", ()), metadata.get("tokenizer.ggml.token_type", ())
    words = {"unknown": "unk", "seperator": "sep", "padding": "pad", "cls": "cls", "mask": "mask"}
    ids = {f"{short}_token": metadata.get(f"tokenizer.ggml.{word}_token_id") for word, short in words.items()}
    named = {name: tokens[i] for name, i in ids.items() if isinstance(i, int) and 0 <= i < len(tokens)}
    control = [text for text, kind in zip(tokens, types, strict=False) if kind == CONTROL]
    return {**named, "additional_special_tokens": [text for text in control if text not in named.values()]}


def _text_of(token: Any) -> str | None:
    """The text of a token that is written as it is, or as {"content": text}."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _template(source: str, tokenizer: "Tokenizer | None", tokens: Mapping[str, Any]) -> ChatTemplate:
    if tokenizer is None:
        return ChatTemplate(source, tokens=tokens)
    return ChatTemplate(source, bos_token=tokenizer.bos, eos_token=tokenizer.eos, tokens=tokens)


def _named(value: Any) -> dict[str, str]:
    """One template, or a list of {"name": ..., "template": ...}."""
    if value is None:
        return {}
    entries = [("default", value)] if isinstance(value, str) else [(e["name"], e["template"]) for e in value]
    if not all(isinstance(text, str) for entry in entries for text in entry):
        raise TypeError("a template or its name is not a text")
    return dict(entries)


def _one_line(fault: object) -> str:
    text = " ".join(str(fault).split()) or type(fault).__name__
    return text if len(text) <= 200 else text[:197] + "..."
