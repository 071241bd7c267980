"""GGUF metadata -> the same ModelSpec: each architecture's keys are renamed to config.json's, and its family reads
them.

What GGUF says by the presence of a tensor instead of a key (a tied head, biases, rotary divisors) is read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.spec.huggingface import FAMILIES
from trilens.spec.keys import Keys
from trilens.spec.model import Reading

# `ARCH.` + the left name -> config.json's name. A dotted right name goes into a nested mapping.
COMMON = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "rope.scaling.type": "rope_scaling.rope_type",
    "rope.scaling.factor": "rope_scaling.factor",
    "rope.scaling.original_context_length": "rope_scaling.original_max_position_embeddings",
    "vocab_size": "vocab_size",
}

# Said again by other keys, or of the file and not of the model.
REPEATED = frozenset({"attention.value_length", "rope.dimension_count", "rope.scaling.finetuned"})
BESIDE_THE_MODEL = ("general.", "tokenizer.", "split.", "quantize.", "GGUF.", "imatrix.")


@dataclass(frozen=True)
class Source:
    """What a GGUF file says beside its metadata: the shapes of its tensors by name, and the values of a small one."""

    shapes: Mapping[str, tuple[int, ...]]
    values: Callable[[str], Sequence[float]]


def read_gguf_metadata(metadata: Mapping[str, Any], source: Source, where: str) -> Reading:
    """Raises BadCheckpoint for contradictions, UnsupportedModel for an architecture nobody here knows."""
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise BadCheckpoint(f"{where}: has no general.architecture; expected one of {', '.join(sorted(ARCHITECTURES))}")
    if arch not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{where}: the architecture {arch!r} is not known; its layers may need parts that trilens does not have. "
            f"Known: {', '.join(sorted(ARCHITECTURES))}"
        )
    own = {name.removeprefix(arch + "."): value for name, value in metadata.items() if name.startswith(arch + ".")}
    own.setdefault("vocab_size", _vocabulary(metadata, source, where))
    config: dict[str, Any] = {}
    unread: list[str] = []
    for name, value in own.items():
        if name in COMMON:
            _put(config, COMMON[name], value)
        elif name not in REPEATED:
            (unread if value not in (None, False, 0, "") else []).append(f"{arch}.{name}")
    unread += [n for n in metadata if not n.startswith((arch + ".", *BESIDE_THE_MODEL))]
    config["tie_word_embeddings"] = "output.weight" not in source.shapes
    _repair_rope(config, source)
    family = ARCHITECTURES[arch](config, own, source)
    keys = Keys(config, where)
    spec = FAMILIES[family](keys)
    telling, empty = keys.unread()
    return Reading(
        replace(spec, family=family),
        unread=tuple(unread + [n for n in telling if n != "head_dim"]),
        ignored=tuple(empty),
        defaults=keys.all_defaults(),
    )


def _llama(config: dict[str, Any], own: Mapping[str, Any], source: Source) -> str:
    config["attention_bias"] = "blk.0.attn_q.bias" in source.shapes
    config["mlp_bias"] = "blk.0.ffn_gate.bias" in source.shapes
    if own.get("expert_count"):
        raise UnsupportedModel("routed models under the architecture 'llama' (Mixtral) are not read from GGUF yet")
    # one architecture name for two families: the window is what tells them apart
    return "mistral" if config.get("sliding_window") else "llama"


def _qwen2(config: dict[str, Any], own: Mapping[str, Any], source: Source) -> str:
    return "qwen2"


def _qwen3(config: dict[str, Any], own: Mapping[str, Any], source: Source) -> str:
    return "qwen3"


ARCHITECTURES: dict[str, Callable[[dict[str, Any], Mapping[str, Any], Source], str]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}


def _repair_rope(config: dict[str, Any], source: Source) -> None:
    """Scaling that GGUF writes as a tensor of divisors becomes the rule that has divisors."""
    rules = config.get("rope_scaling", {})
    if rules.get("rope_type") == "none":
        rules["rope_type"] = "default"
    if "rope_freqs.weight" in source.shapes:
        divisors = list(source.values("rope_freqs.weight"))
        config["rope_scaling"] = {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "factor": 1.0,
            "original_max_position_embeddings": config.get("max_position_embeddings"),
        }
    elif not rules:
        config.pop("rope_scaling", None)


def _put(config: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for name in outer:
        config = config.setdefault(name, {})
    config[last] = value


def _vocabulary(metadata: Mapping[str, Any], source: Source, where: str) -> int:
    """The embedding's rows: they may be more than the tokens that have a text."""
    shape = source.shapes.get("token_embd.weight")
    if shape is None or len(shape) != 2:
        raise BadCheckpoint(f"{where}: has no matrix token_embd.weight; expected the embedding table under that name")
    return shape[0]
