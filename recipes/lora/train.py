"""Teach tiny-dense one thing more with a LoRA adapter, and say what that cost and what it changed.

    python recipes/lora/train.py build/backwards
    trilens run "Write 4715 backwards." --model tiny-dense --thinking off --adapter backwards=build/backwards

The forward pass is the torch executor's, the same one that runs models, with gradients for the adapter's matrices
alone. The questions after it are answered by the native executor, from the files that were written.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import trilens
from trilens.decoder.weights import adaptable, decoder_weights
from trilens.executors.accountant import Span, count_parameters, step_cost
from trilens.executors.adapter import Adapter, LowRank
from trilens.executors.executor import StepInput
from trilens.executors.torch import TorchExecutor
from trilens.model import Model
from trilens.spec.model import ModelSpec
from trilens.trials.questions import KINDS, held_out, is_right, questions
from trilens.units import big, data, flop

BASE, NAME = "tiny-dense", "backwards"
RANK, ALPHA = 8, 16
STEPS, PER_STEP = 300, 16
PEAK, WARM = 5e-3, 20  # learning rate, steps until it
SEED = 5
HELD_OUT = 8  # one number in so many is never trained on
OWN = 0.4  # of the examples: questions that the model knows, or it forgets how to answer them
ASKED = 300  # questions before and after
MODULES = {  # what PEFT calls our matrices
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
WORDINGS = ("Write {} backwards.", "What is {} backwards?", "{} backwards")
WITHOUT: dict[str, Any] = {"thinking": False, "temperature": 0}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(folder: Path, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    base = trilens.load(BASE, executor="torch")
    assert isinstance(base.executor, TorchExecutor)
    executor = adapted(base.executor)
    begin = time.perf_counter()
    tokens, forward, ratio = learn(base, executor, steps)
    seconds = time.perf_counter() - begin
    save(executor, folder)
    print(cost(executor, tokens, forward, ratio, seconds))
    print(changes(folder))


def adapted(base: TorchExecutor) -> TorchExecutor:
    """The same model with an adapter that changes nothing yet: the second matrix of each pair is zero."""
    random = np.random.default_rng(SEED)
    matrices = {}
    for matrix in adaptable(decoder_weights(base.spec)).values():
        if matrix.name.startswith("layers."):
            out, inner = matrix.shape
            down = random.standard_normal((RANK, inner), np.float32) * np.float32(inner**-0.5)
            matrices[matrix.name] = LowRank(down, np.zeros((out, RANK), np.float32), ALPHA / RANK)
    executor = TorchExecutor(base.spec, base.tensors, [Adapter(NAME, matrices)])
    for low in executor.low_ranks[NAME].values():
        low.down.requires_grad_()
        low.up.requires_grad_()
    return executor


def learn(base: Model, executor: TorchExecutor, steps: int) -> tuple[int, int, float]:
    """(tokens that were read, operations of their forward passes as the accountant counts them, and how many times as
    many forward and backward passes take together, as PyTorch counts those of the first step)."""
    parameters = [t for low in executor.low_ranks[NAME].values() for t in (low.down, low.up)]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    stream, read, forward, ratio = examples(base), 0, 0, 0.0
    with tqdm(total=steps, desc=NAME) as bar:
        for step in range(steps):
            batch = list(islice(stream, PER_STEP))
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps)
            spans = [Span(0, len(ids), len(ids)) for ids, _ in batch]
            operations = step_cost(executor.spec, spans, executor.adapters[NAME].ranks).flops()
            with FlopCounterMode(display=False) if not step else nullcontext() as counter:
                loss = loss_of(executor, batch)
                loss.backward()
            if counter is not None:
                ratio = counter.get_total_flops() / operations
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            read += sum(len(ids) for ids, _ in batch)
            forward += operations
            bar.update()
            bar.set_postfix(loss=f"{float(loss.detach()):.4f}", refresh=False)
    return read, forward, ratio


def loss_of(executor: TorchExecutor, batch: Sequence[tuple[list[int], int]]) -> Tensor:
    """The mean loss of the tokens that the model has to write."""
    feeds = [StepInput(executor.sequence(len(ids), NAME), ids) for ids, _ in batch]
    logits = executor.forward(feeds, every_row=True)
    wanted = torch.full((len(logits),), -100)
    at = 0
    for ids, learnt in batch:
        wanted[at + learnt - 1 : at + len(ids) - 1] = torch.tensor(ids[learnt:])
        at += len(ids)
    return F.cross_entropy(logits, wanted)


def rate(step: int, steps: int) -> float:
    """Up in a line, then down along a cosine."""
    if step < WARM:
        return PEAK * (step + 1) / WARM
    return PEAK * (1 + math.cos(math.pi * (step - WARM) / max(1, steps - WARM))) / 2


def examples(base: Model) -> Iterator[tuple[list[int], int]]:
    """Endlessly many conversations as tokens, and where the answer begins."""
    random, tokenizer = Random(SEED), base.text.tokenizer
    strategy = base.text.strategy(False, raw=False, continues=False)
    end = min(base.text.end_ids)
    known = {kind: questions(kind, SEED + 1000) for kind in KINDS}
    while True:
        number, question = a_number(random), next(known[random.choice(KINDS)])
        asked, answer, kept_apart = random.choice(WORDINGS).format(number), number[::-1], is_held_out(number)
        if random.random() < OWN:
            asked, answer, kept_apart = question.text, question.answer, question.held_out
        if not kept_apart:
            ids = list(base.text.encode(asked, strategy, raw=False, variables={}, tools=None).ids)
            yield [*ids, *tokenizer.encode(answer), end], len(ids)


def a_number(random: Random) -> str:
    """Of two to six digits."""
    digits = random.randint(2, 6)
    return str(random.randrange(10 ** (digits - 1), 10**digits))


def is_held_out(number: str) -> bool:
    return hashlib.sha256(number.encode()).digest()[0] % HELD_OUT == 0


def save(executor: TorchExecutor, folder: Path) -> None:
    """In PEFT's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, low in executor.low_ranks[NAME].items():
        _, layer, part = name.split(".", 2)
        module = f"base_model.model.model.layers.{layer}.{MODULES[part]}"
        tensors[f"{module}.lora_A.weight"] = low.down.detach().contiguous()
        tensors[f"{module}.lora_B.weight"] = low.up.detach().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE,
        "r": RANK,
        "lora_alpha": ALPHA,
        "bias": "none",
        "target_modules": sorted(module.rpartition(".")[2] for module in MODULES.values()),
    }
    (folder / "adapter_config.json").write_text(json.dumps(said, indent=2) + "\n", "utf-8")


def cost(executor: TorchExecutor, tokens: int, forward: int, ratio: float, seconds: float) -> str:
    spec: ModelSpec = executor.spec
    own, whole = executor.adapters[NAME].parameters, count_parameters(spec).total
    one, alone = (step_cost(spec, [Span(0, 1, 1)], ranks).flops() for ranks in (executor.adapters[NAME].ranks, {}))
    return "\n".join(
        (
            f"trained      {big(own)} numbers, {own / whole:.1%} of the model's {big(whole)}; the optimizer keeps"
            f" {data(8 * own)} instead of {data(8 * whole)}",
            f"training     {tokens:,} tokens in {seconds:.0f} s; forward {flop(forward)}, with the backward passes"
            f" {flop(round(ratio * forward))} ({ratio:.2f} times as many)",
            f"a token      {flop(alone)} alone, {flop(one)} with the adapter ({one / alone - 1:+.1%})",
        )
    )


def changes(folder: Path) -> str:
    """Right answers to questions that were never trained on, without the adapter and with it."""
    model = trilens.load(BASE, adapters={NAME: folder})
    random, numbers = Random(SEED + 1), dict[str, None]()
    while len(numbers) < ASKED:
        number = a_number(random)
        if is_held_out(number):
            numbers[number] = None
    asked = [random.choice(WORDINGS).format(number) for number in numbers]
    others = held_out(ASKED)
    lines = []
    for what, adapter in (("alone", None), (f"with {NAME}", NAME)):
        answers = model.generate(asked, adapter=adapter, max_tokens=16, **WITHOUT)
        right = sum(a.text.strip() == n[::-1] for a, n in zip(answers, numbers, strict=True))
        known = model.generate([q.text for q in others], adapter=adapter, **WITHOUT)
        kept = sum(is_right(q, a.text) for q, a in zip(others, known, strict=True))
        lines.append(f"{what:15} backwards {right} of {ASKED} right · its own questions {kept} of {ASKED}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
