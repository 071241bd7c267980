"""Train a tiny hybrid with a block for multi-token prediction: Qwen3.5's wiring, three gated delta nets, one attention.

    python recipes/prediction/train.py build/tiny-hybrid

It learns the same questions as the two small models, with their tokenizer. The model learns the next token and the
block the one after it, together, with transformers' own layers. It takes six minutes on one core.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import click
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from trilens.checkpoints.find import find
from trilens.trials.questions import questions

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
KINDS = (("sum", "1x1"), ("sum", "2x2"), ("difference", "2x2"), ("comparison", None), ("letters", None), ("talk", None))
PEAK, LAST, WARM = 4e-3, 1e-4, 40  # learning rates, steps of the beginning
LENGTH, PER_STEP = 128, 8


class Block(nn.Module):
    """The block: its names are those of the files behind `mtp.`."""

    def __init__(self, model: Qwen3_5ForCausalLM) -> None:
        super().__init__()
        config = Qwen3_5TextConfig(
            **{**model.config.to_dict(), "num_hidden_layers": 1, "layer_types": ["full_attention"]}
        )
        last: Any = model.model.layers[-1]
        layer, norm = type(last), type(last.input_layernorm)
        self.layers = nn.ModuleList([layer(config, 0)])
        names = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden, self.norm = (
            norm(config.hidden_size, eps=config.rms_norm_eps) for _ in names
        )
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, model: Qwen3_5ForCausalLM, hidden: Tensor, following: Tensor) -> Tensor:
        """The model's rows, and the token behind each -> logits of the one after that."""
        embedded = model.model.embed_tokens(following)
        x = self.fc(torch.cat((self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)), -1))
        length = x.shape[1]
        places = torch.arange(length)[None]
        unseen = torch.full((length, length), torch.finfo(x.dtype).min).triu(1)[None, None]
        turned = model.model.rotary_emb(x, position_ids=places)
        x = self.layers[0](x, position_embeddings=turned, attention_mask=unseen, position_ids=places)
        logits: Tensor = model.lm_head(self.norm(x[0] if isinstance(x, tuple) else x))
        return logits


def texts(seed: int) -> Iterator[str]:
    """Conversations without end, half of them with thinking."""
    random = Random(f"prediction {seed}")
    streams = [questions(kind, seed, digits) for kind, digits in KINDS]
    while True:
        question = next(random.choice(streams))
        thought = f"\n{question.working}\n" if random.random() < 0.5 else "\n\n"
        yield (
            f"<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n"
            f"<think>{thought}</think>\n\n{question.answer}<|im_end|>\n"
        )


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[Tensor]:
    """[PER_STEP, LENGTH] tokens, one conversation behind the other."""
    stream, ids = texts(seed), list[int]()
    size = PER_STEP * LENGTH
    while True:
        while len(ids) < size:
            ids += tokenizer.encode(next(stream)).ids
        yield torch.tensor(ids[:size]).view(PER_STEP, LENGTH)
        del ids[:size]


def rate(step: int, steps: int) -> float:
    if step < WARM:
        return PEAK * (step + 1) / WARM
    return LAST + (PEAK - LAST) * (1 + math.cos(math.pi * (step - WARM) / (steps - WARM))) / 2


def losses(model: Qwen3_5ForCausalLM, block: Block, ids: Tensor) -> tuple[Tensor, Tensor, float]:
    """Of the next token, of the one after it, and how often the block's likeliest token is the model's."""
    hidden = model.model(ids).last_hidden_state
    logits = model.lm_head(hidden)
    ahead = block(model, hidden[:, :-1], ids[:, 1:])
    own = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    further = F.cross_entropy(ahead[:, :-1].flatten(0, 1), ids[:, 2:].flatten())
    agree = (ahead.argmax(-1) == logits[:, 1:].argmax(-1)).float().mean()
    return own, further, float(agree)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--steps", default=300, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(folder: Path, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(7)
    shipped = find("tiny-dense").path
    tokenizer = Tokenizer.from_file(str(shipped / "tokenizer.json"))
    end = tokenizer.token_to_id("<|im_end|>")
    ids = {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": end, "bos_token_id": None}
    model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES, **ids))
    block = Block(model)
    weights = [*model.parameters(), *block.parameters()]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.01)
    stream = batches(tokenizer, 1)
    with tqdm(range(steps)) as bar:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps)
            own, further, agree = losses(model, block, next(stream))
            (own + further).backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.set_postfix(
                loss=f"{float(own):.3f}", ahead=f"{float(further):.3f}", agree=f"{agree:.0%}", refresh=False
            )
    write(folder, model, block, shipped, end)


def write(folder: Path, model: Qwen3_5ForCausalLM, block: Block, shipped: Path, end: int) -> None:
    """The ordinary layout, bfloat16, with the block's tensors where the publisher's files have them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped / name, folder)
    config = {**model.config.to_dict(), "mtp_num_hidden_layers": 1, "dtype": "bfloat16"}
    config["architectures"] = ["Qwen3_5ForCausalLM"]
    _write(folder / "config.json", {key: value for key, value in config.items() if value is not None})
    _write(folder / "generation_config.json", {"do_sample": False, "eos_token_id": [end]})
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    tensors |= {f"mtp.{name}": tensor for name, tensor in block.state_dict().items()}
    halves = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    print(f"{folder}: {sum(tensor.numel() for tensor in halves.values()):,} parameters")


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
