"""The options of every call and of loading, by name and type, so that a type checker reports a wrong one.

What an option means is said where it is used: in `Model.stream_all`, `Sampling`, `loading.load` and `load_hosted`. A
test compares these lists with their signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

from trilens.text.strategy import Thinking


class SamplingOptions(TypedDict, total=False):
    """`Sampling`'s fields. None, or leaving one out, takes the model's own default."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    logit_bias: Mapping[int, float] | None
    logprobs: int | None


class LocalCallOptions(SamplingOptions, total=False):
    """What a call takes in addition where the model runs here."""

    adapter: str | None
    continue_final_message: bool
    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None
    tool_choice: str | None
    template_variables: Mapping[str, Any] | None
    schema: Mapping[str, Any] | None
    regex: str | None
    choice: Sequence[str] | None
    grammar: str | None
    min_tokens: int
    stop_token_ids: Sequence[int]
    ignore_eos: bool


class CallOptions(LocalCallOptions, total=False):
    """What `generate`, `stream` and `call_model` take beside the prompt, apart from `thinking`."""

    extended_thinking: Thinking
    max_tokens: int | None
    stop: str | Sequence[str]
    raw: bool


class GenerateOptions(CallOptions, total=False):
    thinking: Thinking


class NativeOptions(TypedDict, total=False):
    """What only the native executor takes."""

    threads: int | None
    quantise: Literal["8bit", "4bit"] | None
    kv: Literal["f16", "8bit", "f32"]
    activations: Literal["8bit", "16bit"] | None


class LoadOptions(NativeOptions, total=False):
    """What `load` takes for a model that runs here."""

    offline: bool
    ignore_keys: Iterable[str]
    progress: Callable[[int, int], None] | None
    executor: Literal["native", "torch"]
    prefix_dir: str | PathLike[str] | None
    prefix_bytes: int
    trust_control_tokens: bool
    speculation: bool
    prediction_block: bool
    keep_packed: bool
    adapters: Mapping[str, str | PathLike[str]] | None


class HostedOptions(TypedDict, total=False):
    """What `load` takes for a model elsewhere."""

    model: str | None
    engine: str | None
    tokenizer: str | None
    key_variable: str | None
    retries: int
    timeout: float
