"""A trained model -> the ordinary Hugging Face layout, bfloat16, inside the package.

python recipes/tiny/export.py tiny-dense build/tiny --share 0.6

The average of the last steps' weights is written; with a `--share`, mixed with the weights that it replaces. That keeps
more of what those knew than the new weights alone do (arXiv 2109.01903).
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
from models import CONFIGS
from safetensors.torch import load_file, save_file
from vocabulary import make_tokenizer, save

PACKAGE = Path(__file__).resolve().parents[2] / "src/trilens/models"
NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "mixer_in": "input_layernorm.weight",
    "feed_forward_in": "post_attention_layernorm.weight",
    "attention.q": "self_attn.q_proj.weight",
    "attention.k": "self_attn.k_proj.weight",
    "attention.v": "self_attn.v_proj.weight",
    "attention.out": "self_attn.o_proj.weight",
    "attention.q_norm": "self_attn.q_norm.weight",
    "attention.k_norm": "self_attn.k_norm.weight",
    "feed_forward.gate": "mlp.gate_proj.weight",
    "feed_forward.up": "mlp.up_proj.weight",
    "feed_forward.down": "mlp.down_proj.weight",
    "feed_forward.router": "mlp.gate.weight",
}


@click.command()
@click.argument("name", type=click.Choice(list(CONFIGS)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), default=PACKAGE, show_default="the package")
@click.option("--share", default=1.0, show_default=True, help="Of the new weights; the rest is of those they replace.")
def main(name: str, folder: Path, to: Path, share: float) -> None:
    state = torch.load(folder / f"{name}.pt", weights_only=True)
    place = to / name
    place.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    save(tokenizer, place)
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    ids = {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": end, "pad_token_id": pad, "bos_token_id": None}
    _write(place / "config.json", {**CONFIGS[name], **ids})
    _write(place / "generation_config.json", {"do_sample": False, "eos_token_id": [end], "pad_token_id": pad})
    new = {n: t for ours, w in state["average"].items() for n, t in named(ours, w)}
    if share < 1:
        old = load_file(place / "model.safetensors")
        new = {n: old[n].float().lerp(t, share) for n, t in new.items()}
    tensors = {n: t.to(torch.bfloat16).contiguous() for n, t in new.items()}
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    print(f"{place}: {sum(t.numel() for t in tensors.values()):,} parameters after {state['step']} steps")


def named(ours: str, weight: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Their names for one of our parameters; experts lie one by one there."""
    weight = weight.detach()
    if ours in NAMES:
        return [(NAMES[ours], weight)]
    _, layer, part = ours.split(".", 2)
    before = f"model.layers.{layer}."
    if part.startswith("feed_forward.experts."):
        piece = part.rsplit(".", 1)[1]
        return [(f"{before}mlp.experts.{e}.{piece}_proj.weight", expert) for e, expert in enumerate(weight)]
    return [(before + NAMES[part], weight)]


def _write(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
