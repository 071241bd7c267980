"""Writes docs/families.md from the table that the parity test runs over: python -m tests.families_page"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tests.families import BY_NAME, FAMILIES, Family, prompt, saved
from tests.gguf_models import MODELS, UNCONFIRMED
from trilens.spec.huggingface import read_config
from trilens.spec.model import (
    Attention,
    Beside,
    Chunk,
    Curve,
    Dense,
    GatedRecurrence,
    Glu,
    LatentAttention,
    LearnedCurve,
    ModelSpec,
    Routed,
    ShortConvolution,
    Shortcut,
    SingleMixer,
    Window,
)

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
MEASURED = re.compile(r"\d\.\de-\d\d")

HEAD = """# Families

Written by `python -m tests.families_page` from the table that the tests use. Each row here is a row there.

A row is a tiny random model in which every mechanism of its family is switched on.

- **Parity** is the largest difference between its float32 logits and those of transformers. It must be below 1e-4. The
  torch executor gets the prompt whole, seven tokens at a time, and one by one. The prompt is longer than the window and
  the original context if there is one, and has 311 tokens if the family carries a state.
- **GGUF** is llama.cpp's name for the architecture. Files with its names, keys and layouts give the same logits. A tick
  means that llama.cpp itself reads the same file and agrees. "unknown" means that llama.cpp has no such architecture.
  An empty cell is another form of a row above or below, or was not tested.
- **Limits** are what a user of the family has to know.

"""

# What a user of the family has to know.
LIMITS = {
    "llama yarn": "GGUF: not tested",
    "mistral": "GGUF has no key for the window, so a GGUF file is read without one",
    "qwen2 windows": "GGUF has no key for the windows",
    "gemma 2": "GGUF has no key for the scale of attention, so it is derived in the same way as in llama.cpp",
    "gemma 3": "text only: no images; GGUF as for Gemma 2",
    "gemma 3n (text)": "text only: no images, no sounds; llama.cpp caps logits at 30 whatever the file says",
    "gemma 4 26B-A4B": "text only: no images",
    "gemma 4 E2B": "text only: no images, no sounds",
    "gemma 4 12B (unified)": "text only: no images, no sounds",
    "mistral small 3": "text only: no images",
    "ministral 3": "text only: no images",
    "phi-4-mini": "short or long factors are chosen once per request, by the length of prompt and answer together",
    "phi-3.5-moe": "as Phi-4-mini; the reference is corrected, because transformers 5 ignores the long factors; "
    "llama.cpp routes differently",
    "phi-mini-moe": "llama.cpp routes differently",
    "olmo 3": "GGUF: tested without scaled positions",
    "llama 4 scout": "text only: no images",
    "gpt-oss": "llama.cpp rounds the ends of YaRN's ramp; trilens, like the model's authors, does not",
    "deepseek v2": "GGUF: llama.cpp does not support groups here",
    "deepseek v2 lite": "llama.cpp accepts these queries only in files of 26 or 27 layers, so it was not compared",
    "deepseek v3": "the multi-token prediction block can propose tokens",
    "glm-4.5": "the multi-token prediction block can propose tokens",
    "mistral large 3": "the publisher's own format, params.json, works for cards only",
    "lfm2 moe": "GGUF: llama.cpp does not scale the router's weights",
    "kimi k2": "also covers the text part of Kimi K2.5",
    "qwen3-next": "also covers Qwen3-Coder-Next; the multi-token prediction block can propose tokens",
    "qwen3.5 (text)": "also covers Qwen3.6 and 3.8; the multi-token prediction block can propose tokens",
    "qwen3.5": "text only: no images",
    "qwen3.5 moe": "text only: no images",
    "nemotron-h": "step sizes are bounded as in transformers' prompt path; its single-token path has no bound",
    "nemotron-3 super": "the multi-token prediction layers are not used",
    **dict.fromkeys(
        ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen3-vl moe", "glm-4.1v", "glm-4.5v"), "text only: no images"
    ),
    "longcat-flash": "the multi-token prediction layer is not used",
    **dict.fromkeys(
        ("deepseek v3.2", "glm-5"),
        "the native executor runs it as far as every position is chosen, to 2048 tokens in the published models; the "
        "torch executor has no such limit; the multi-token prediction layer is not used",
    ),
    "step-3.7": "text only: no images; the multi-token prediction layers are not used",
    "step-3.5": "the same decoder with its publisher's keys; the multi-token prediction layers are not used",
    "bamba": "llama.cpp's converter reorders whole heads, of which half turns: llama.cpp then gives other logits than "
    "the model's authors, and trilens gives theirs",
    "exaone 4": "llama.cpp knows windows only in files of 64 layers",
    "command-r+": "llama.cpp normalises heads only in files of 64 layers or more, so it was not compared",
    "falcon 7B": "models with ALiBi are not supported",
    "mimo v2": "a window sees one position more than `sliding_window_size` says, as in transformers; of a GGUF file as "
    "many as it says, as in llama.cpp; the multi-token prediction layers are not used",
    "mimo 7B": "transformers does not have it: tested by the arithmetic of Qwen2; the layers that predict further "
    "tokens are not used",
    "minicpm": "transformers does not have it: tested by the arithmetic of Granite",
    "internlm 2": "transformers does not have it: tested by the arithmetic of Llama, with its fused matrices",
    "ling 1.5": "transformers does not have it: tested by the arithmetic of Granite with experts",
    "ling 2": "transformers does not have it: tested by the arithmetic of Sarvam, whose files have the same names; the "
    "multi-token prediction layers are not used",
    "bitnet": "unquantised safetensors only; the published one has packed weights and is refused; llama.cpp knows the "
    "first models of this kind, with silu, and GGUF files are read like that",
    "minicpm 3": "GGUF has no keys for its factors: every model of the family has the same",
    "mellum 2": "llama.cpp takes the theta of full attention for windows too; trilens reads a theta for each",
}


# llama.cpp of November 2026 has neither an architecture for them nor a converter.
UNKNOWN = (
    *("code world model", "ministral 8B", "helium", "hyperclova x", "mimo 7B", "opt", "flexolmo"),
    *("a.x k1", "sarvam 105B", "longcat-flash"),
)


def page(measured: dict[str, str]) -> str:
    lines = [HEAD, "| family | lens | mechanisms | parity | GGUF | limits |", "| --- | --- | --- | --- | --- | --- |"]
    for family in FAMILIES:
        spec = spec_of(family)
        cells = [
            family.name,
            "routed" if any(spec.routed_layers()) else "dense",
            ", ".join(mechanisms(spec)),
            measured.get(family.name, "0.0e-00"),
            gguf_of(family.name),
            LIMITS.get(family.name, ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spec_of(family: Family) -> ModelSpec:
    return read_config({**family.config().to_dict(), **family.overrides}).spec


def mechanisms(spec: ModelSpec) -> list[str]:
    """What the spec has beside the plain decoder, in words, each once."""
    found: dict[str, None] = {"positions from a table": None} if spec.learned_positions else {}
    found |= {"norms that take the mean away": None} if spec.final_norm.centred else {}
    found |= {f"{spec.streams.count} residual streams": None} if spec.streams else {}
    for layer in spec.layers:
        found |= {"branches in parallel": None} if layer.parallel else {}
        found |= {"layers with a mixer or a feed-forward only": None} if layer.mixer is None else {}
        for mixer in layer.mixers:
            found |= dict.fromkeys(of_mixer(mixer))
        found |= {"two mixers in parallel": None} if len(layer.mixers) == 2 else {}
        found |= {"a branch of low rank": None} if layer.low_rank else {}
        match layer.feed_forward:
            case None:
                pass
            case Dense(glu=glu, threshold=threshold):
                found |= {"sparse gates": None} if threshold is not None else {}
                found |= {"no gate": None} if isinstance(glu, Curve) else {}
                found |= {"a curve with learned numbers": None} if isinstance(glu, LearnedCurve) else {}
            case Routed(router=router, shared=shared):
                found[f"{router.scoring.value.replace('_', ' ')} routing"] = None
                found |= {"groups": None} if router.groups else {}
                found |= {"no gate": None} if isinstance(layer.feed_forward.glu, Curve) else {}
                found |= {"experts in a latent width": None} if layer.feed_forward.latent else {}
                gated = " with a gate" if layer.feed_forward.shared_gate else ""
                found |= {"a shared expert" + gated: None} if shared else {}
                glu = layer.feed_forward.glu
                found |= {"bounded gates": None} if isinstance(glu, Glu) and glu.clamp else {}
            case Beside():
                found["experts beside a dense feed-forward"] = None
            case Shortcut(routed=routed):
                found["experts that are added behind the next layer"] = None
                found |= {"experts without weights": None} if routed.router.identity_experts else {}
        if layer.per_layer_input is not None:
            found["per-layer embeddings"] = None
    return list(found)


def of_mixer(mixer: SingleMixer) -> list[str]:
    match mixer:
        case ShortConvolution(bias=bias) as c:
            return [f"short convolutions over {c.taps} tokens" + (" with biases" if bias else "")]
        case GatedRecurrence(rule=rule) as r:
            kind = "delta rule" if rule.delta else "Mamba-2"
            decay = " with a decay per key column" if rule.vector_decay else ""
            return [f"{kind}{decay}", f"{rule.heads} heads on {rule.key_heads} key heads, {r.taps} taps"]
        case LatentAttention(q_rank=rank) as a:
            index = [f"an index that chooses {a.index.chosen} positions"] if a.index is not None else []
            return ["latent attention" + (" with latent queries" if rank else ""), *index, *seen(a)]
        case Attention() as a:
            named = {
                "biases": a.qkv_bias,
                "q and k normalised per head": a.qk_norm is not None and not a.qk_norm.whole,
                "q and k normalised over all heads": a.qk_norm is not None and a.qk_norm.whole,
                "values narrower than keys": a.cache.value_dim < a.cache.key_dim,
                "gated attention": a.gate is not None,
                "attention sinks": a.sinks,
                "capped scores": a.softcap is not None,
                "clipped q, k, v": a.clip is not None,
                "keys as values": a.value_is_key,
                "shared caches": not a.writes,
            }
            return [*(word for word, there in named.items() if there), *seen(a)]


def seen(a: Attention | LatentAttention) -> list[str]:
    """What an attention sees, and where it stands, where that is not all earlier tokens and plain positions."""
    words = {Window: ["windows"], Chunk: ["chunks"]}.get(type(a.mask), [])
    if a.rope is None:
        words = [*words, "layers without positions"]
    elif a.rope.scaling is not None:
        words = [*words, re.sub("Scaling$", "", type(a.rope.scaling).__name__).lower() + " positions"]
    return [*words, "queries scaled by position"] if a.position_scale is not None else words


def gguf_of(name: str) -> str:
    own = [m for m in MODELS if _plain(m.family) == _plain(name)]
    confirmed = any(str(m) not in UNCONFIRMED for m in own)
    if not own:
        return "unknown" if name in UNKNOWN else ""
    return f"{own[0].architecture}{' ✓' if confirmed else ''}"


def _plain(name: str) -> str:
    return name.removeprefix("gguf: ").removesuffix(" (text)")


def measure(name: str) -> str:
    """The largest difference over the three ways of feeding, as 1.2e-05."""
    from tests.executors.test_parity import expected, logits_in_pieces
    from trilens.checkpoints.find import find
    from trilens.checkpoints.into_torch import torch_executor
    from trilens.checkpoints.load import open_model

    with tempfile.TemporaryDirectory() as directory:
        executor = torch_executor(open_model(find(str(saved(name, Path(directory))))))
        edge = BY_NAME[name].edge
        tokens = prompt(2 * edge + 11 if edge else 20)
        theirs = expected(name, tokens)
        worst = max(
            float((logits_in_pieces(executor, tokens, piece, len(tokens)) - theirs).abs().max())
            for piece in (1, 7, len(tokens))
        )
    return f"{worst:.1e}"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page({family.name: measure(family.name) for family in FAMILIES}), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
