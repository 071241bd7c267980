"""All that has to do with text for one model: tokenizer, chat template, what ends an answer, and defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trilens.checkpoints.find import Found
from trilens.errors import BadCheckpoint, RequestRefused
from trilens.text.read_template import inference_of
from trilens.text.template import ChatTemplate, directory_template, gguf_template
from trilens.text.thinking import Inference
from trilens.text.tokenizer import Tokenizer

# generation_config.json's names that are also `Sampling`'s.
SAMPLING_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class ModelText:
    """`template` is None for a model that has none: its prompts go in as they are."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    inference: Inference
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self.tokenizer.eos_ids

    def encode(
        self, prompt: str | Sequence[Mapping[str, Any]], *, raw: bool, variables: Mapping[str, Any]
    ) -> list[int]:
        """A string or a conversation -> token ids; a string is the user's message unless `raw`, or without a template.

        Control tokens are recognised in what the template wrote, never in a raw prompt.
        """
        if isinstance(prompt, str):
            if raw or self.template is None:
                start = [self.tokenizer.bos_id] if self.tokenizer.add_bos and self.tokenizer.bos_id is not None else []
                return start + self.tokenizer.encode(prompt, special=False)
            prompt = [{"role": "user", "content": prompt}]
        elif raw:
            raise RequestRefused("a conversation cannot be sent raw; expected a string")
        if self.template is None:
            raise RequestRefused("this model has no chat template; expected one string, not a conversation")
        return self.tokenizer.encode(self.template.render(prompt, **variables))

    def check_thinking(self, thinking: bool | str | int | None) -> None:
        """Refuse what cannot be promised: for now only models that never think take part in the switch."""
        if thinking is None or (thinking in (False, "off-or-least") and self.inference.kind in ("never", "unknown")):
            return
        if self.inference.kind in ("never", "unknown"):
            raise RequestRefused(f"this model does not think; thinking={thinking!r} is not possible, leave it out")
        raise RequestRefused(
            f"thinking={thinking!r} cannot be promised for this model yet; leave it out to use the model's own default"
        )


def read_model_text(found: Found) -> ModelText:
    """From the header of a GGUF file, or the small files beside a checkpoint."""
    if found.kind == "gguf":
        from trilens.checkpoints.gguf import read_gguf

        checkpoint = read_gguf(found.path)
        tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
        template = gguf_template(checkpoint.metadata, tokenizer)
        checkpoint.close()
        return ModelText(tokenizer, template, inference_of(template))
    tokenizer = Tokenizer.from_directory(found.path)
    template = directory_template(found.path, tokenizer)
    return ModelText(tokenizer, template, inference_of(template), _sampling_defaults(found))


def _sampling_defaults(found: Found) -> dict[str, float]:
    path = found.path / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise BadCheckpoint(f"{path}: not valid JSON; expected generation defaults, or no such file") from None
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{path}: expected a JSON object")
    stated = {name: config[name] for name in SAMPLING_DEFAULTS if isinstance(config.get(name), int | float)}
    # a file that says "do not sample" names temperatures that do not apply
    return {"temperature": 0.0} if config.get("do_sample") is False else stated
