"""What a model's chat template says about thinking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from trilens.checkpoints.find import Found
    from trilens.text.template import ChatTemplate


@dataclass(frozen=True)
class Inference:
    """`kind` is unknown where there is no template to read; `variable` switches the thinking."""

    kind: Literal["never", "always", "switchable", "unknown"]
    variable: str | None = None

    @property
    def word(self) -> str:
        return {"never": "standard", "always": "thinking", "switchable": "switchable", "unknown": "unknown"}[self.kind]


SWITCHES = ("enable_thinking", "thinking")
OPENERS = ("<think>", "[THINK]", "<|channel>thought")


def inference_of(template: ChatTemplate | None) -> Inference:
    """Render a small conversation with each known switch both ways, and look at what the prompt ends with."""
    if template is None:
        return Inference("unknown")
    messages = [{"role": "user", "content": "Hello"}]
    for variable in SWITCHES:
        if variable in template.variables():
            switched: list[dict[str, Any]] = [{variable: True}, {variable: False}]
            on, off = (template.render(messages, **variables) for variables in switched)
            if on != off:
                return Inference("switchable", variable)
    opened = template.render(messages).rstrip().endswith(OPENERS)
    return Inference("always" if opened else "never")


def read_inference(found: Found) -> Inference:
    """From a model's small files alone."""
    from trilens.text.template import directory_template, gguf_template

    if found.kind == "gguf":
        from trilens.checkpoints.gguf import read_gguf

        checkpoint = read_gguf(found.path)
        template = gguf_template(checkpoint.metadata, None)
        checkpoint.close()
        return inference_of(template)
    return inference_of(directory_template(found.path if found.path.is_dir() else found.path.parent, None))
