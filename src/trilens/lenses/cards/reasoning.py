"""The reasoning lens: what can be switched, how, and what thinking costs. The wiring is the same either way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trilens.executors.accountant import Span, step_cost
from trilens.spec.model import ModelSpec
from trilens.text.thinking import Inference, Setting

THOUGHT = 1000  # tokens of the example

KINDS = {
    "never": "it always answers at once",
    "always": "it thinks before every answer; this cannot be switched off",
    "switchable": "the same weights answer at once or think first",
    "levels": "how much it thinks can be chosen",
    "unknown": "not known: there is no chat template to read",
}
STARTS = {
    "opened": "the prompt opens the thinking, so the output begins inside it",
    "closed": "the prompt closes the thinking in advance",
    "free": "the model opens its thinking itself",
}


@dataclass(frozen=True)
class ReasoningLens:
    """`thought_flops`, `thought_kv_bytes`: what `THOUGHT` tokens of thinking add to a prompt of one."""

    inference: Inference
    thought_flops: int
    thought_kv_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.inference.kind,
            "source": self.inference.source,
            "thinking_tokens": THOUGHT,
            "thinking_flops": self.thought_flops,
            "thinking_kv_bytes": self.thought_kv_bytes,
        }

    def summary(self) -> str:
        i = self.inference
        why = i.source if i.kind == "unknown" and i.source != "no chat template" else ""
        off = "" if i.kind != "levels" else (", and off" if i.can_be_off else "; it cannot be off")
        return f"{i.kind}: {KINDS[i.kind]}{off}" + (f" ({why})" if why else "")

    def switches(self) -> list[str]:
        """One line a setting: its name, what to pass, and what the prompt then ends with."""
        return [self._line(s) for s in self.inference.settings] if self.inference.kind != "always" else []

    def _line(self, s: Setting) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in s.variables.items())
        if s.text:
            given = f"{s.text!r} in a {s.text_role} message"
        elif s.text == "":
            given = "a system message of your own"
        default = " (default)" if s.name == self.inference.default else ""
        how = f" by {given}" if given else ""
        if self.inference.source.startswith("the catalog") or (s.name == "off" and s.start == "free"):
            return f"{s.name}{default}{how}"
        return f"{s.name}{default}{how}: {STARTS[s.start]}"


def reasoning_lens(spec: ModelSpec, inference: Inference, kv_bytes: int) -> ReasoningLens:
    """`kv_bytes`: what `THOUGHT` tokens keep in the cache."""
    flops = step_cost(spec, [Span(past=1, new=THOUGHT, logits=THOUGHT)]).flops()
    return ReasoningLens(inference, flops, kv_bytes)
