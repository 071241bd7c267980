"""The card: what a model is and what a token of it costs, from its small files alone. No weights, no numpy, no
torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from trilens.checkpoints.find import Found, find
from trilens.checkpoints.load import read_spec, stored_weight_bytes
from trilens.errors import UsageError
from trilens.executors.accountant import ParameterCount, StepCost, count_parameters, kv_bytes, token_cost
from trilens.spec.model import Chunk, Full, LatentAttention, ModelSpec, Reading, Window
from trilens.text.thinking import Inference, read_inference
from trilens.units import big, data, flop

KV_TYPES = {"f32": Fraction(4), "f16": Fraction(2), "bf16": Fraction(2), "q8_0": Fraction(34, 32)}


@dataclass(frozen=True)
class Card:
    """Sizes in numbers and bytes, work in operations. What depends on it is stated at `context` tokens and
    `kv_type`."""

    name: str
    reading: Reading
    context: int
    kv_type: str
    parameters: ParameterCount
    token: StepCost
    inference: Inference
    weight_bytes: dict[str, int]

    @property
    def spec(self) -> ModelSpec:
        return self.reading.spec

    @property
    def backbone(self) -> str:
        return "routed" if any(self.spec.routed_layers()) else "dense"

    @property
    def tag(self) -> str:
        return f"{self.backbone} · {self.inference.word}"

    def kv_bytes(self, context: int) -> int:
        """One sequence's cache at that many tokens."""
        return kv_bytes(self.spec, context, KV_TYPES[self.kv_type])

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": self.spec.family,
            "tag": self.tag,
            "backbone": self.backbone,
            "inference": asdict(self.inference),
            "context_length": self.spec.context,
            "parameters": asdict(self.parameters),
            "flops_per_token": {"context": self.context, **self.token.flops_by_part()},
            "kv_bytes_per_token": round(self.kv_bytes(self.context) / self.context),
            "kv_cache": {
                "context": self.context,
                "type": self.kv_type,
                "bytes": self.kv_bytes(self.context),
                "bytes_at_full_context": self.kv_bytes(self.spec.context),
            },
            "weight_bytes": self.weight_bytes,
            "unread": list(self.reading.unread),
            "ignored": list(self.reading.ignored),
            "defaults": self.reading.defaults,
            "not_counted": self.reading.not_counted,
        }

    def as_text(self) -> str:
        spec, p = self.spec, self.parameters
        first = spec.layers[0]
        share = "every weight fires" if p.every_weight_fires else f"{100 * p.active / p.total:.1f} % of them active"
        flops = self.token.flops_by_part()
        parts = " · ".join(f"{n.replace('_', ' ')} {flop(f)}" for n, f in flops.items() if f and n != "total")
        lines = [
            f"{self.name}  [{self.tag}]",
            f"  wiring      {spec.family} · {len(spec.layers)} layers of width {spec.width} · {_heads(spec)} · "
            f"vocabulary {spec.vocab} · context {spec.context}",
            f"  attention   {_masks(spec)}",
            f"  parameters  {p.total} ({big(p.total)}), {share}: {p.active} ({big(p.active)}) per token",
            f"  per token   {flop(flops['total'])} at context {self.context}: {parts}",
            f"  KV cache    {data(self.kv_bytes(self.context) / self.context)} per token at context {self.context}, "
            f"{data(self.kv_bytes(spec.context))} at {spec.context} ({self.kv_type})",
            f"  weights     {' · '.join(f'{data(b)} {n}' for n, b in self.weight_bytes.items())}",
        ]
        assert first is not None
        for title, names in (("unread", self.reading.unread), ("defaults", tuple(map(str, self.reading.defaults)))):
            if names:
                lines.append(f"  {title:11} {', '.join(names)}")
        return "\n".join(lines)


def card(name: str | Found, *, context: int = 1, kv_type: str = "f16", offline: bool = False) -> Card:
    """The card of a catalog name, a path or a hub id. `context` is the number of tokens a token sees, its own
    included."""
    found = name if isinstance(name, Found) else find(name, offline=offline, only_small=True)
    reading = read_spec(found)
    if kv_type not in KV_TYPES:
        raise UsageError(f"KV type {kv_type!r} is not known; expected one of {', '.join(KV_TYPES)}")
    if not 1 <= context <= reading.spec.context:
        raise UsageError(f"context {context} is outside the model's 1 to {reading.spec.context}")
    parameters = count_parameters(reading.spec)
    return Card(
        name=found.origin,
        reading=reading,
        context=context,
        kv_type=kv_type,
        parameters=parameters,
        token=token_cost(reading.spec, context),
        inference=read_inference(found),
        weight_bytes={
            **stored_weight_bytes(found),
            "bf16": 2 * parameters.total,
            "8-bit": parameters.total,
            "4-bit": (parameters.total + 1) // 2,
        },
    )


def _heads(spec: ModelSpec) -> str:
    kinds: dict[str, None] = {}
    for layer in spec.layers:
        a = layer.attention
        match a:
            case LatentAttention():
                kinds[f"{a.heads} heads on a latent of {a.kv_rank} + {a.rope_dim}"] = None
            case _:
                kinds[f"{a.heads} heads of {a.cache.key_dim} on {a.cache.kv_heads} of keys and values"] = None
    return " or ".join(kinds)


def _masks(spec: ModelSpec) -> str:
    """full on 8 layers, window 512 on 40"""
    counts: dict[str, int] = {}
    for layer in spec.layers:
        match layer.attention.mask:
            case Full():
                word = "full"
            case Window(size):
                word = f"window {size}"
            case Chunk(size):
                word = f"chunks of {size}"
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{word} on {count} layers" for word, count in counts.items())
