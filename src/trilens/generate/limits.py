"""How many tokens a request may use, and for what. Nothing is truncated silently."""

from __future__ import annotations

from dataclasses import dataclass

from trilens.errors import ContextFull, RequestRefused

ANSWER = 4096  # tokens of an answer whose length nobody stated
THINKING = 8192  # tokens of a thinking without a budget


@dataclass(frozen=True)
class Limits:
    """Maximum tokens in `total`, for the `answer`, and for the `thinking` before it, which is None without thinking.

    `answer` counts from where the answer begins, so thinking does not use it up. `context_bound`: the limit comes from
    the model's context, not from the caller.
    """

    total: int
    answer: int
    thinking: int | None = None
    context_bound: bool = False

    def within(self, most: int) -> Limits:
        """The same limits with at most `most` tokens for thinking and answer together."""
        if most < 1:
            raise RequestRefused(f"the maximum number of tokens of a completion is {most}; expected at least 1")
        if most >= self.total:
            return self
        return Limits(most, min(self.answer, most), None if self.thinking is None else min(self.thinking, most))


def request_limits(
    context: int,
    prompt: int,
    max_tokens: int | None,
    *,
    thinks: bool = False,
    budget: int | None = None,
    extra: int = 0,
) -> Limits:
    """Limits of a request with `prompt` tokens. `max_tokens` 0: only the prompt is computed. `thinks`: it may
    think, `budget` tokens of it at most; `extra` tokens are what opens and closes the thinking.

    Limits that the caller gives are kept or refused; others shrink to the room there is. Raises ContextFull,
    RequestRefused.
    """
    if prompt == 0:
        raise RequestRefused("the prompt is empty; expected at least one token")
    if max_tokens is not None and max_tokens < 0:
        raise RequestRefused(f"max_tokens is {max_tokens}; expected at least 0")
    room = context - prompt
    around = extra if thinks else 0
    stated = (1 if max_tokens is None else max_tokens) + (budget or 0) + around
    if room < stated:
        wanted = "" if max_tokens is None else f" and max_tokens {max_tokens}"
        wanted += "" if not budget else f" and a thinking budget of {budget}"
        raise ContextFull(
            f"the prompt's {prompt} tokens{wanted} do not fit the model's context of {context}; "
            f"shorten the prompt or ask for fewer tokens"
        )
    if max_tokens == 0:
        return Limits(0, 0)
    if not thinks:
        answer = max_tokens or min(ANSWER, room)
        return Limits(answer, answer, context_bound=max_tokens is None and room <= ANSWER)
    thinking = budget
    if thinking is None:
        # where the context is short, half of it is kept for an answer of unstated length
        kept = max_tokens if max_tokens is not None else min(ANSWER, (room - around + 1) // 2)
        thinking = min(THINKING, room - around - kept)
    left = room - around - thinking
    answer = max_tokens or min(ANSWER, left)
    return Limits(around + thinking + answer, answer, thinking, context_bound=max_tokens is None and left <= ANSWER)
