"""The cost of one call elsewhere: what the service reported, what trilens counted, and which is which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trilens.executors.accountant import ParameterCount
from trilens.generate.answer import ClosedBy, ThinkingReport
from trilens.generate.receipt import thinking_lines
from trilens.hosted.price import Price
from trilens.hosted.service import ServiceEnd, Usage
from trilens.hosted.table import Asked
from trilens.spec.catalog import Backbone
from trilens.units import big

CountedBy = Literal["provider", "us", "estimate", "nobody"]


@dataclass(frozen=True)
class HostedTokens:
    """As `generate.receipt.Tokens`; None where it is unknown.

    `counted_by` says who told thinking and answer apart: the provider; us, with the model's tokenizer on the text that
    came; an estimate, the provider's sum shared out by the lengths of the two texts; or nobody. Only `us` and another
    trilens know `control`; elsewhere the answer holds it.
    """

    prompt: int | None
    cached: int | None
    thinking: int | None
    answer: int | None
    control: int | None
    counted_by: CountedBy

    @property
    def completion(self) -> int | None:
        if self.thinking is None or self.answer is None:
            return None
        return self.thinking + self.answer + (self.control or 0)


@dataclass(frozen=True)
class HostedReceipt:
    """One call elsewhere; the names are those of `generate.receipt.Receipt`. None is unknown.

    `served_as` is what the service calls the model that answered, `id` the answer. `executor` names the interface.
    `finish` is stop, stop_string, length, context, refused, or broken for an answer that broke off. `limit`: the most
    tokens that were asked for, thinking and answer together. `temperature` and `seed` as they were sent.
    `served`: the receipt of another trilens that answered.
    """

    model: str
    served_as: str | None
    id: str | None
    executor: str
    backbone: Backbone
    parameters: ParameterCount | None
    tokens: HostedTokens
    thinking: ThinkingReport
    seconds: float
    time_to_first_token: float | None
    price: Price
    finish: str
    limit: int | None
    temperature: float | None
    seed: int | None
    served: dict[str, Any] | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """The speed after the first piece. None if everything arrived at once."""
        count, first = self.tokens.completion, self.time_to_first_token
        rest = None if first is None else self.seconds - first
        return (count - 1) / rest if count and rest else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every field by name, and `tokens.completion`, `tokens_per_second`, and `flops`, which is None."""
        data = asdict(self)
        data["tokens"]["completion"] = self.tokens.completion
        data["tokens_per_second"] = self.tokens_per_second
        data["flops"] = None
        return data

    def as_text(self) -> str:
        """The receipt in a few lines."""
        t, speed = self.tokens, self.tokens_per_second
        known = "parameters unknown" if self.parameters is None else f"{big(self.parameters.total)} parameters"
        if self.parameters is not None and not self.parameters.every_weight_fires:
            known += f", {big(self.parameters.active_with_embeddings)} active"
        served = f" · served as {self.served_as}" if self.served_as not in (None, self.model) else ""
        first = "" if self.time_to_first_token is None else f"{self.time_to_first_token:.2f} s to the first token · "
        rate = "" if speed is None else f"{speed:.1f} tok/s · "
        lines = [
            f"model    {self.model} · {self.executor} · backbone {self.backbone} · {known}{served}",
            f"tokens   {_said(t.prompt)} prompt ({_said(t.cached)} cached) · {_said(t.thinking)} thinking · "
            f"{_said(t.answer)} answer · {_said(t.control)} control · counted by {t.counted_by}",
            *self._thinking(),
            f"time     {first}{rate}{self.seconds:.2f} s total · stopped by {self.finish}",
            f"price    {self._price()}",
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from trilens.notebook import labelled

        return labelled(self.as_text().splitlines())

    def _thinking(self) -> list[str]:
        lines = thinking_lines(self.thinking)
        cost = self.price.thinking
        if self.thinking.unasked and lines:
            lines[0] += f" ({_said(self.tokens.thinking)} tokens{'' if cost is None else f', ${cost:.6f}'})"
        return lines

    def _price(self) -> str:
        if self.price.total is None:
            return self.price.source
        thinking = f", of it thinking ${self.price.thinking:.6f}" if self.price.thinking else ""
        return f"${self.price.total:.6f}{thinking} ({self.price.source})"


def count(
    usage: Usage, thought: str, text: str, *, tokens_of: Callable[[str], int] | None, own: ServiceEnd | None = None
) -> HostedTokens:
    """Divide the tokens into thinking and answer, from the best source there is. `tokens_of` counts a text's tokens."""
    prompt, cached = usage.prompt, usage.cached
    if own is not None and own.own is not None:
        known = own.own["tokens"]
        stated: dict[str, Any] = {f: known.get(f) for f in ("prompt", "cached", "thinking", "answer", "control")}
        return HostedTokens(**stated, counted_by="provider")
    if usage.output is not None and usage.thinking is not None and (usage.thinking or not thought):
        return HostedTokens(prompt, cached, usage.thinking, usage.output - usage.thinking, None, "provider")
    if usage.output is not None and not thought:
        return HostedTokens(prompt, cached, 0, usage.output, None, "provider")
    if tokens_of is not None:
        thinking, answer = tokens_of(thought), tokens_of(text)
        control = None if usage.output is None else max(0, usage.output - thinking - answer)
        return HostedTokens(prompt, cached, thinking, answer, control, "us")
    if usage.output is not None:
        thinking = round(usage.output * len(thought) / max(1, len(thought) + len(text)))
        return HostedTokens(prompt, cached, thinking, usage.output - thinking, None, "estimate")
    return HostedTokens(prompt, cached, None, None, None, "nobody")


def report(asked: Asked, tokens: HostedTokens, thought: str, text: str, finish: str) -> ThinkingReport:
    """What was requested, and what came: thoughts that can be read, or that the service counted."""
    did = bool(thought) or bool(tokens.thinking)
    used_up = asked.budget is not None and tokens.counted_by != "estimate" and (tokens.thinking or 0) >= asked.budget
    closed: ClosedBy | None = "budget" if used_up else "model" if text or finish != "length" else "length"
    return ThinkingReport(
        requested=asked.requested,
        effective=asked.effective,
        budget=asked.budget,
        thought=did,
        unasked=did and asked.effective == "off" and asked.requested is not None,
        closed_by=closed if did and finish != "broken" else None,
    )


def _said(count: int | None) -> str:
    return "unknown" if count is None else str(count)
