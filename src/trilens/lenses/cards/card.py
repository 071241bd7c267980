"""The card: what a model is and what one token costs, from its small files only, without weights or torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

from trilens.checkpoints.adapters import adapter_bytes, adapter_parameters
from trilens.checkpoints.find import Found
from trilens.errors import TrilensError, UnsupportedModel, UsageError
from trilens.executors.accountant import ParameterCount, StepCost, count_parameters, fixed_bytes, kv_bytes
from trilens.generate import arguments
from trilens.lenses.cards.dense import DenseLens, dense_lens
from trilens.lenses.cards.moe import MoeLens, moe_lens
from trilens.lenses.cards.partial import PartialCard, partial_card
from trilens.lenses.cards.published import Compared, compare_published
from trilens.lenses.cards.reasoning import THOUGHT, ReasoningLens, reasoning_lens
from trilens.lenses.cards.source import CardSource, card_source
from trilens.lenses.cards.weights import WeightBytes, own_bytes, weight_bytes
from trilens.spec.catalog import CatalogEntry
from trilens.spec.huggingface import read_config
from trilens.spec.model import ModelSpec, Reading
from trilens.text.thinking import Inference

KV_TYPES = {"f32": Fraction(4), "f16": Fraction(2), "bf16": Fraction(2), "q8_0": Fraction(34, 32)}


@dataclass(frozen=True)
class AdapterSize:
    """A LoRA adapter beside the model: numbers of its matrices, bytes of its file, and operations that it adds to a
    token, for its call alone."""

    name: str
    parameters: int
    bytes: int

    @property
    def flops(self) -> int:
        """Every number is multiplied with once and added once."""
        return 2 * self.parameters


@dataclass(frozen=True)
class Card:
    """Sizes in numbers and bytes, work in operations; at `context` tokens and `kv_type` where that matters."""

    name: str
    origin: str
    reading: Reading
    context: int
    kv_type: str
    dense: DenseLens
    moe: MoeLens | None
    reasoning: ReasoningLens
    weights: tuple[WeightBytes, ...]
    published: tuple[Compared, ...]
    adapters: tuple[AdapterSize, ...] = ()

    @property
    def spec(self) -> ModelSpec:
        return self.reading.spec

    @property
    def parameters(self) -> ParameterCount:
        return self.dense.parameters

    @property
    def token(self) -> StepCost:
        """The cost of one token at the card's context."""
        return self.dense.costs[self.context]

    @property
    def inference(self) -> Inference:
        return self.reasoning.inference

    @property
    def backbone(self) -> str:
        return self.spec.backbone

    @property
    def tag(self) -> str:
        return f"{self.backbone} · {self.inference.word}"

    def kv_bytes(self, context: int) -> int:
        """The size of one sequence's keys and values at that many tokens."""
        return kv_bytes(self.spec, context, KV_TYPES[self.kv_type])

    @property
    def fixed_bytes(self) -> int:
        """The size of a sequence's other states, which does not depend on its length."""
        return fixed_bytes(self.spec)

    def as_dict(self) -> dict[str, Any]:
        """Every number of the text, with bytes and operations as integers."""
        spec = self.spec
        return {
            "name": self.name,
            "source": self.origin,
            "family": spec.family,
            "tag": self.tag,
            "backbone": self.backbone,
            "inference": self.inference.as_dict(),
            "context_length": spec.context,
            "wiring": {"layers": len(spec.layers), "width": spec.width, "vocab": spec.vocab},
            "parameters": asdict(self.parameters),
            "flops_per_token": {"context": self.context, **self.token.flops_by_part()},
            "kv_bytes_per_token": round(self.kv_bytes(self.context) / self.context),
            "kv_cache": {
                "context": self.context,
                "type": self.kv_type,
                "bytes": self.kv_bytes(self.context),
                "bytes_at_full_context": self.kv_bytes(spec.context),
                "bytes_by_context": {str(n): self.kv_bytes(n) for n in self.dense.costs},
            },
            "fixed_state_bytes": self.fixed_bytes,
            "weight_bytes": {w.type: w.bytes for w in self.weights},
            "weight_types": {w.type: w.meaning for w in self.weights},
            "dense_lens": self.dense.as_dict(),
            "moe_lens": None if self.moe is None else self.moe.as_dict(),
            "reasoning_lens": self.reasoning.as_dict(),
            "published": [vars(c) for c in self.published],
            "adapters": [{**asdict(a), "flops_per_token": a.flops} for a in self.adapters],
            "unread": list(self.reading.unread),
            "ignored": list(self.reading.ignored),
            "defaults": self.reading.defaults,
            "not_counted": self.reading.not_counted,
        }

    def as_text(self, width: int | None = None) -> str:
        """The card for a terminal of `width` columns. None uses the terminal's width."""
        from trilens.lenses.cards.card_text import card_text

        return card_text(self, width)

    def _repr_html_(self) -> str:
        from trilens.lenses.cards.card_text import card_html

        return card_html(self)


@dataclass(frozen=True)
class StatedCard:
    """The card of a model whose architecture is not known: what the catalog states, and where to look for more."""

    entry: CatalogEntry

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def tag(self) -> str:
        return f"{self.entry.backbone} · {self.entry.inference.word}"

    @property
    def look_up(self) -> str:
        if self.entry.look_up is not None:
            return self.entry.look_up
        if self.entry.vendor is not None:
            return f"a technical report or system card of {self.entry.vendor}: its architecture is not published"
        return "its config.json, on its publisher's page; `trilens card FILE` then counts it"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "source": "the catalog",
            "tag": self.tag,
            "backbone": self.entry.backbone,
            "inference": asdict(self.entry.inference),
            "vendor": self.entry.vendor,
            "description": self.entry.description,
            "parameters": None,
            "look_up": self.look_up,
        }

    def as_text(self, width: int | None = None) -> str:
        from trilens.lenses.cards.card_text import stated_text

        return stated_text(self, width)

    def _repr_html_(self) -> str:
        from trilens.notebook import preformatted

        return preformatted(self.as_text(100))


def card(
    name: str | Found,
    *,
    context: int = 1,
    kv_type: str = "f16",
    offline: bool = False,
    up_to_context: bool = False,
    adapters: Mapping[str, str | PathLike[str]] | None = None,
) -> Card | PartialCard | StatedCard:
    """The card of a catalog name, a path or a hub id. It is a `PartialCard` if trilens does not know how the model is
    wired, and a `StatedCard` if there are no files to read: for a hosted model, or a family without a size.

    `context` is the number of tokens that a token attends to, itself included. `up_to_context`: use the model's maximum
    if that is less, instead of refusing. `adapters`: LoRA adapters by name, each a directory in PEFT's layout or a GGUF
    file. Whether one fits the model is checked when it is loaded.

    Raises UsageError or UnsupportedModel for adapters of a model that does not run here.
    """
    if not isinstance(name, Found):
        name = arguments.model_name(name)
    arguments.whole("context", context, 1, none=False, error=UsageError)
    arguments.one_of("kv_type", kv_type, tuple(KV_TYPES), none=False)
    arguments.flag("offline", offline)
    arguments.flag("up_to_context", up_to_context)
    sizes = tuple(
        AdapterSize(key, adapter_parameters(Path(path)), adapter_bytes(Path(path)))
        for key, path in arguments.adapters(adapters).items()
    )
    try:
        source = card_source(name, offline=offline)
    except UnsupportedModel as problem:
        if sizes:
            raise
        return partial_card(name, offline=offline, problem=problem)
    if source.reading is None:
        assert source.entry is not None
        if sizes:
            raise UsageError(f"{source.title}: {source.without_numbers}; adapters are for models that run here")
        return StatedCard(source.entry)
    most = source.reading.spec.context
    made = _of_spec(source, source.reading, min(context, most) if up_to_context else context, kv_type)
    return replace(made, adapters=sizes)


def card_of_config(config: Mapping[str, Any]) -> Card:
    """The card of a config.json's content. Whether the model thinks is unknown: its template is in another file.

    Raises BadCheckpoint for a damaged configuration, and UnsupportedModel for one that trilens cannot read.
    """
    title = "config.json"
    reading = read_config(config, title)
    return _of_spec(CardSource(title, title, reading, Inference("unknown"), config=config), reading, 1, "f16")


def _of_spec(source: CardSource, reading: Reading, context: int, kv_type: str) -> Card:
    spec = reading.spec
    if not 1 <= context <= spec.context:
        raise UsageError(f"context {context} is outside the model's 1 to {spec.context}")
    parameters = count_parameters(spec)
    own = own_bytes(source.found, source.config, spec)
    stated = () if source.entry is None else source.entry.published
    dense = dense_lens(spec, parameters, context)
    return Card(
        name=source.title,
        origin=source.origin,
        reading=reading,
        context=context,
        kv_type=kv_type,
        dense=dense,
        moe=moe_lens(spec, parameters, dense.costs[1]),
        reasoning=reasoning_lens(spec, source.inference, kv_bytes(spec, THOUGHT, KV_TYPES[kv_type])),
        weights=(*([] if own is None else [own]), *_here(source), *weight_bytes(spec)),
        published=compare_published(stated, parameters, reading),
    )


def _here(source: CardSource) -> tuple[WeightBytes, ...]:
    """The weights in trilens's memory, where that is not how the files have them."""
    from trilens.lenses.cards.held import growth

    try:
        made = growth(source)
    except TrilensError:  # nothing says how they are stored; the files' own size says why
        return ()
    return () if made is None else (WeightBytes("here", made.bytes, f"in trilens's memory: {'; '.join(made.said)}"),)
