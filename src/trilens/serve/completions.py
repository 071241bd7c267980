"""OpenAI's text completions: prompts as texts or token ids, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from trilens.errors import FieldRefused, RequestRefused
from trilens.serve.chat import DONE, FINISH, Extras, StreamOptions, as_data
from trilens.serve.chat_run import ChatRun, begin, sum_of
from trilens.serve.engine_model import AnyCall, AnyModel
from trilens.serve.fields import IDENTIFIER, Refused, gathered
from trilens.serve.loop import Serving
from trilens.serve.scores import Scored, scored_prompt, scored_tokens
from trilens.serve.structure import ResponseFormat, Structures, Wanted, one_of
from trilens.serve.tools import ToolUse
from trilens.serve.wire import (
    MOST_CHOICES,
    MOST_TOKENS,
    AnyReceipt,
    Samples,
    new_id,
    now,
    receipt_fields,
    stops_of,
)
from trilens.text.events import EndEvent, TextEvent, Whole

USUAL = 16  # tokens, as the protocol has it
MOST_PROMPTS = 64


class CompletionRequest(Samples, Structures):
    model: str
    prompt: str | list[int] | list[str] | list[list[int]]
    suffix: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int = Field(default=USUAL, ge=0, le=MOST_TOKENS)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    best_of: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    trilens: Extras = Field(default_factory=Extras)
    also: ClassVar[Mapping[str, str]] = {"n_predict": "max_tokens"}
    aside: ClassVar[Mapping[str, str]] = dict.fromkeys(("user",), IDENTIFIER)
    refused: ClassVar[Mapping[str, Refused]] = {
        "add_special_tokens": Refused("send token ids for a prompt without them", (True,)),
        "prompt_embeds": Refused("send texts or token ids", ()),
    }

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids. Raises FieldRefused."""
        given: Any = self.prompt
        several = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        if len(several) > MOST_PROMPTS:
            raise FieldRefused("prompt", f"has {len(several)} prompts; expected at most {MOST_PROMPTS}")
        if not all(several):
            raise FieldRefused("prompt", "is empty or has an empty prompt; expected at least one token in each")
        return list(several)

    def tried(self) -> int:
        """Answers to each prompt, from which the best are chosen. Raises FieldRefused."""
        tried = self.best_of or self.n
        if tried < self.n:
            raise FieldRefused("best_of", f"is {tried} and n is {self.n}; expected at least n")
        if tried > self.n and self.stream:
            raise FieldRefused("best_of", "cannot be streamed: the best answer is known only when all are complete")
        return tried

    def wanted(self) -> Wanted | None:
        form = self.response_format
        return one_of(None if form is None else form.wanted("response_format"), *self.stated())

    def fits(self) -> None:
        """Raises FieldRefused for fields that cannot be combined."""
        for name in ("routes", "fresh"):
            if getattr(self.trilens, name):
                raise FieldRefused(f"trilens.{name}", "comes with chat completions alone; leave it out")
        if self.suffix is not None and (self.echo or not isinstance(self.prompt, str)):
            raise FieldRefused("suffix", "goes with one prompt that is a text, and without echo")

    @property
    def scored(self) -> int | None:
        """Alternatives to each token of the prompt; None if its scores were not requested."""
        return self.logprobs if self.echo else None


async def begin_completion(loop: Serving, request: CompletionRequest) -> ChatRun:
    prompts, tried, wanted, stops, _, _ = gathered(
        request.prompts, request.tried, request.wanted, lambda: stops_of(request.stop), request.fits, request.sampling
    )
    model, ignored = loop.model, request.left_aside()

    def prepare(number: int) -> AnyCall:
        constraint = None if wanted is None else wanted.constraint(model)
        if wanted is not None:
            ignored.extend(wanted.left_aside(constraint))
        prompt, sampling = prompts[number // tried], request.sampling(number % tried)
        if request.suffix is not None:
            prompt, ends = _between(model, prompt, request.suffix)
            sampling["stop_token_ids"] = [*sampling.get("stop_token_ids", ()), *ends]
        return model.prepare(
            prompt,
            index=number,
            raw=True,
            max_tokens=request.max_tokens,
            stop=stops,
            constraint=constraint,
            logprobs=0 if request.logprobs is None and tried > request.n else request.logprobs,
            scored=request.scored,
            **loop.options,
            **sampling,
        )

    return await begin(loop, new_id("cmpl-"), ToolUse(), request.prompt, prepare, len(prompts) * tried, ignored)


def _between(model: AnyModel, before: str | list[int], after: str) -> tuple[list[int], frozenset[int]]:
    try:
        return model.text.fill_in(str(before), after)
    except RequestRefused as problem:
        raise FieldRefused("suffix", f"cannot be used: {problem}") from None


async def whole_completion(chat_run: ChatRun, request: CompletionRequest) -> dict[str, Any]:
    answers = await chat_run.whole()
    receipts = [answer.end.receipt for answer in answers]
    tried = request.tried()
    choices = []
    for first in range(0, len(answers), tried):
        best = _best(chat_run, range(first, first + tried), request.n)
        choices += [_whole_choice(chat_run, request, i, answers[i]) for i in best]
    for number, choice in enumerate(choices):
        choice["index"] = number
    fields = receipt_fields(receipts, chat_run.ignored)
    return {**_head(chat_run), "choices": choices, "usage": _usage(receipts, tried), "trilens": fields}


def _best(chat_run: ChatRun, tried: range, n: int) -> Sequence[int]:
    """The `n` answers with the likeliest tokens, on average."""
    if len(tried) == n:
        return tried
    scores = {i: [p for _, p in scored_tokens(chat_run.running.calls[i], 0)[0].own()] for i in tried}
    return sorted(tried, key=lambda i: -sum(scores[i]) / max(1, len(scores[i])))[:n]


def _whole_choice(
    chat_run: ChatRun, request: CompletionRequest, index: int, answer: Whole[AnyReceipt]
) -> dict[str, Any]:
    call = chat_run.running.calls[index]
    text = _echoed(chat_run, request, index) + answer.text
    if request.logprobs is None:
        return _choice(index, text, FINISH[answer.end.reason])
    scored = scored_prompt(call) if request.echo else Scored()
    scored.extend(scored_tokens(call, 0)[0])
    return _choice(index, text, FINISH[answer.end.reason], scored.as_dict(request.logprobs))


async def completion_chunks(chat_run: ChatRun, request: CompletionRequest) -> AsyncIterator[bytes]:
    """The stream's chunks, those that come together as one."""
    head, receipts = _head(chat_run), dict[int, AnyReceipt]()
    calls = chat_run.running.calls
    count, logged, offsets = len(calls), [0] * len(calls), [0] * len(calls)
    apart = request.stream_options is not None and request.stream_options.include_usage
    echoes = set(range(count)) if request.echo else set[int]()

    def chunk(index: int, text: str, why: str | None = None) -> dict[str, Any]:
        choice = _choice(index, text, why)
        if request.logprobs is not None:
            scored, logged[index] = scored_tokens(calls[index], logged[index])
            if index in echoes:
                before = scored_prompt(calls[index])
                before.extend(scored)
                scored = before
            choice["logprobs"] = scored.as_dict(request.logprobs, offsets[index])
            offsets[index] += scored.length
        if index in echoes:
            echoes.remove(index)
            choice["text"] = _echoed(chat_run, request, index) + text
        return {**head, "choices": [choice]}

    async for batch in chat_run.events():
        out: list[bytes] = []
        for piece in batch:
            match piece:
                case TextEvent(text, index):
                    out.append(as_data(chunk(index, text)))
                case EndEvent(receipt, index, reason=why):
                    receipts[index] = receipt
                    last = chunk(index, "", FINISH[why])
                    end = _end(chat_run, request, receipts) if len(receipts) == count and not apart else {}
                    out.append(as_data({**last, **end}))
        if len(receipts) == count:
            if apart:
                out.append(as_data({**head, "choices": [], **_end(chat_run, request, receipts)}))
            out.append(DONE)
        yield b"".join(out)


def _echoed(chat_run: ChatRun, request: CompletionRequest, index: int) -> str:
    if not request.echo:
        return ""
    prompt = request.prompts()[index // request.tried()]
    if isinstance(prompt, str):
        return prompt
    return chat_run.model.text.tokenizer.decode(prompt, skip_special=False)


def _usage(receipts: Sequence[AnyReceipt], tried: int) -> dict[str, Any]:
    """Each prompt counted once, however many answers it has."""
    firsts = receipts[::tried]
    prompt, completion = sum_of(firsts, "prompt"), sum_of(receipts, "completion")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum_of(firsts, "cached")},
        "completion_tokens_details": {"reasoning_tokens": sum_of(receipts, "thinking")},
    }


def _head(chat_run: ChatRun) -> dict[str, Any]:
    return {"id": chat_run.id, "object": "text_completion", "created": now(), "model": chat_run.name}


def _end(chat_run: ChatRun, request: CompletionRequest, receipts: dict[int, AnyReceipt]) -> dict[str, Any]:
    inorder = [receipts[i] for i in sorted(receipts)]
    return {"usage": _usage(inorder, request.tried()), "trilens": receipt_fields(inorder, chat_run.ignored)}


def _choice(index: int, text: str, finish: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
