"""Beginnings are computed once: by whom they may be used, what is forgotten first, and what survives a restart."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.errors import RequestRefused, UsageError
from trilens.executors.executor import PAGE, StepInput
from trilens.executors.native.executor import NativeExecutor
from trilens.generate.limits import Limits
from trilens.generate.prefix_cache import SIBLINGS, Origin, PrefixCache, chain, common_prefix, link
from trilens.generate.prefix_files import PrefixFiles
from trilens.generate.request import Request
from trilens.generate.sampling import Sampling
from trilens.generate.scheduler import Scheduler
from trilens.spec.model import Fixed

GREEDY = Sampling(temperature=0)
NONE: frozenset[int] = frozenset()

Native = Callable[[str], NativeExecutor]


@pytest.fixture
def native(tiny_directory: Callable[[str], object]) -> Native:
    def make(name: str) -> NativeExecutor:
        return native_executor(open_model(find(str(tiny_directory(name)))), kv_limit=60_000_000)

    return make


def finished(scheduler: Scheduler, tokens: list[int], most: int = 9, sampling: Sampling = GREEDY) -> Request:
    generation = scheduler.submit(tokens, sampling, Limits(most, most), NONE)
    while generation.finish is None:
        scheduler.step()
        generation.unread.clear()
    assert generation.failure is None
    return generation


def text(length: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(131) for _ in range(length)]


class FakeBlock:
    def __init__(self, bytes: int = 10) -> None:
        self.kept_bytes = self.own_bytes = bytes
        self.tokens = PAGE
        self.route_width = 0
        self.has_states = True

    def written(self) -> bytes:
        return b""


def fill(cache: PrefixCache, root: bytes, tokens: list[int]) -> list[FakeBlock]:
    """A chain, as a running request puts it there: the first block first."""
    blocks = []
    parent = root
    for i, key in enumerate(chain(root, tokens)):
        blocks.append(FakeBlock())
        cache.put(key, parent, tuple(tokens[i * PAGE : (i + 1) * PAGE]), blocks[-1], Origin("finished"))
        parent = key
    return blocks


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_is_the_longest_beginning_that_was_kept(seed: int) -> None:
    """Against a model of it: every kept text in a list."""
    chance = random.Random(seed)
    cache = PrefixCache(10**9)
    root = cache.root(())
    kept: list[list[int]] = []
    for _ in range(60):
        stem = chance.choice(kept)[: chance.randrange(300)] if kept and chance.random() < 0.7 else []
        tokens = stem + [chance.randrange(5) for _ in range(chance.randrange(1, 200))]
        keys, full = chain(root, tokens), len(tokens) // PAGE * PAGE
        fill(cache, root, tokens)
        if tokens[full:]:
            parent = keys[-1] if keys else root
            cache.put(link(parent, tokens[full:]), parent, tuple(tokens[full:]), FakeBlock(), Origin("finished"))
        kept.append(tokens)
        asked = [*chance.choice(kept)[: chance.randrange(1, 300)], *(chance.randrange(5) for _ in range(70))]
        most = chance.randrange(len(asked) + 1)
        found = cache.find(root, chain(root, asked), asked, most)
        length = (len(found.blocks) - 1) * PAGE + found.last_tokens if found.blocks else 0
        best = max(common_prefix(k, asked) for k in kept)
        assert length <= min(best, most)
        assert length >= min(best, most) // PAGE * PAGE
        if len(kept) < SIBLINGS:
            assert length == min(best, most)
        whole = cache.find(root, chain(root, asked), asked, most, exact=True)
        assert len(whole.blocks) == min(best, most) // PAGE


def test_the_least_recently_used_goes_first_from_its_end_and_never_who_is_in_use() -> None:
    cache = PrefixCache(100)  # ten blocks
    root = cache.root(())
    old, used, new = (text(4 * PAGE, seed=s) for s in (1, 2, 3))
    fill(cache, root, old)
    for block in fill(cache, root, used):
        block.own_bytes = 0  # somebody's
    fill(cache, root, new)
    assert cache.bytes <= 100
    assert [len(cache.find(root, chain(root, t), t, 999, True).blocks) for t in (old, used, new)] == [2, 4, 4]
    cache.find(root, chain(root, old), old, 999)  # now it is the newest
    assert cache.free(10)
    assert [len(cache.find(root, chain(root, t), t, 999, True).blocks) for t in (old, used, new)] == [2, 4, 3]
    assert not cache.free(10**6)
    assert [len(cache.find(root, chain(root, t), t, 999, True).blocks) for t in (old, used, new)] == [0, 4, 0]
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_finding_costs_as_much_as_the_prompt_has_pages_however_much_is_kept() -> None:
    """1,000 kept beginnings of 100 pages beside a prompt of 32,000 tokens: a lookup a page, a few comparisons."""
    cache = PrefixCache(10**9)
    root = cache.root(())
    shared = text(20 * PAGE, seed=1)
    for i in range(1000):
        fill(cache, root, shared + text(2 * PAGE, seed=10 + i))
    prompt = shared + text(32_000 - len(shared), seed=5)
    lookups = 0

    class Counted(dict[bytes, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            nonlocal lookups
            lookups += 1
            return super().get(key, default)

        def __getitem__(self, key: bytes) -> Any:
            nonlocal lookups
            lookups += 1
            return super().__getitem__(key)

        def move_to_end(self, key: bytes) -> None:
            pass

    cache._entries = Counted(cache._entries)  # type: ignore[assignment]
    found = cache.find(root, chain(root, prompt), prompt, len(prompt) - 1)
    assert len(found.blocks) >= 20
    assert lookups <= 20 + SIBLINGS + 5


def test_fifty_conversations_in_turn_find_their_own_beginnings(native: Native) -> None:
    scheduler = Scheduler(native("llama 3"))
    talks = [text(70, seed=i) for i in range(50)]
    for turn in range(6):
        for i, talk in enumerate(talks):
            done = finished(scheduler, talk)
            if turn:
                assert done.cached == len(talk) - 12  # all but the last answer's last token and the new question
            talks[i] = [*talk, *done.tokens, *text(11, seed=99 * turn + i)]


NAMES = ["llama 3", "mistral", "qwen3 moe", "gemma 3", "lfm2", "lfm2 moe", "qwen3.5 moe (text)", "nemotron-3 nano"]


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_reused_gives_the_same_tokens(name: str, native: Native) -> None:
    """Requests that share beginnings of every length, at once and after one another, equal each one alone."""
    executor = native(name)
    stem = text(150, seed=1)
    asked = [[*stem[:n], *text(1 + n % 5, seed=n)] for n in (0, 1, 30, 63, 64, 65, 100, 127, 128, 129, 150, 150, 64, 1)]
    alone = []
    for tokens in asked:
        alone.append(finished(Scheduler(executor), tokens, 80).tokens)
    scheduler = Scheduler(executor)
    many = [scheduler.submit(tokens, GREEDY, Limits(80, 80), NONE) for tokens in asked]
    while scheduler.running:
        scheduler.step()
    assert [g.tokens for g in many] == alone
    again = [finished(scheduler, tokens, 80) for tokens in asked]
    assert [g.tokens for g in again] == alone
    fixed = any(isinstance(state, Fixed) for state in executor.spec.states)  # found where snapshots stand only
    assert fixed or all(g.cached == len(g.prompt) - 1 for g in again if len(g.prompt) > 1)
    third = [finished(scheduler, [*tokens, *answer, 3], 9) for tokens, answer in zip(asked, alone, strict=True)]
    cold = [finished(Scheduler(executor), list(g.prompt), 9).tokens for g in third]
    assert [g.tokens for g in third] == cold
    assert fixed or all(g.cached >= len(g.prompt) - 2 for g in third)


def test_a_shared_page_is_copied_before_it_is_written(native: Native) -> None:
    """B goes on from the middle of A's last page with other tokens; A's page is as it was for C."""
    executor = native("llama 3")
    scheduler = Scheduler(executor)
    first = text(100, seed=1)
    answer = finished(scheduler, first, 5).tokens
    follow = [*first, *answer, 7]
    cold = finished(Scheduler(executor), follow, 20).tokens
    other = finished(scheduler, [*first[:70], *text(60, seed=2)], 20)
    assert other.cached == 70
    done = finished(scheduler, follow, 20)
    assert done.cached == len(follow) - 2
    assert done.tokens == cold


@pytest.mark.parametrize("fork", [False, True])
def test_two_that_share_a_page_write_pages_of_their_own(fork: bool, native: Native) -> None:
    executor = native("llama 3")
    tokens = text(80, seed=4)
    donor = executor.sequence(300)
    executor.step([StepInput(donor, tokens)])
    if fork:
        other = donor.fork(70, 300)
        assert other is not None
    else:
        other = executor.sequence(300)
        assert other.adopt([donor.block(0), donor.block(1)], 6) == 70
    executor.step([StepInput(other, text(20, seed=5))])
    fresh = executor.sequence(300)
    executor.step([StepInput(fresh, tokens)])
    assert np.array_equal(executor.step([StepInput(donor, [5])]), executor.step([StepInput(fresh, [5])]))


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_requests_with_other_rotary_tables_share_nothing(
    executor: str, native: Native, tiny_executor: Callable[[str], Any]
) -> None:
    make = native if executor == "native" else tiny_executor
    runner = make("phi-4-mini")
    scheduler = Scheduler(runner)
    tokens = text(20, seed=3)
    short = finished(scheduler, tokens, 4)
    assert finished(scheduler, tokens, 5).cached == 19
    long = scheduler.submit(tokens, GREEDY, Limits(200, 200), NONE)
    scheduler.step()
    assert long.cached == 0 and short.root != long.root
    logits = [runner.step([StepInput(runner.sequence(n), tokens)]) for n in (24, 220)]
    assert not np.array_equal(*logits)  # it would matter


def test_the_repetition_penalty_sees_prompt_answer_and_what_was_put_in(native: Native) -> None:
    """Each token is the likeliest of the logits as arXiv 1909.05858 changes them, cached prefix or not."""
    executor = native("llama 3")
    options = Sampling(temperature=0, repetition_penalty=3.0)
    tokens = text(66, seed=8)
    scheduler = Scheduler(executor)
    for _ in range(2):
        done = finished(scheduler, tokens, 40, options)
        sequence = executor.sequence(200)
        seen = list(tokens)
        changed = 0
        logits = executor.step([StepInput(sequence, tokens)])[0]
        for token in done.tokens:
            plain = int(logits.argmax())
            for other in set(seen):
                logits[other] = logits[other] / 3.0 if logits[other] > 0 else logits[other] * 3.0
            assert int(logits.argmax()) == token
            changed += plain != token
            seen.append(token)
            logits = executor.step([StepInput(sequence, [token])])[0]
        assert changed > 3
    assert done.cached == len(tokens) - 1


# ------------------------------------------------------------------------------------------------ files


def kept_in(directory: Path, executor: NativeExecutor, budget: int = 10**9, identity: bytes = b"a" * 32) -> Scheduler:
    scheduler = Scheduler(executor)
    scheduler.prefixes.files = PrefixFiles(directory, budget, identity, executor)
    return scheduler


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.block"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gemma 3"])
def test_a_beginning_survives_a_restart_with_the_same_bits(name: str, native: Native, tmp_path: Path) -> None:
    tokens = text(300, seed=1)
    first = kept_in(tmp_path, native(name))
    cold = finished(first, tokens, 20)
    assert first.prefixes.files is not None
    first.prefixes.files.close()
    assert len(files(tmp_path)) == (300 + 19) // PAGE
    again = finished(kept_in(tmp_path, native(name)), tokens, 20)
    assert (again.cached, again.reused) == (4 * PAGE, {"disk": 4 * PAGE})
    assert again.tokens == cold.tokens
    assert np.array_equal(again.routes, cold.routes)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*files(tmp_path), *tmp_path.iterdir()))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in its description": lambda data: data[:40],
    "cut in its pages": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "a bit of the pages": lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:],
    "a bit of the checksum": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "another format": lambda data: b"GGUF" + data[4:],
    "zeros": lambda data: bytes(len(data)),
    "huge": lambda data: data + bytes(40_000_000),
}


def resealed(data: bytes, **changed: Any) -> bytes:
    """With another description and a checksum that is right for it."""
    import hashlib

    magic, described, rest = data.split(b"\n", 2)
    body = b"\n".join((magic, json.dumps(json.loads(described) | changed).encode(), rest[:-32]))
    return body + hashlib.sha256(body).digest()


FOREIGN: dict[str, Callable[[bytes], bytes]] = {
    "another model's": lambda data: resealed(data, identity="ff" * 32),
    "another block": lambda data: resealed(data, key="00" * 16),
    "behind another block": lambda data: resealed(data, parent="00" * 16),
    "tokens that are none": lambda data: resealed(data, tokens=[10**9] * PAGE),
    "too few tokens": lambda data: resealed(data, tokens=[1]),
    "experts that are none": lambda data: resealed(data, route_width=3),
    "tokens of another block": lambda data: resealed(data, tokens=[1] * PAGE),
    "no width": lambda data: resealed(data, route_width=None),
    "pages of another size": lambda data: resealed(data[:-32] + b"\0" * 64 + data[-32:]),
}


@pytest.mark.parametrize("damage", [*DAMAGE, *FOREIGN])
def test_a_damaged_or_foreign_file_is_left_out_named_and_removed(
    damage: str, native: Native, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = text(200, seed=1)
    executor = native("llama 3")
    first = kept_in(tmp_path, executor)
    cold = finished(first, tokens, 5)
    assert first.prefixes.files is not None
    first.prefixes.files.close()
    second = first.prefixes.files._path(cold.keys[1])
    second.write_bytes((DAMAGE | FOREIGN)[damage](second.read_bytes()))
    again = kept_in(tmp_path, executor)
    done = finished(again, tokens, 5)
    assert done.tokens == cold.tokens
    assert done.reused == {"disk": PAGE}  # up to the damaged one
    lines = [r.getMessage() for r in caplog.records if "is ignored and removed" in r.getMessage()]
    assert len(lines) == 1 and str(second) in lines[0] and "\n" not in lines[0]
    assert again.prefixes.files is not None
    again.prefixes.files.close()
    assert json.loads(second.read_bytes().split(b"\n")[1])["key"] == cold.keys[1].hex()  # written anew


@pytest.mark.parametrize("column", range(8))
def test_experts_that_the_model_does_not_have_are_refused(column: int, native: Native) -> None:
    """In each column of a block's routes. A receipt would count them otherwise."""
    executor = native("mixtral")
    sequence = executor.sequence(PAGE)
    executor.step([StepInput(sequence, text(PAGE, seed=1))])
    block = sequence.block(0)
    width = block.route_width
    assert width == 8
    data = bytearray(block.written())
    assert executor.restored(PAGE, width, bytes(data)).written() == data
    experts = next(routed.router.experts for _, routed in executor.spec.routed_layers())
    at = data.rindex(sequence.routes().tobytes()) + 2 * (column + width * (PAGE // 2))
    data[at : at + 2] = experts.to_bytes(2, "little")
    with pytest.raises(RequestRefused, match="experts which the model does not have"):
        executor.restored(PAGE, width, bytes(data))


@pytest.mark.parametrize("kind", ["a pipe", "a directory", "a loop of links"])
def test_what_is_no_file_is_left_out(
    kind: str, native: Native, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = PrefixFiles(tmp_path, 10**9, b"x" * 32, native("llama 3"))
    path = files._path(b"k" * 16)
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
        case _:
            path.symlink_to(path)
    assert files.read(b"k" * 16, b"p" * 16) is None
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    files.close()


def test_files_stay_within_their_budget_the_newest_stay(native: Native, tmp_path: Path) -> None:
    executor = native("llama 3")
    scheduler = kept_in(tmp_path, executor, 12 * executor.block_bytes)
    for seed in range(9):
        finished(scheduler, text(200, seed=seed), 2)
    store = scheduler.prefixes.files
    assert store is not None
    store.close()
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 12 * executor.block_bytes
    assert finished(kept_in(tmp_path, executor), text(200, seed=8), 2).reused == {"disk": 3 * PAGE}


def test_what_another_process_left_half_written_is_swept_and_a_bad_directory_refused(
    native: Native, tmp_path: Path
) -> None:
    import os

    executor = native("llama 3")
    kept_in(tmp_path, executor)
    (own,) = tmp_path.iterdir()
    old, young = own / "aa.1.partial", own / "bb.2.partial"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))
    kept_in(tmp_path, executor)
    assert not old.exists() and young.exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot keep prefixes there"):
        kept_in(tmp_path / "file", executor)


def test_two_processes_may_keep_the_same_beginning_at_once(native: Native, tmp_path: Path) -> None:
    schedulers = [kept_in(tmp_path, native("llama 3")) for _ in range(3)]
    threads = [threading.Thread(target=finished, args=(s, text(200, seed=1), 5)) for s in schedulers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for scheduler in schedulers:
        assert scheduler.prefixes.files is not None
        scheduler.prefixes.files.close()
    assert len(files(tmp_path)) == 3 and not list(tmp_path.rglob("*.partial"))
