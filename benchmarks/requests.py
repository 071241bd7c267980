"""How requests get on beside one another: a short prompt behind a long one, conversations in turn, a beginning that
many share, a restart. Times are the caller's; beside them what the receipts say.

    python benchmarks/requests.py [--model smollm2] [--page docs/serving.md]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import trilens
from trilens.generate.limits import Limits
from trilens.generate.prefix_cache import Origin, link
from trilens.generate.sampling import Sampling
from trilens.model import EndEvent, Model

WORDS = "The quick brown fox jumps over the lazy dog and runs far away from the old grey house . "
LONG, SHORT, SHARED, KEPT = 5000, 40, 2000, 4000  # tokens


def text_of(model: Model, tokens: int, salt: str) -> str:
    """A text of so many tokens, whose beginning nobody else has."""
    ids = model.text.tokenizer.encode(f"{salt} " + WORDS * (tokens // 15 + 2))[:tokens]
    return model.text.tokenizer.decode(ids)


def ask(model: Model, text: str, most: int = 8) -> tuple[float, float, Any]:
    """(seconds to the first text, seconds in all, the receipt)."""
    begin, first, receipt = time.perf_counter(), 0.0, None
    for event in model.stream(text, max_tokens=most, temperature=0, raw=True):
        first = first or time.perf_counter() - begin
        if isinstance(event, EndEvent):
            receipt = event.receipt
    assert receipt is not None
    return first, time.perf_counter() - begin, receipt


def fairness(model: Model) -> dict[str, Any]:
    """A short prompt a second after a long one, and ten of them in a row."""
    ask(model, text_of(model, 600, "warm"))
    alone = statistics.median(ask(model, text_of(model, SHORT, f"alone {i}"))[0] for i in range(5))
    model.forget()
    long_alone = ask(model, text_of(model, LONG, "long alone"))[0]
    found: dict[str, Any] = {"short alone": alone, "long alone": long_alone}
    off: list[float] = []
    for name, count in (("one", 1), ("ten", 10)):
        model.forget()
        done: list[tuple[float, float, Any]] = []
        text = text_of(model, LONG, f"long {name}")
        thread = threading.Thread(target=lambda done=done, text=text: done.append(ask(model, text)))
        thread.start()
        time.sleep(1)
        shorts = [ask(model, text_of(model, SHORT, f"{name} {i}")) for i in range(count)]
        beside = [s for s in shorts if thread.is_alive() or s is shorts[0]]
        thread.join()
        found[f"{name}: short, worst"] = max(first for first, _, _ in beside)
        found[f"{name}: long"] = done[0][0]
        for first, whole, receipt in (*shorts, *done):
            for seen, said in ((first, receipt.time_to_first_token), (whole, receipt.seconds)):
                off.append(max(0.0, min(abs(seen - said) - 0.005, abs(seen - said) / seen - 0.05)))
    found["receipts beyond 5 % and 5 ms of the caller's clock"] = sum(o > 0 for o in off)
    found["times compared"] = len(off)
    return found


def conversations(model: Model, count: int = 50, turns: int = 6) -> dict[str, Any]:
    """Conversations in turn: the full pages of each turn's own beginning, and how many of them were reused."""
    model.forget()
    talks = [[{"role": "user", "content": f"{i}: " + WORDS * 4}] for i in range(count)]
    before = [0] * count
    pages = reused = 0
    for turn in range(turns):
        for i, talk in enumerate(talks):
            answer = model.generate(talk, max_tokens=60, temperature=0.7, seed=i)
            if turn:
                pages += before[i] // 64
                reused += min(answer.receipt.tokens.cached // 64, before[i] // 64)
            before[i] = answer.receipt.tokens.prompt
            talk += [
                answer.message,
                {"role": "user", "content": f"{turn} {i}: tell me more about the house and the dog."},
            ]
    return {"conversations": count, "turns": turns, "full pages of their prefixes": pages, "reused": reused}


def shared(model: Model) -> dict[str, Any]:
    """Eight requests at once with one beginning."""
    model.forget()
    start = text_of(model, SHARED, "shared")
    answers = model.generate([f"{start} and {i}" for i in range(8)], raw=True, max_tokens=8, temperature=0)
    cached = [a.receipt.tokens.cached for a in answers]
    computed = sum(a.receipt.work.prefill.tokens for a in answers)
    return {"tokens of each": answers[0].receipt.tokens.prompt, "cached": sorted(cached), "computed by all": computed}


def admission(model: Model) -> dict[str, Any]:
    """A prompt of 32,000 tokens beside 1,000 kept beginnings: what finding its own takes, in milliseconds."""
    model.forget()
    scheduler, executor = model._scheduler, model.executor
    donor = executor.sequence(200)
    from trilens.executors.executor import StepInput

    executor.step([StepInput(donor, list(range(100, 164)), False)])
    block, cache = donor.block(0), scheduler.prefixes
    cache.budget = 1 << 60  # one block stands for all, so that they take no memory
    prompt = [(7 * i) % 40_000 + 5 for i in range(32_000)]
    limits = Limits(8, 8)
    root = cache.root(executor.variant(len(prompt) + limits.total))

    def keep(tokens: list[int]) -> None:
        parent = root
        for at in range(0, len(tokens) - 63, 64):
            key = link(parent, tokens[at : at + 64])
            cache.put(key, parent, tuple(tokens[at : at + 64]), block, Origin("finished"))
            parent = key

    keep(prompt)
    for i in range(1000):
        keep([i, *prompt[: 64 * 15 - 1]])
    begins, submits, blocks = [], [], len(cache)
    for _ in range(7):
        begin = time.perf_counter()
        made = scheduler.begin(prompt, limits)
        middle = time.perf_counter()
        running = scheduler.submit(prompt, Sampling(), limits, frozenset(), beginning=made)
        submits.append(time.perf_counter() - middle)
        begins.append(middle - begin)
        assert running.cached == len(prompt) - 1
        scheduler.end(running, "cancelled")
    model.forget()
    return {
        "blocks in the cache": blocks,
        "hashing, before it is handed over (ms)": 1e3 * statistics.median(begins),
        "finding and taking its blocks (ms)": 1e3 * statistics.median(submits),
    }


RESTART = """
import json, sys, time, trilens
model = trilens.load(sys.argv[1], prefix_dir=sys.argv[2])
model.generate("Warm up.", max_tokens=2, raw=True)
begin, first = time.perf_counter(), 0.0
for event in model.stream(sys.stdin.read(), max_tokens=16, temperature=0, raw=True):
    first = first or time.perf_counter() - begin
print(json.dumps([first, event.receipt.replay, event.receipt.reused]))
"""


def restart(name: str, model: Model) -> dict[str, Any]:
    """The same beginning in a second process."""
    text = text_of(model, KEPT, "kept")
    with tempfile.TemporaryDirectory() as directory:
        runs = []
        for _ in range(2):
            command = [sys.executable, "-c", RESTART, name, directory]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
        kept = sum(f.stat().st_size for f in Path(directory).rglob("*") if f.is_file())
    (cold, replay, _), (warm, again, reused) = runs
    return {
        "first text, cold (s)": cold,
        "after a restart (s)": warm,
        "share": warm / cold,
        "tokens from disk": reused.get("disk", 0),
        "the same tokens": replay == again,
        "files (MB)": kept / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--page", type=Path, help="Write the table between its <!-- requests --> marks.")
    chosen = parser.parse_args()
    model = trilens.load(chosen.model)
    parts = {
        "a short prompt after a long one": fairness(model),
        "conversations taking turns": conversations(model),
        "eight at once with one prefix": shared(model),
        "admission": admission(model),
        "a restart": restart(chosen.model, model),
    }
    lines = ["| | | |", "| --- | --- | --- |"]
    for part, found in parts.items():
        for what, value in found.items():
            lines.append(f"| {part} | {what} | {f'{value:.3f}' if isinstance(value, float) else value} |")
    table = "\n".join(lines)
    print(table)
    print(json.dumps(parts))
    if chosen.page is not None:
        text = chosen.page.read_text("utf-8")
        before, rest = text.split("<!-- requests -->\n")
        _, after = rest.split("<!-- end of requests -->")
        chosen.page.write_text(f"{before}<!-- requests -->\n{table}\n<!-- end of requests -->{after}", "utf-8")


if __name__ == "__main__":
    main()
