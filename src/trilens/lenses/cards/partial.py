"""The card of a model whose wiring is not known: what its files say for certain, and what they do not say.

Its tensors are read from the headers (names, shapes, types); sizes that its configuration states are given under the
names that the file has for them. Of some models the parameters are counted exactly (`spec/counted.py`). Nothing is
derived from a wiring, so there is no cost of a token and no cache.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from trilens.errors import UnsupportedModel
from trilens.executors.accountant import ParameterCount
from trilens.lenses.cards.published import compare_counted, count_of
from trilens.lenses.layout import heading, paragraph, spaced, terminal_width
from trilens.spec.counted import Counted, counted
from trilens.text.thinking import Inference
from trilens.units import big, data

if TYPE_CHECKING:
    from trilens.checkpoints.checkpoint import StoredTensor
    from trilens.checkpoints.find import Found

ACTIVE = "active parameters"
UNKNOWN = (ACTIVE, "operations per token", "KV cache", "whether it runs here: trilens cannot run it")

# What a configuration calls each size; the first that is there counts, in `text_config` before the whole.
SIZES = {
    "layers": "num_hidden_layers n_layers n_layer num_layers block_count".split(),
    "width": "hidden_size d_model n_embd dim model_dim embedding_length".split(),
    "vocabulary": "vocab_size padded_vocab_size".split(),
    "context": "max_position_embeddings max_seq_len model_max_length n_positions n_ctx context_length".split(),
    "experts": "num_experts num_local_experts n_routed_experts moe_num_experts expert_count".split(),
    "experts per token": "num_experts_per_tok num_experts_per_token moe_top_k moe_k moe_topk top_k_experts "
    "expert_used_count".split(),
    "attention heads": "num_attention_heads n_heads n_head num_heads head_count".split(),
}
LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|block|h|blk)\.(\d+)\.")
EXPERT = re.compile(r"\.experts?\.(\d+)\.")


@dataclass(frozen=True)
class Tensors:
    """What the headers say. `parameters` counts stored numbers: quantised ones are packed, several in one."""

    count: int
    parameters: int
    bytes: int
    bytes_by_type: dict[str, int]
    layers: int | None
    experts: int | None

    @classmethod
    def of(cls, tensors: Iterable[StoredTensor]) -> Tensors:
        every = list(tensors)
        by_type: Counter[str] = Counter()
        for tensor in every:
            by_type[tensor.type] += tensor.nbytes
        return cls(
            count=len(every),
            parameters=sum(prod(t.shape) for t in every),
            bytes=sum(t.nbytes for t in every),
            bytes_by_type=dict(by_type.most_common()),
            layers=_highest(LAYER, every),
            experts=_highest(EXPERT, every),
        )


@dataclass(frozen=True)
class PartialCard:
    """`stated`: sizes as the configuration has them, each with the key that says so. `tensors`: None where only a
    configuration is here. `why`: what is not known of the model. `counted`: its parameters, where they are known."""

    name: str
    origin: str
    family: str
    why: str
    stated: dict[str, tuple[int, str]]
    tensors: Tensors | None
    inference: Inference
    published: tuple[str, ...] = ()
    counted: Counted | None = None

    @property
    def parameters(self) -> ParameterCount | None:
        return None if self.counted is None else count_of(self.counted)

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(what for what in UNKNOWN if what != ACTIVE or self.counted is None)

    @property
    def backbone(self) -> str:
        """Routed where experts are named, by tensors or keys. Their absence proves nothing."""
        if self.counted is not None:
            return "routed" if self.counted.resting else "dense"
        experts = self.stated.get("experts", (0, ""))[0]
        named = self.tensors is not None and (self.tensors.experts or 0) > 1
        return "routed" if experts > 1 or named else "unknown"

    @property
    def tag(self) -> str:
        return f"{self.backbone} · {self.inference.word}"

    def as_dict(self) -> dict[str, Any]:
        """What the text says, with None for what is not known."""
        return {
            "name": self.name,
            "source": self.origin,
            "partial": True,
            "family": self.family,
            "tag": self.tag,
            "backbone": self.backbone,
            "inference": self.inference.as_dict(),
            "why": self.why,
            "stated": {size: {"value": value, "key": key} for size, (value, key) in self.stated.items()},
            "tensors": None if self.tensors is None else vars(self.tensors),
            "published": list(self.published),
            "parameters": None if self.parameters is None else asdict(self.parameters),
            "flops_per_token": None,
            "kv_cache": None,
            "unknown": list(self.unknown),
        }

    def as_text(self, width: int | None = None) -> str:
        """The card for a terminal of `width` columns. None uses the terminal's width."""
        width = width or terminal_width()
        lines = heading(self.name, self.tag, width)
        lines += paragraph("from", self.origin, width)
        lines += paragraph("partial card", f"model_type {self.family!r}: {self.why}", width)
        said = [f"{size} {spaced(value)} ({key})" for size, (value, key) in self.stated.items()]
        lines += paragraph("it states", ", ".join(said) or "none of the usual sizes", width)
        if self.counted is not None:
            lines += paragraph("parameters", _of_parameters(self.counted), width)
        if self.tensors is not None:
            lines += paragraph("its tensors", _of_tensors(self.tensors), width)
        if self.published:
            lines += paragraph("published", ", ".join(self.published), width)
        lines += paragraph("not known", "; ".join(self.unknown), width)
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        from trilens.notebook import preformatted

        return preformatted(self.as_text(100))


def partial_card(name: str | Found, *, offline: bool, problem: UnsupportedModel) -> PartialCard:
    """What can be said of a model that `problem` refuses. Raises `problem` again where no configuration is here."""
    from trilens.lenses.cards.source import unread_source

    source = unread_source(name, offline=offline)
    if source is None:
        raise problem
    values, tensors = source.config, None
    if source.found is not None and source.found.kind == "directory":
        from trilens.checkpoints.safetensors import stored_tensors

        tensors = Tensors.of(stored_tensors(source.found.path).values())
    elif source.found is not None and source.found.kind == "gguf":
        from trilens.checkpoints.gguf import read_gguf

        checkpoint = read_gguf(source.found.path)
        tensors = Tensors.of(checkpoint.tensors.values())
        values = _of_gguf(checkpoint.metadata)
        checkpoint.close()
    family = str(values.get("model_type", values.get("general.architecture", "not stated")))
    count = counted(values, source.title)
    stated = () if source.entry is None else source.entry.published
    sizes = (
        [f"{p.says or p.exact} {p.what}" for p in stated]
        if count is None
        else [compared.as_line() for compared in compare_counted(stated, count)]
    )
    why = re.sub(
        r"^.*? is not supported: |(\. Supported: |; its publisher says ).*$", "", str(problem), flags=re.DOTALL
    )
    return PartialCard(
        source.title, source.origin, family, why, _stated(values), tensors, source.inference, tuple(sizes), count
    )


def _stated(config: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    inner = [(f"{key}.", value) for key, value in config.items() if isinstance(value, Mapping)]
    text = [place for place in inner if place[0] in ("text_config.", "llm_config.", "language_config.")]
    found: dict[str, tuple[int, str]] = {}
    for size, keys in SIZES.items():
        for at, place in [*text, ("", config), ("ffn_config.", config.get("ffn_config") or {})]:
            key = next((k for k in keys if type(place.get(k)) is int and place[k] > 0), None)
            if key is not None:
                found.setdefault(size, (place[key], at + key))
    return found


def _of_gguf(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of its architecture without that name before each key, and the length of its vocabulary."""
    architecture = str(metadata.get("general.architecture", ""))
    own = {key.removeprefix(architecture + "."): value for key, value in metadata.items()}
    tokens = metadata.get("tokenizer.ggml.tokens")
    return {**own, **({"vocab_size": len(tokens)} if isinstance(tokens, Sized) else {})}


def _of_parameters(c: Counted) -> str:
    active = c.active_with_embeddings
    said = f"{spaced(c.total)} total ({big(c.total)}), {spaced(active)} active per token ({big(active)}): "
    return said + f"{100 * active / c.total:.1f} %; {big(c.active)} without tables that are only looked up"


def _of_tensors(t: Tensors) -> str:
    types = ", ".join(f"{kind} {data(size)}" for kind, size in t.bytes_by_type.items())
    said = (
        f"{spaced(t.count)} tensors of {spaced(t.parameters)} numbers ({big(t.parameters)}), {data(t.bytes)}: {types}"
    )
    said += f"; {t.layers} layers by their names" if t.layers else ""
    return said + (f"; {t.experts} experts a layer by their names" if t.experts else "")


def _highest(pattern: re.Pattern[str], tensors: list[StoredTensor]) -> int | None:
    numbers = [int(found[1]) for t in tensors if (found := pattern.search(t.name))]
    return max(numbers) + 1 if numbers else None
