"""Everything about text for one model: tokenizer, chat template, end tokens, and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trilens.checkpoints.find import Found
from trilens.errors import BadTemplate, ContextFull, RequestRefused
from trilens.text.conversation import ChatMessage, Message, plain, read_conversation
from trilens.text.fill_in import fill_in
from trilens.text.from_directory import read_json_object
from trilens.text.literal import Aside, Literal, control_texts
from trilens.text.read_template import inference_of
from trilens.text.strategy import OFF_OR_LEAST, Strategy, Thinking, check_start, choose, continuing, render_with
from trilens.text.template import RESERVED, ChatTemplate, directory_template, gguf_template
from trilens.text.thinking import Inference, Markers, Start, completed, start_of, stated_inference
from trilens.text.thoughts import ThoughtSplitter
from trilens.text.tokenizer import Tokenizer
from trilens.text.tool_calls import model_format
from trilens.text.tool_formats import ToolFormat

if TYPE_CHECKING:
    from trilens.spec.catalog import CatalogEntry

# generation_config.json's names that are also `Sampling`'s.
SAMPLING_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Encoded:
    """A prompt's tokens, and where the output begins after them. `spelled`: the control tokens that the caller wrote
    and that count as text.
    """

    ids: list[int]
    start: Start
    raw: bool = False
    spelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelText:
    """`template` is None for a model that has none: its prompts go in as they are. `tool_template` is another one, for
    requests with tools, where the model has one of that name. `trust_control_tokens`: callers may write control
    tokens."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    inference: Inference
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    tool_template: ChatTemplate | None = None
    trust_control_tokens: bool = False
    response_template: Mapping[str, Any] | None = None  # what the checkpoint says of the form of its answers

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self.tokenizer.eos_ids

    @property
    def reads_tools(self) -> bool:
        """Whether the model can be shown tools."""
        return self.tool_template is not None or (self.template is not None and self.template.reads_tools)

    def strategy(self, thinking: Thinking, *, raw: bool, continues: bool = False) -> Strategy:
        """`continues`: the answer continues the last message. Raises RequestRefused before any work for what this
        model cannot do.
        """
        if continues and raw:
            raise RequestRefused("a raw prompt is always continued; leave continue_final_message out, or raw")
        if continues and not thinking:
            return continuing(choose(self.inference, None if self.inference.setting("off") is None else thinking))
        if not raw:
            chosen = choose(self.inference, thinking)
            return continuing(chosen) if continues else chosen
        if thinking not in (None, OFF_OR_LEAST):
            raise RequestRefused("a raw prompt contains its own setting; leave out thinking or raw")
        return Strategy(thinking, "unknown")

    def encode(
        self,
        prompt: str | Sequence[ChatMessage | Message],
        strategy: Strategy,
        *,
        raw: bool,
        continues: bool = False,
        variables: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        context: int | None = None,
    ) -> Encoded:
        """A string or a conversation -> token ids; a string is the user's message unless `raw`, or without a template.

        Control tokens are recognised in what the template wrote, never in a raw prompt, and in what the caller wrote
        only if that is trusted. What cannot be less than `context` tokens raises ContextFull before it is tokenized.
        """
        if isinstance(prompt, str):
            if raw or self.template is None:
                start = [self.tokenizer.bos_id] if self.tokenizer.add_bos and self.tokenizer.bos_id is not None else []
                self._check_length(prompt, context)
                return Encoded(start + self.tokenizer.encode(prompt, special=False), "free", raw=True)
            prompt = [{"role": "user", "content": prompt}]
        elif raw:
            raise RequestRefused("a conversation cannot be sent raw; expected a string")
        if self.template is None:
            raise RequestRefused("this model has no chat template; expected one string, not a conversation")
        conversation = read_conversation(prompt)
        if taken := sorted(RESERVED.intersection(variables)):
            raise RequestRefused(
                f"template_variables sets {taken[0]!r}, which belongs to the request itself; leave it out"
            )
        template = self.tool_template if tools and self.tool_template is not None else self.template
        aside = Aside(self._literal)
        if not self.trust_control_tokens:
            last = len(conversation) - 1
            conversation = [
                aside.message(message, self._exempt(message, continues and i == last))
                for i, message in enumerate(conversation)
            ]
            tools, variables = aside.data(plain(tools, "tools")), aside.data(plain(variables, "the variables"))
        messages, variables = render_with(strategy, self.inference, conversation, variables)
        text = template.render(messages, tools=tools, continue_final_message=continues, **variables)
        self._check_length(aside.back(text), context)
        ids, markers = self._literal.encode(text, aside), self.inference.markers
        if continues:
            return Encoded(ids, _inside(messages[-1].text, markers), spelled=tuple(aside.words))
        if messages[-1].role != "tool" or template.accepts.after_result:
            check_start(strategy, self.inference, text)
        return Encoded(ids, start_of(text, markers), spelled=tuple(aside.words))

    def fill_in(self, before: str, after: str) -> tuple[list[int], frozenset[int]]:
        """See `text.fill_in`."""
        return fill_in(self._literal, before, after)

    @cached_property
    def _literal(self) -> Literal:
        templates = [template for template in (self.template, self.tool_template) if template is not None]
        written = [template.source for template in templates]
        if (markers := self.inference.markers) is not None:
            written += [markers.open, markers.close]
        return Literal(self.tokenizer, control_texts(self.tokenizer, written))

    def _exempt(self, message: Message, continued: bool) -> frozenset[str]:
        """The markers that an assistant's own text may hold: those that the template looks for to take thoughts and
        calls out of it, and those of a thinking that is continued."""
        if message.role != "assistant":
            return frozenset()
        markers = self.inference.markers
        thoughts = () if markers is None else (markers.open.strip(), markers.close.strip())
        return self._taken_out.union(thoughts if continued else ())

    @cached_property
    def _taken_out(self) -> frozenset[str]:
        if self.template is None:
            return frozenset()
        found: set[str] = set()
        if (markers := self.inference.markers) is not None and self.template.changes(
            f"{markers.open}I see.{markers.close}Hi."
        ):
            found |= {markers.open.strip(), markers.close.strip()}
        calls = "" if self.tool_format is None else "\n".join(self.tool_format.texts)
        for start, end in self._literal.spans(calls):
            if self.template.changes(f"Hi.\n{calls[start:end]}\nSo it is."):
                found.add(calls[start:end])
        return frozenset(found)

    def _check_length(self, text: str, context: int | None) -> None:
        if context is None or len(text) <= context:
            return
        fewest = self.tokenizer.fewest_tokens(text)
        if fewest >= context:  # no room for a token of the answer
            raise ContextFull(
                f"the prompt's {len(text)} characters are at least {fewest} tokens, which do not fit the model's "
                f"context of {context} with an answer; shorten the prompt"
            )

    def splitter(self, encoded: Encoded, index: int = 0, calls: bool = True) -> ThoughtSplitter:
        """Splits one output into thinking and answer. The output of a raw prompt stays whole. `index` goes into its
        events. A thinking that is still open ends where a call of a tool begins, if there can be `calls`.
        """
        markers = None if encoded.raw else self.inference.markers
        form = self.tool_format if calls else None
        triggers = () if form is None else form.triggers
        closers = [call for call in triggers if "<" in call or call.startswith("[")]  # no word of a thought
        options: dict[str, Any] = {"closers": closers, "calls": triggers, "reopens": self._reopens, "index": index}
        return ThoughtSplitter(markers, encoded.start, **options)

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """How this model writes calls of tools; None where its template shows it none."""
        return model_format(self.tool_template or self.template, self.response_template)

    @cached_property
    def _reopens(self) -> bool:
        return bool(self.opening_ids) and self.tokenizer.is_special(self.opening_ids[0])

    @cached_property
    def closing_ids(self) -> tuple[int, ...]:
        """The tokens that close a thinking from outside, after the publisher's phrase if there is one."""
        markers = self.inference.markers
        if markers is None:
            return ()
        phrase = self.inference.closing_phrase
        return tuple(self.tokenizer.encode(phrase + markers.closing))

    @cached_property
    def opening_ids(self) -> tuple[int, ...]:
        """The tokens that open a thinking that is closed again at once."""
        markers = self.inference.markers
        return () if markers is None else tuple(self.tokenizer.encode(markers.open))

    @cached_property
    def shown(self) -> frozenset[int]:
        """Control tokens that markers and calls of tools are made of; all others are hidden."""
        markers, form = self.inference.markers, self.tool_format
        texts = [] if markers is None else [markers.open, markers.close, *markers.openings, markers.end or ""]
        texts += [] if form is None else form.texts
        return self.tokenizer.special_ids.intersection(i for text in texts for i in self.tokenizer.encode(text))


def _inside(text: str, markers: Markers | None) -> Start:
    """Where the output begins behind an answer's beginning: inside a thinking that it holds the open marker of, else in
    the middle of the answer."""
    if markers is not None and text.rfind(markers.open) > text.rfind(markers.close):
        return "opened"
    return "answer"


def read_model_text(
    found: Found, entry: CatalogEntry | None = None, metadata: Mapping[str, Any] | None = None
) -> ModelText:
    """From the header of a GGUF file, or the small files beside a checkpoint; `entry` adds what no template says.
    `metadata`: of the GGUF file, where its header was read already.

    Raises BadCheckpoint or UnsupportedModel, naming the file.
    """
    try:
        return _read_model_text(found, entry, metadata)
    except BadTemplate as problem:
        raise BadTemplate(f"{found.path}: {problem}") from None


def _read_model_text(found: Found, entry: CatalogEntry | None, metadata: Mapping[str, Any] | None) -> ModelText:
    fact = None if entry is None else stated_inference(entry.inference)
    if found.kind == "gguf":
        if metadata is None:
            metadata = _metadata_of(found)
        tokenizer = Tokenizer.from_gguf(metadata)
        template = gguf_template(metadata, tokenizer)
        tool_template = gguf_template(metadata, tokenizer, name="tool_use")
        return ModelText(tokenizer, template, completed(inference_of(template), fact), tool_template=tool_template)
    tokenizer = Tokenizer.from_directory(found.path)
    template = directory_template(found.path, tokenizer)
    tool_template = directory_template(found.path, tokenizer, name="tool_use")
    inference, defaults = completed(inference_of(template), fact), _sampling_defaults(found)
    declared = read_json_object(found.path / "tokenizer_config.json").get("response_template")
    declared = declared if isinstance(declared, dict) else None
    return ModelText(tokenizer, template, inference, defaults, tool_template, response_template=declared)


def _metadata_of(found: Found) -> Mapping[str, Any]:
    from trilens.checkpoints.gguf import read_gguf

    checkpoint = read_gguf(found.path)
    checkpoint.close()
    return checkpoint.metadata


def _sampling_defaults(found: Found) -> dict[str, float]:
    config = read_json_object(found.path / "generation_config.json")
    if isinstance(most := config.get("top_k"), float) and most.is_integer():
        config["top_k"] = int(most)
    stated = {name: config[name] for name in SAMPLING_DEFAULTS if isinstance(config.get(name), int | float)}
    # a file that says "do not sample" names temperatures that do not apply
    return {"temperature": 0.0} if config.get("do_sample") is False else stated
