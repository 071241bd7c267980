"""Changing any number, flag or choice in any family's spec changes a shape, the cost or the logits, or is refused.

A field that could be changed without a trace would be one that nobody reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

import pytest
import torch

from tests.executors.tiny import random_tensors
from tests.families import BY_NAME, FAMILIES, prompt
from trilens.decoder.weights import decoder_weights, parameters
from trilens.executors.accountant import Span, fixed_bytes, kv_bytes, step_cost
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor
from trilens.spec.huggingface import read_config
from trilens.spec.model import (
    Attention,
    GatedRecurrence,
    LatentAttention,
    Layer,
    Mixer,
    ModelSpec,
    ShortConvolution,
    SideBySide,
    State,
)

FELT = 1e-8  # a change of the logits that is no rounding, in float64


# Between them they have every kind of field that a family has: fewer would not do.
COVER = [
    *("gemma 2", "gemma 3n (text)", "gemma 4 E2B", "gemma 4 26B-A4B", "ministral 3 (text)", "olmoe", "phi-3.5-moe"),
    *("llama 4 scout", "gpt-oss", "glm-4.5", "glm-4.7-flash", "lfm2", "lfm2 untied, biases", "kimi linear", "bitnet"),
    *("qwen3-next with dense layers, biases, six taps", "falcon-h1 without a norm, biases", "nemotron-3 super"),
    *("apertus", "hunyuan dense", "command-r+", "falcon 7B", "gpt-2", "opt", "laguna, a gate a column", "step-3.7"),
    "deepseek v3.2",
]
Path = tuple[str | int, ...]


@cache
def spec_of(name: str) -> ModelSpec:
    config = BY_NAME[name].config()
    return read_config({**config.to_dict(), **BY_NAME[name].overrides}).spec


@pytest.mark.parametrize("name", COVER)
def test_every_kind_of_field_is_felt(name: str) -> None:
    """In the first of these families that has it."""
    before = {kind for earlier in COVER[: COVER.index(name)] for kind in kinds(spec_of(earlier))}
    new = {kind: path for kind, path in kinds(spec_of(name)).items() if kind not in before}
    assert new, "its fields are all in earlier ones"
    assert unfelt(name, new.values()) == []


def test_no_kind_of_field_is_left_out() -> None:
    assert {k for name in BY_NAME for k in kinds(spec_of(name))} == {k for name in COVER for k in kinds(spec_of(name))}


@pytest.mark.slow
@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_every_field_is_felt(name: str) -> None:
    assert unfelt(name, [path for path, _ in leaves(spec_of(name), ())]) == []


def unfelt(name: str, paths: Iterable[Path]) -> list[tuple[str, Any]]:
    spec, edge = spec_of(name), BY_NAME[name].edge
    seen = Seen(spec, (20, 2 * edge + 11) if edge else (20,))
    found = []
    for path in paths:
        value = reached(spec, path)
        if counts(spec, path) and not any(seen.differs(changed(spec, path, other)) for other in others(value)):
            found.append((".".join(map(str, path)), value))
    return found


def kinds(spec: ModelSpec) -> dict[tuple[str, ...], Path]:
    """Every kind of field -> the first that counts. What is true and what is false, and each choice, is a kind."""
    found: dict[tuple[str, ...], Path] = {}
    for path, value in leaves(spec, ()):
        at = max(i for i, step in enumerate(path) if isinstance(step, str))
        choice = str(value) if isinstance(value, bool | StrEnum) else ""
        kind = (type(reached(spec, path[:at])).__name__, str(path[at]), choice)
        if kind not in found and counts(spec, path):
            found[kind] = path
    return found


def counts(spec: ModelSpec, path: Path) -> bool:
    """But for those of the block that predicts, which runs beside the decoder (tests/generate/test_predictions.py)."""
    return not (path[0] in ("family", "prediction") or layer_seen_before(spec, path) or means_nothing(spec, path))


class Seen:
    """What can be observed of a spec: shapes, costs, and logits with fixed random weights."""

    def __init__(self, spec: ModelSpec, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths
        self.shapes, self.costs = shapes(spec), costs(spec)
        self.tensors = {name: tensor.double() for name, tensor in random_tensors(spec).items()}
        self.logits = list(self.run(spec))

    def differs(self, other: ModelSpec | None) -> bool:
        if other is None:
            return True
        try:
            if shapes(other) != self.shapes or costs(other) != self.costs:
                return True
            return any(
                not torch.isfinite(a).all() or (a - b).abs().max() > FELT
                for a, b in zip(self.run(other), self.logits, strict=True)
            )
        except (AssertionError, RuntimeError, IndexError, ValueError, ArithmeticError):
            return True  # such a model cannot be run

    def run(self, spec: ModelSpec) -> Iterator[torch.Tensor]:
        """Logits of one length after the other, so that the longer one is computed only where the shorter shows
        nothing."""
        executor = TorchExecutor(spec, self.tensors)
        for n in self.lengths:
            with torch.no_grad():
                yield executor.forward([StepInput(executor.sequence(n), prompt(n, vocab=120))], every_row=True)


def shapes(spec: ModelSpec) -> list[Any]:
    return list(parameters(decoder_weights(spec)))


def costs(spec: ModelSpec) -> list[int]:
    cost = step_cost(spec, [Span(0, 77)])
    kv = [kv_bytes(spec, 77), kv_bytes(spec, spec.context), fixed_bytes(spec)]
    longest = step_cost(spec, [Span(0, spec.context)]).flops()
    return [cost.flops(), cost.masked_flops(), cost.kv_elements_read(), cost.kv_elements_written(), longest, *kv]


def leaves(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every number, flag and choice below `node`, by its path; of a long list of numbers, the middle one."""
    if is_dataclass(node):
        for f in fields(node):
            yield from leaves(getattr(node, f.name), (*path, f.name))
    elif isinstance(node, tuple):
        middle = [len(node) // 2] if node and isinstance(node[0], float) else range(len(node))
        for i in middle:
            yield from leaves(node[i], (*path, i))
    elif isinstance(node, bool | int | float | StrEnum):
        yield path, node


def means_nothing(spec: ModelSpec, path: Path) -> bool:
    """The order of a recurrence's heads where each has a key head of its own, how two dimensions turn, whether a norm
    comes behind a rotation that is not there, the ends of a ramp on which no dimension of a rotation lies."""
    holder = reached(spec, path[:-1])
    match path[-1]:
        case "tiled":
            return bool(holder.heads == holder.key_heads)
        case "theta" | "interleaved":
            return bool(getattr(holder, "dim", 0) == 2)
        case "low_frequency" | "high_frequency" | "original_context" if hasattr(holder, "high_frequency"):
            rope, whole = reached(spec, path[:-2]), holder.original_context
            turns = [2 * math.pi * rope.theta ** (i / rope.dim) for i in range(0, rope.dim, 2)]
            return not any(whole / holder.high_frequency <= t <= whole / holder.low_frequency for t in turns)
        case "after_rope":
            return reached(spec, path[:-2]).rope is None
    return False


def layer_seen_before(spec: ModelSpec, path: Path) -> bool:
    """Whether an earlier layer is the same but for its state's number; states are reached through their layers."""
    if path[0] == "states":
        return True
    if path[0] != "layers":
        return False
    plain = [unnumbered(layer) for layer in spec.layers]
    return plain[int(path[1])] in plain[: int(path[1])]


def unnumbered(layer: Layer) -> Layer:
    def plain(mixer: Mixer | None) -> Mixer | None:
        match mixer:
            case Attention() | LatentAttention() as attention:
                return replace(attention, cache=replace(attention.cache, index=0))
            case ShortConvolution() | GatedRecurrence() as kept:
                return replace(kept, state=replace(kept.state, index=0))
            case SideBySide(attention=attention, recurrence=recurrence):
                cache, state = replace(attention.cache, index=0), replace(recurrence.state, index=0)
                return SideBySide(replace(attention, cache=cache), replace(recurrence, state=state))
            case None:
                return None

    return replace(layer, mixer=plain(layer.mixer))


def others(value: Any) -> list[Any]:
    match value:
        case bool():
            return [not value]
        case StrEnum():
            return [other for other in type(value) if other is not value]
        case int():
            return [2 * value, value + 1, max(1, value // 2)]
        case _:
            return [2 * value + 0.01, value / 2 + 0.1, value + 1.0]


def changed(spec: ModelSpec, path: Path, value: Any) -> ModelSpec | None:
    """The spec with one leaf changed, a state's for all who read it; None if such a spec is refused."""
    try:
        if "cache" in path or "state" in path:
            at = path.index("cache" if "cache" in path else "state") + 1
            old = reached(spec, path[:at])
            new = with_leaf(old, path[at:], value)
            return exchanged(spec, old, new)
        return with_leaf(spec, path, value)
    except ValueError:
        return None


def reached(node: Any, path: Path) -> Any:
    for step in path:
        node = node[step] if isinstance(step, int) else getattr(node, step)
    return node


def with_leaf(node: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return (*node[:step], with_leaf(node[step], rest, value), *node[step + 1 :])
    return replace(node, **{step: with_leaf(getattr(node, step), rest, value)})


def exchanged(node: Any, old: State, new: State) -> Any:
    """The tree with one state in place of another."""
    if node == old:
        return new
    if isinstance(node, tuple):
        return tuple(exchanged(child, old, new) for child in node)
    if is_dataclass(node):
        return replace(node, **{f.name: exchanged(getattr(node, f.name), old, new) for f in fields(node)})
    return node
