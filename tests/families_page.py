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
    LatentAttention,
    ModelSpec,
    Routed,
    ShortConvolution,
    SingleMixer,
    Window,
)

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
MEASURED = re.compile(r"\d\.\de-\d\d")

HEAD = """# Families

Written by `python -m tests.families_page` from the table that the tests run over; a row there is a row here.

Each row is a tiny random model with every mechanism of its family switched on. *Parity* is the largest difference of
its float32 logits from transformers' on the torch executor, fed whole, seven tokens at a time and one by one, beyond
the window's edge and the original context where there is one, and 311 tokens where a state is carried; it has to be
below 1e-4. *GGUF* names the architecture
under which llama.cpp knows the family: files with its names, keys and layouts give the same logits, and where there
is a tick llama.cpp itself, reading the same file, agrees.

"""

# What a user of the family has to know.
LIMITS = {
    "llama yarn": "GGUF: not tested",
    "mistral": "GGUF has no key for the window, so such a file is read as seeing everything",
    "qwen2 windows": "GGUF has no key for the windows",
    "gemma 2": "GGUF has no key for the scale of attention: it is derived, as llama.cpp derives it",
    "gemma 3": "images are not read; GGUF as for Gemma 2",
    "gemma 4 26B-A4B": "images are not read",
    "gemma 4 E2B": "images and sounds are not read",
    "gemma 4 12B (unified)": "images and sounds are not read",
    "mistral small 3": "images are not read",
    "ministral 3": "images are not read",
    "phi-4-mini": "short or long factors by prompt and answer together, once for each request",
    "phi-3.5-moe": "as Phi-4-mini; the reference is mended, transformers 5 forgets the long factors; "
    "llama.cpp routes otherwise",
    "phi-mini-moe": "llama.cpp routes otherwise",
    "olmo 3": "GGUF: without scaled positions",
    "llama 4 scout": "images are not read",
    "gpt-oss": "llama.cpp rounds the ends of YaRN's ramp, the model's authors do not",
    "deepseek v2": "GGUF: llama.cpp has no groups here",
    "deepseek v2 lite": "llama.cpp takes such queries only in files of 26 or 27 layers, so it was not asked",
    "deepseek v3": "the layer that predicts further tokens is left out",
    "glm-4.5": "the layer that predicts further tokens is left out",
    "mistral large 3": "its publisher's own form, params.json, for cards only; GGUF: not tested",
    "lfm2 moe": "GGUF: llama.cpp scales no router's weights here",
    "kimi k2": "Kimi K2.5's text is the same",
    "qwen3-next": "Qwen3-Coder-Next is the same; the layer that predicts further tokens is left out",
    "qwen3.5 (text)": "Qwen3.6 and 3.8 are the same; the layer that predicts further tokens is left out",
    "qwen3.5": "images are not read; otherwise as its text",
    "qwen3.5 moe": "images are not read; otherwise as its text",
    "nemotron-h": "steps are bounded as transformers bounds them in a prompt; its path for one token does not",
    "nemotron-3 super": "the layers that predict further tokens are left out",
}


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
    found: dict[str, None] = {}
    for layer in spec.layers:
        found |= {"layers of one block": None} if layer.mixer is None else {}
        for mixer in layer.mixers:
            found |= dict.fromkeys(of_mixer(mixer))
        found |= {"two mixers side by side": None} if len(layer.mixers) == 2 else {}
        match layer.feed_forward:
            case None:
                pass
            case Dense(glu=glu):
                found |= {"no gate": None} if isinstance(glu, Curve) else {}
            case Routed(router=router, shared=shared):
                found[f"{router.scoring.value.replace('_', ' ')} routing"] = None
                found |= {"groups": None} if router.groups else {}
                found |= {"no gate": None} if isinstance(layer.feed_forward.glu, Curve) else {}
                found |= {"experts on a narrow width": None} if layer.feed_forward.latent else {}
                gated = " with a gate" if layer.feed_forward.shared_gate else ""
                found |= {"a shared expert" + gated: None} if shared else {}
            case Beside():
                found["experts beside a dense feed-forward"] = None
        if layer.per_layer_input is not None:
            found["rows for each layer"] = None
    return list(found)


def of_mixer(mixer: SingleMixer) -> list[str]:
    match mixer:
        case ShortConvolution(bias=bias) as c:
            return [f"short convolutions over {c.taps} tokens" + (" with biases" if bias else "")]
        case GatedRecurrence(rule=rule) as r:
            kind = "delta rule" if rule.delta else "Mamba-2"
            decay = ", a decay a key column" if rule.vector_decay else ""
            return [f"{kind}{decay}", f"{rule.heads} heads on {rule.key_heads} of keys, {r.taps} taps"]
        case LatentAttention(q_rank=rank) as a:
            return ["latent attention" + (", queries too" if rank else ""), *seen(a)]
        case Attention() as a:
            named = {
                "biases": a.qkv_bias,
                "normalised heads": a.qk_norm is not None and not a.qk_norm.whole,
                "norms over all heads": a.qk_norm is not None and a.qk_norm.whole,
                "gated attention": a.gate,
                "sinks": a.sinks,
                "capped scores": a.softcap is not None,
                "bounded q, k, v": a.clip is not None,
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
    return [*words, "queries that grow"] if a.position_scale is not None else words


def gguf_of(name: str) -> str:
    own = [m for m in MODELS if m.family.removeprefix("gguf: ") == name.removesuffix(" (text)")]
    confirmed = any(str(m) not in UNCONFIRMED for m in own)
    return f"{own[0].architecture}{' ✓' if confirmed else ''}" if own else ""


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
