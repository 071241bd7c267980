"""What all protocols share: conversations in the templates' form, sampling, usage."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from trilens.errors import BadTemplate, FieldRefused
from trilens.generate.receipt import Receipt
from trilens.hosted.receipt import HostedReceipt
from trilens.serve.fields import CACHE, HINT, HOSTED, IDENTIFIER, REPORT, Fields, Refused, gathered, shown
from trilens.text.conversation import Message, with_names

MOST_MESSAGES = 4096
MOST_CHOICES = 8
MOST_STOPS = 16
MOST_TOKENS = 1 << 31  # that a limit can state; no context is longer
SAMPLED = (
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("min_tokens", "stop_token_ids", "ignore_eos"),
)
NO_FILTER = "tokens are chosen by temperature, top_k, top_p and min_p"
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

AnyReceipt = Receipt | HostedReceipt  # of a model that runs here, and of one that an engine runs


class Asks(Fields):
    """The fields that ask for thinking: see `switch`."""

    thinking: bool | int | str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
    chat_template_kwargs: dict[str, Any] | None = None

    def left_aside(self, at: str = "") -> list[str]:
        return [
            *super().left_aside(at),
            *left_aside(self.thinking, dict.fromkeys(("type", "budget_tokens")), f"{at}thinking"),
            *left_aside(self.reasoning, dict.fromkeys(("effort", "max_tokens", "enabled")), f"{at}reasoning"),
        ]


class Samples(Fields):
    """The fields of `Sampling`, and those that say where an answer may end; what is left out comes from the model's own
    defaults."""

    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1 << 30)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-100, le=100)
    frequency_penalty: float | None = Field(default=None, ge=-100, le=100)
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    seed: int | None = Field(default=None, ge=0, lt=1 << 64)
    logit_bias: dict[str, float] | None = None
    min_tokens: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
    stop_token_ids: list[int] | None = Field(default=None, max_length=MOST_STOPS)
    ignore_eos: bool | None = None
    also: ClassVar[Mapping[str, str]] = {"repeat_penalty": "repetition_penalty"}
    aside: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("cache_prompt", "cache_salt", "id_slot", "keep_alive"), CACHE),
        **dict.fromkeys(("priority", "include_reasoning", "mm_processor_kwargs", "min_keep"), HINT),
        **dict.fromkeys(("request_id", "session_id", "trace"), IDENTIFIER),
        **dict.fromkeys(("provider", "transforms", "plugins", "route", "models"), HOSTED),
        **dict.fromkeys(("timings_per_token", "return_progress", "return_token_ids", "usage"), REPORT),
    }
    refused: ClassVar[Mapping[str, Refused]] = {
        "typical_p": Refused(NO_FILTER, (1, 1.0)),
        "tfs_z": Refused(NO_FILTER, (1, 1.0)),
        "top_a": Refused(NO_FILTER, (0, 0.0)),
        "top_n_sigma": Refused(NO_FILTER, (-1, -1.0, 0, 0.0)),
        "xtc_probability": Refused(NO_FILTER, (0, 0.0)),
        "xtc_threshold": Refused(NO_FILTER, (0.1, 0.5)),
        "mirostat": Refused(NO_FILTER, (0,)),
        "mirostat_tau": Refused(NO_FILTER, (5, 5.0)),
        "mirostat_eta": Refused(NO_FILTER, (0.1,)),
        "dynatemp_range": Refused(NO_FILTER, (0, 0.0)),
        "dynatemp_exponent": Refused(NO_FILTER, (1, 1.0)),
        "samplers": Refused("the order of the filters is fixed", ()),
        "repeat_last_n": Refused("the penalty looks at the whole prompt and answer", (-1,)),
        "use_beam_search": Refused("answers are drawn token by token"),
        "length_penalty": Refused("it belongs to beam search", (1, 1.0)),
        "early_stopping": Refused("it belongs to beam search"),
        "logits_processors": Refused("no code of a request is run", ([],)),
        "bad_words": Refused("use logit_bias", ([],)),
        "truncate_prompt_tokens": Refused("nothing is cut silently", ()),
        "prompt_logprobs": Refused("use echo and logprobs at /v1/completions", (0, False)),
        "include_stop_str_in_output": Refused("a stop string is not part of the answer"),
        "skip_special_tokens": Refused("control tokens are not text", (True,)),
        "spaces_between_special_tokens": Refused("control tokens are not text", (True, False)),
        "detokenize": Refused("answers are text", (True,)),
        "lora_adapter": Refused("name the adapter in model, as MODEL:ADAPTER", ()),
        "lora": Refused("name the adapter in model, as MODEL:ADAPTER", ([],)),
    }

    def sampling(self, number: int = 0) -> dict[str, Any]:
        """Of the request's choice with that number; each has a seed of its own."""
        stated = {name: value for name in SAMPLED if (value := getattr(self, name)) is not None}
        if stated.get("top_k") == -1:
            stated["top_k"] = 0  # as vLLM says "all"
        if self.seed is not None:
            stated["seed"] = (self.seed + number) % (1 << 64)
        if self.logit_bias:
            if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in self.logit_bias):
                raise FieldRefused("logit_bias", "names tokens by their ids; expected strings of digits as names")
            stated["logit_bias"] = {int(key): value for key, value in self.logit_bias.items()}
        return stated


def as_json(value: Any) -> bytes:
    text = _encoder.encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a model can write half of a surrogate pair into a call's arguments
        return json.dumps(value).encode()


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def now() -> int:
    return int(time.time())


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MOST_STOPS:
        raise FieldRefused("stop", f"has {len(stops)} strings; expected at most {MOST_STOPS}")
    if "" in stops:
        raise FieldRefused("stop", "has an empty string; expected at least one character")
    return stops


def conversation(messages: Sequence[Message]) -> list[Message]:
    """Messages in the roles that templates know, without the fields that only clients know (see `left_aside`). Raises
    FieldRefused."""
    if len(messages) > MOST_MESSAGES:
        raise FieldRefused("messages", f"has {len(messages)} entries; expected at most {MOST_MESSAGES}")
    known = gathered(*(partial(_known, message, f"messages.{i}") for i, message in enumerate(messages)))
    return with_names(known)


def _known(message: Message, at: str) -> Message:
    role = "system" if message.role == "developer" else "tool" if message.role == "function" else message.role
    if role not in ("system", "user", "assistant", "tool"):
        raise FieldRefused(f"{at}.role", f"is {shown(role)}; expected system, developer, user, assistant or tool")
    return replace(message, role=role, other={})


# The fields of an object that are read, and of those that are objects, or lists of objects, the fields inside.
Known = Mapping[str, "Known | None"]
TEXT_PART: Known = dict.fromkeys(("type", "text", "refusal"))


def left_aside(given: Any, known: Known, at: str) -> list[str]:
    """The fields of messages that are ignored, each once, wherever they are: data that a client keeps with its
    history.
    """
    found = dict[str, None]()

    def look(value: Any, known: Known, at: str) -> None:
        for one in value if isinstance(value, list) else [value]:
            for name, inner in one.items() if isinstance(one, dict) else ():
                if inner is None:
                    continue
                if name not in known:
                    found[f"{at}.{name:.80}"] = None
                elif (beneath := known[name]) is not None:
                    look(inner, beneath, f"{at}.{name}")

    look(given, known, at)
    return sorted(found)


def prepared(model: Any, messages: list[Message], **options: Any) -> Any:
    """`model.prepare`. If the template fails on the caller's additional data, the request is refused instead of
    blaming the model's files.
    """
    try:
        return model.prepare(messages, **options)
    except BadTemplate:
        given = {
            "chat_template_kwargs": options.get("template_variables"),
            "tools": options.get("tools"),
            "messages": any(message.calls for message in messages),
        }
        for field, is_given in given.items():
            if is_given:
                said = "cannot be shown by this model's chat template; expected values of the types it reads"
                raise FieldRefused(field, said) from None
        raise


def receipt_fields(receipts: Sequence[AnyReceipt], ignored: Sequence[str]) -> dict[str, Any]:
    """The field `trilens`: the ignored fields of the request and the receipt, or all receipts if there are several
    choices.
    """
    first = receipts[0]
    fields: dict[str, Any] = {"ignored": list(ignored), "receipt": first.as_dict(), "text": first.as_text()}
    return fields if len(receipts) == 1 else {**fields, "receipts": [r.as_dict() for r in receipts]}
