"""Chat templates: messages in, the text that the model was trained on out.

A template is code that came with the weights. It runs in `sandbox`, without files, network or other templates, and
ends in time whatever it tries.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError

from trilens.errors import BadCheckpoint, BadTemplate, RequestRefused
from trilens.text.meter import METER, Meter, OverLimit, TemplateRefusal
from trilens.text.sandbox import MAX_SOURCE, Callback, environment

if TYPE_CHECKING:
    from trilens.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
MOST_DEPTH = 64  # of lists and objects in a request; a schema in a tool has ten
RESERVED = frozenset(("messages", "tools", "add_generation_prompt", "strftime_now"))  # no caller's variables
OWN_NAMES = RESERVED | {"bos_token", "eos_token"}


class _Failed(BadTemplate):
    """A rendering failed. `always`: for what the template reaches for, which is no conversation's fault."""

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
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`now` is the clock behind `strftime_now`. Raises BadTemplate for a template that cannot be compiled."""
        if len(source) > MAX_SOURCE:
            raise BadTemplate(f"the chat template has {len(source)} characters; at most {MAX_SOURCE} are read")
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._now = now
        self._reads_parts = False
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
        messages: Sequence[Message],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt. A content may be a text or a list of text parts, which are joined with newlines.

        `variables` are JSON data, passed to the template by name. Raises RequestRefused for messages of another
        shape, for a conversation that the template itself refuses, and for one that it fails on though it renders a
        plain one; BadTemplate for a template that fails on that too.
        """
        try:
            return self._rendered(messages, add_generation_prompt, tools, variables)
        except _Failed as problem:
            if problem.always or not self._works:
                raise
            raise RequestRefused(
                f"the model's chat template fails on this conversation, though not on a plain one ({problem.said}); "
                "look at its tool calls, tools and template variables"
            ) from None

    @cached_property
    def _works(self) -> bool:
        """Whether it renders the plainest of conversations."""
        plain = {**self._tokens, "tools": None, "add_generation_prompt": True}
        try:
            self._render({**plain, "messages": [{"role": "user", "content": "Hello"}]})
        except (BadTemplate, RequestRefused):
            return False
        return True

    def _rendered(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        texts = _checked(messages)
        given = _plain({**self._tokens, **variables, "tools": None if tools is None else list(tools)}, "the variables")
        given["add_generation_prompt"] = add_generation_prompt
        if self._reads_parts:
            return self._render({**given, "messages": _typed(texts)})
        prompt = self._render({**given, "messages": texts})
        if _lost(texts, prompt):
            # Templates of models that also see images may read content only as a list of typed parts.
            try:
                again = self._render({**given, "messages": _typed(texts)})
            except (BadTemplate, RequestRefused):  # it changes what was said, and reads it as text all the same
                return prompt
            if not _lost(texts, again):
                self._reads_parts = True
                return again
        return prompt

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
        """The line of the template that a fault comes from; 1 if it never got that far."""
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
    return _template(find_templates(directory).get(name), tokenizer)


def gguf_template(
    metadata: Mapping[str, Any], tokenizer: "Tokenizer | None" = None, *, name: str = "default"
) -> ChatTemplate | None:
    """The chat template in GGUF metadata, None if there is none of that name; raises as its parts do."""
    return _template(gguf_templates(metadata).get(name), tokenizer)


def _template(source: str | None, tokenizer: "Tokenizer | None") -> ChatTemplate | None:
    if source is None:
        return None
    bos, eos = ("", "") if tokenizer is None else (tokenizer.bos, tokenizer.eos)
    return ChatTemplate(source, bos_token=bos, eos_token=eos)


def _named(value: Any) -> dict[str, str]:
    """One template, or a list of {"name": ..., "template": ...}."""
    if value is None:
        return {}
    entries = [("default", value)] if isinstance(value, str) else [(e["name"], e["template"]) for e in value]
    if not all(isinstance(text, str) for entry in entries for text in entry):
        raise TypeError("a template or its name is not a text")
    return dict(entries)


def check_messages(messages: Sequence[Message]) -> None:
    """Raises RequestRefused for messages that are no conversation, naming the message and what is wrong in it."""
    _checked(messages)


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Copies of the messages in plain data, with contents that are texts."""
    if not isinstance(messages, list | tuple) or not messages:
        raise RequestRefused('the conversation is empty or no list; expected [{"role": ..., "content": ...}, ...]')
    texts = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestRefused(f"message {number} has no role; expected a role such as 'user' and a content")
        copy = _plain(message, f"message {number}")
        content = copy.get("content")
        if isinstance(content, list):
            copy["content"] = "\n".join(_text_part(part, number) for part in content)
        elif not isinstance(content, str) and not (content is None and copy.get("tool_calls")):
            raise RequestRefused(
                f"message {number}: content is {content!r:.60}; expected a text or a list of text parts"
            )
        for name in ("name", "tool_call_id"):
            if not isinstance(copy.get(name), str | None):
                raise RequestRefused(f"message {number}: {name} is {copy[name]!r:.60}; expected a text")
        if copy.get("tool_calls") is not None:
            _check_calls(copy["tool_calls"], number)
        texts.append(copy)
    return texts


def _check_calls(calls: Any, number: int) -> None:
    if not isinstance(calls, list):
        raise RequestRefused(f"message {number}: tool_calls is {calls!r:.60}; expected a list")
    for place, call in enumerate(calls, 1):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestRefused(
                f"message {number}: tool call {place} is {call!r:.60}; "
                'expected {"type": "function", "function": {"name": ..., "arguments": ...}}'
            )
        if not isinstance(function.get("arguments"), str | dict | None):
            raise RequestRefused(
                f"message {number}: the arguments of tool call {place} are {function['arguments']!r:.60}; "
                "expected an object, or its JSON as a text"
            )


def _text_part(part: Any, number: int) -> str:
    match part:
        case str():
            return part
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": kind}:
            raise RequestRefused(f"message {number}: a part has type {kind!r}; only parts of type 'text' can be read")
        case _:
            raise RequestRefused(f'message {number}: a part is {part!r:.60}; expected {{"type": "text", "text": ...}}')


def _typed(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**m, "content": [{"type": "text", "text": m["content"]}]} if isinstance(m.get("content"), str) else m
        for m in messages
    ]


def _lost(messages: list[dict[str, Any]], prompt: str) -> bool:
    """Whether the last thing that the user said is missing from the prompt."""
    said = next((m["content"].strip() for m in reversed(messages) if m["role"] == "user" and m.get("content")), "")
    return said not in prompt


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy in exactly JSON's types: a template must not meet an object with methods of its own."""
    if depth > MOST_DEPTH:
        raise RequestRefused(f"{where} hold data nested more than {MOST_DEPTH} deep")
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            if value.bit_length() > 1024:
                raise RequestRefused(f"{where} hold a number of {value.bit_length()} bits; expected at most 1024")
            return int(value)
        case float():
            return float(value)
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise RequestRefused(f"{where} hold an object with a name that is no text; expected JSON data only")
            return {str.__str__(key): _plain(item, where, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, where, depth + 1) for item in value]
        case _:
            raise RequestRefused(f"{where} hold a {type(value).__name__}; expected JSON data only")


def _one_line(fault: object) -> str:
    text = " ".join(str(fault).split()) or type(fault).__name__
    return text if len(text) <= 200 else text[:197] + "..."
