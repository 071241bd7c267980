"""Train a small model with the torch executor: the decoder that also runs it, with gradients.

    python recipes/tiny/train.py tiny-dense build/tiny
    python recipes/tiny/train.py tiny-dense build/tiny --start-from src/trilens/models   # the last stage alone

Interrupt it at any time; the same command goes on where the last saved step was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from examples import CLOSE, FIRST, LAST, LATER, Example, Mix, examples
from export import named
from models import CONFIGS
from packed import forward
from safetensors.torch import load_file
from tqdm import tqdm
from vocabulary import make_tokenizer

from trilens.decoder.weights import decoder_weights, parameters
from trilens.executors.torch import TorchExecutor
from trilens.spec.huggingface import read_config
from trilens.spec.model import ModelSpec


@dataclass(frozen=True)
class Stage:
    """So many steps, up to a `peak` learning rate and down to `end`, on a mix of questions."""

    steps: int
    peak: float
    end: float
    mix: Mix


SEED = 7
PER_STEP = 64  # examples
CHUNKS = 8  # of a step, by length, so that little is padding
LATER_STEPS = {"tiny-dense": 8600, "tiny-routed": 6500}  # about as long for both
CLOSE_STEPS = {"tiny-dense": 1000, "tiny-routed": 500}  # tiny-routed was stopped after 300
LAST_STEPS = {"tiny-dense": 1300, "tiny-routed": 850}
WARM = 0.05  # of a stage's steps: its beginning
AVERAGED = 0.995  # what a step keeps of the running average of the weights, which is what is exported
BALANCE = 0.01  # weight of the experts' even use, as in Switch Transformers (arXiv 2101.03961, equation 4)
SAVED_EVERY = 25


@click.command()
@click.argument("name", type=click.Choice(list(CONFIGS)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True)
@click.option("--start-from", type=click.Path(path_type=Path), help="Models that have been through the first stages.")
@click.option("--until", type=int, help="Stop after so many steps in all.  [default: those of all stages]")
def main(name: str, folder: Path, threads: int, start_from: Path | None, until: int | None) -> None:
    torch.set_num_threads(threads)
    stages = stages_of(name)
    steps = sum(stage.steps for stage in stages)
    until = steps if until is None else min(until, steps)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    config = {**CONFIGS[name], "vocab_size": tokenizer.get_vocab_size()}
    spec = read_config(config, name).spec
    tensors = initial(spec)
    optimizer = torch.optim.AdamW(
        [
            {"params": [t for t in tensors.values() if t.dim() > 1], "weight_decay": 0.05},
            {"params": [t for t in tensors.values() if t.dim() == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    saved, done = folder / f"{name}.pt", 0
    if start_from is not None:
        done = steps - stages[-1].steps
        read_shipped(start_from / name, tensors)
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
        with torch.no_grad():
            for key, tensor in tensors.items():
                tensor.copy_(state["tensors"][key])
    average = state["average"] if saved.exists() else {key: t.detach().clone() for key, t in tensors.items()}
    executor = TorchExecutor(spec, tensors)
    with tqdm(total=until, initial=done, desc=name, smoothing=0.05) as bar:
        for step in range(done, until):
            stage, inside = stage_of(stages, step)
            for group in optimizer.param_groups:
                group["lr"] = rate(stage, inside)
            batch = list(islice(examples(tokenizer, SEED * 1_000_000 + step, stage.mix), PER_STEP))
            loss = learn(executor, batch)
            torch.nn.utils.clip_grad_norm_(tensors.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            for key, tensor in tensors.items():
                average[key].lerp_(tensor.detach(), 1 - AVERAGED)
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if (step + 1) % SAVED_EVERY == 0 or step + 1 == until:
                state = {"tensors": dict(executor.tensors), "optimizer": optimizer.state_dict(), "step": step + 1}
                state["average"] = average
                torch.save(state, saved.with_suffix(".part"))
                saved.with_suffix(".part").replace(saved)


def stages_of(name: str) -> tuple[Stage, ...]:
    return (
        Stage(5000, 3e-3, 3e-5, FIRST),
        Stage(LATER_STEPS[name], 1e-3, 3e-5, LATER),
        Stage(CLOSE_STEPS[name], 5e-4, 0.0, CLOSE),
        Stage(LAST_STEPS[name], 5e-4, 0.0, LAST),
    )


def initial(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Normal weights of deviation 0.02, those that write into the residual smaller with the depth; norms at one."""
    random = torch.Generator().manual_seed(SEED)
    tensors = {}
    for p in parameters(decoder_weights(spec)):
        tensor = torch.ones(p.shape)
        if len(p.shape) > 1:
            small = 1 / math.sqrt(2 * len(spec.layers)) if p.name.endswith((".out", ".down")) else 1.0
            tensor = torch.randn(p.shape, generator=random) * 0.02 * small
        tensors[p.name] = tensor.requires_grad_()
    return tensors


def read_shipped(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Exported weights into ours, in place."""
    theirs = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for ours, tensor in tensors.items():
            parts = [theirs[name] for name, _ in named(ours, tensor)]
            tensor.copy_(torch.stack(parts) if tensor.dim() == 3 else parts[0])


def stage_of(stages: Sequence[Stage], step: int) -> tuple[Stage, int]:
    """The stage that a step belongs to, and its number there."""
    for stage in stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise ValueError(f"no stage has {step} more steps")


def rate(stage: Stage, step: int) -> float:
    """Up in a line, then down along a cosine."""
    warm = round(WARM * stage.steps)
    if step < warm:
        return stage.peak * (step + 1) / warm
    return stage.end + (stage.peak - stage.end) * (1 + math.cos(math.pi * (step - warm) / (stage.steps - warm))) / 2


def learn(executor: TorchExecutor, batch: list[Example]) -> float:
    """Gradients of the mean loss over chunks of like lengths; the mean loss of a written token."""
    ordered, total = sorted(batch, key=lambda e: len(e.ids)), 0.0
    for i in range(CHUNKS):
        chunk = ordered[i * len(ordered) // CHUNKS : (i + 1) * len(ordered) // CHUNKS]
        length = max(len(e.ids) for e in chunk)
        ids = torch.tensor([e.ids + [0] * (length - len(e.ids)) for e in chunk])
        wanted = torch.full((len(chunk), length), -100)
        for row, e in enumerate(chunk):
            wanted[row, e.learnt - 1 : len(e.ids) - 1] = torch.tensor(e.ids[e.learnt :])
        logits, scores, chosen = forward(executor, ids)
        loss = F.cross_entropy(logits, wanted.flatten())
        for layer_scores, ids_ in zip(scores, chosen, strict=True):
            loss = loss + BALANCE * unevenness(layer_scores, ids_)
        (loss / CHUNKS).backward()
        total += float(loss.detach())
    return total / CHUNKS


def unevenness(scores: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """1 where every expert is used alike: E times the sum of each one's share of tokens by its mean score."""
    experts = scores.shape[1]
    share = F.one_hot(chosen, experts).float().sum((0, 1)) / chosen.numel()
    return experts * (share * scores.mean(0)).sum()


if __name__ == "__main__":
    main()
