"""Requests with adapters: the same tokens in any company, beginnings that are never another adapter's, receipts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import trilens
from tests.executors.packing import native_executor
from tests.executors.test_adapters import adapters
from tests.executors.tiny import MODELS, VOCAB, random_tensors
from tests.lora import Lora, lora
from trilens.checkpoints.find import find
from trilens.errors import RequestRefused, UsageError
from trilens.executors.accountant import Span, step_cost
from trilens.executors.executor import PAGE
from trilens.executors.native.executor import NativeExecutor
from trilens.executors.torch import TorchExecutor
from trilens.generate.limits import Limits
from trilens.generate.prefix_files import PrefixFiles
from trilens.generate.request import Request, TokenWriter
from trilens.generate.sampling import Sampling, Speculates
from trilens.generate.scheduler import Scheduler

WHO = (None, "one", "two")
QUESTION = "What is 12 plus 30?"


class Ahead(TokenWriter):
    def lookahead(self) -> int:
        return 64


def executor(name: str, **options: Any) -> NativeExecutor:
    spec = MODELS[name]()
    return native_executor(spec, random_tensors(spec), "Q8_0", adapters=adapters(spec), threads=2, **options)


def finished(scheduler: Scheduler, wanted: list[dict[str, Any]], ahead: float = 0.0) -> list[Request]:
    requests = [scheduler.submit(**w, end_ids=frozenset(), writer=Ahead()) for w in wanted]
    while any(r.finish is None for r in requests):
        for r in requests:
            r.unread.clear()
        scheduler.step(ahead=ahead)
    assert all(r.failure is None for r in requests)
    return requests


def asked(chance: random.Random, who: str | None) -> dict[str, Any]:
    """A prompt with repetitions, in which proposals are found."""
    phrase = [chance.randrange(VOCAB) for _ in range(chance.randrange(2, 9))]
    sampling = Sampling(temperature=chance.choice((0.0, 0.7)), seed=3, logit_bias=dict.fromkeys(phrase, 3.0))
    length = chance.randrange(2, 30)
    return {"prompt": phrase * 4, "sampling": sampling, "limits": Limits(length, length), "adapter": who}


@pytest.mark.parametrize("name", ["plain", "latent", "recurrent"])
def test_tokens_are_those_of_each_alone(name: str) -> None:
    """With and without speculation, one by one and all together, cancelled ones and short memory among them."""
    own, chance = executor(name), random.Random(name)
    wanted = [asked(chance, chance.choice(WHO)) for _ in range(12)]
    alone = [finished(Scheduler(own, speculates=False), [w])[0].tokens for w in wanted]
    accepted = 0
    for speculates in (False, "always"):
        scheduler = Scheduler(own, speculates=speculates)  # type: ignore[arg-type]
        left = [scheduler.submit(**asked(chance, who), end_ids=frozenset()) for who in WHO]
        scheduler.step()
        for request in left:
            scheduler.end(request, "cancelled")
        together = finished(scheduler, wanted, 0.01)
        assert [r.tokens for r in together] == alone
        accepted += sum(step.accepted for r in together for step in r.steps)
        scheduler.forget()
    assert accepted > 0
    assert own.pool.pages_in_use == 0
    of: dict[str | None, list[list[int]]] = {}
    for who in WHO:
        of[who] = [finished(Scheduler(own), [{**w, "adapter": who}])[0].tokens for w in wanted]
    assert of[None] != of["one"] != of["two"] != of[None]


@pytest.mark.parametrize("name", ["plain", "recurrent"])
@pytest.mark.parametrize("speculates", [False, "always"])
def test_no_beginning_is_shared_across_adapters(name: str, speculates: Speculates) -> None:
    """The same long prompt with each: what another has computed is not used, what its own has is."""
    own = executor(name)
    scheduler = Scheduler(own, speculates=speculates)
    chance = random.Random(1)
    prompt = [chance.randrange(VOCAB) for _ in range(3 * PAGE + 5)]
    wanted = {"prompt": prompt, "sampling": Sampling(temperature=0), "limits": Limits(6, 6)}
    expected = {who: finished(Scheduler(own), [{**wanted, "adapter": who}])[0].tokens for who in WHO}
    for _ in range(2):
        for again, who in enumerate(chance.sample(WHO, 3)):
            [first] = finished(scheduler, [{**wanted, "adapter": who}])
            [second] = finished(scheduler, [{**wanted, "adapter": who}])
            assert first.tokens == second.tokens == expected[who]
            assert second.cached >= 3 * PAGE
            if again and _ == 0:
                assert first.cached == 0
    together = finished(Scheduler(own), [{**wanted, "adapter": who} for who in (*WHO, *WHO)])
    assert [r.tokens for r in together] == [expected[who] for who in (*WHO, *WHO)]


def test_memory_that_is_short_changes_nothing() -> None:
    own = executor("plain", kv_limit=150_000)
    chance = random.Random(4)
    wanted = [
        {
            "prompt": [chance.randrange(VOCAB) for _ in range(chance.randrange(30, 200))],
            "sampling": Sampling(temperature=0),
            "limits": Limits(120, 120),
            "adapter": chance.choice(WHO),
        }
        for _ in range(12)
    ]
    expected = [finished(Scheduler(own), [w])[0].tokens for w in wanted]
    together = finished(Scheduler(own), wanted)
    assert [r.tokens for r in together] == expected
    assert any(r.preempted for r in together)


def test_prefix_files_are_of_one_adapter(tmp_path: Path) -> None:
    """A file found again after a restart is found for its own adapter alone, whatever its name is then."""
    chance = random.Random(2)
    prompt = [chance.randrange(VOCAB) for _ in range(2 * PAGE + 5)]
    wanted = {"prompt": prompt, "sampling": Sampling(temperature=0), "limits": Limits(3, 3)}

    def cached(who: str | None) -> int:
        own = executor("plain")
        scheduler = Scheduler(own)
        files = scheduler.prefixes.files = PrefixFiles(tmp_path, 1 << 30, b"the same model", own)
        [request] = finished(scheduler, [{**wanted, "adapter": who}])
        files.close()
        return request.reused.get("disk", 0)

    for who in WHO:
        assert cached(who) == 0
    for who in WHO:
        assert cached(who) >= 2 * PAGE


# ------------------------------------------------------------------------------------------- a model's own interface


def tiny_lora(seed: int, rank: int = 4) -> Lora:
    """For tiny-dense, all of its matrices."""
    stored = load_file(find("tiny-dense").path / "model.safetensors")
    shapes = {n.removesuffix(".weight"): tuple(t.shape) for n, t in stored.items() if n.endswith("_proj.weight")}
    return lora(shapes, rank, seed, size=0.5)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("adapters")
    paths = {name: str(tiny_lora(seed).save(folder / name)) for seed, name in enumerate(("poet", "clerk"))}
    return paths.__getitem__


@pytest.mark.parametrize("kind", ["native", "torch"])
def test_calls_choose_one_of_several(kind: Any, saved: Callable[[str], str]) -> None:
    with trilens.load("tiny-dense", executor=kind, adapters={n: saved(n) for n in ("poet", "clerk")}) as model:
        plain = trilens.load("tiny-dense", executor=kind).generate(QUESTION, temperature=0, max_tokens=12)
        answers = {
            who: trilens.call_model(model, QUESTION, temperature=0, max_tokens=12, adapter=who)
            for who in (None, "poet", "clerk", None)
        }
        assert answers[None].text == plain.text and answers[None].receipt.adapter is None
        assert len({a.receipt.replay for a in answers.values()}) == 3
        assert type(model.executor) is (TorchExecutor if kind == "torch" else NativeExecutor)
        with pytest.raises(RequestRefused, match="no adapter 'nobody' is loaded; expected one of poet, clerk"):
            model.generate(QUESTION, adapter="nobody")


def test_the_receipt_has_what_the_adapter_cost(saved: Callable[[str], str]) -> None:
    model = trilens.load("tiny-dense", adapters={"poet": saved("poet")}, speculation=False)
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 10, "thinking": False}
    receipt = model.generate(QUESTION, adapter="poet", **options).receipt
    matrices = tiny_lora(0).pairs.values()
    numbers = sum(down.numel() + up.numel() for down, up in matrices)
    assert receipt.adapter is not None
    assert (receipt.adapter.name, receipt.adapter.parameters) == ("poet", numbers)
    assert receipt.adapter.bytes == model.executor.adapter_bytes("poet") >= 4 * numbers
    bare = model.executor
    for phase, logits in ((receipt.work.prefill, 1), (receipt.work.decode, receipt.work.decode.tokens)):
        past = 0 if phase is receipt.work.prefill else receipt.tokens.prompt
        span = Span(past, phase.tokens)
        assert phase.flops - bare.costs.flops(phase.tokens, logits, [span]) == 2 * numbers * phase.tokens
        ranks = model.executor.adapters["poet"].ranks
        assert phase.flops == step_cost(model.spec, [Span(past, phase.tokens, logits)], ranks).flops()
    decode = receipt.work.decode
    assert decode.weight_bytes == decode.steps * (bare.costs.weight_bytes(1, 1) + receipt.adapter.bytes)
    assert f"adapter  poet · {numbers / 1e3:.1f}K parameters" in receipt.as_text()
    assert json.loads(json.dumps(receipt.as_dict()))["adapter"]["name"] == "poet"
    assert receipt.weights_bytes == bare.weight_bytes  # the model's own


@pytest.mark.parametrize("wrong", [{"a:b": "x"}, {"": "x"}, {"a": ""}, {"a": 3}, ["a"], "a", {"a b": "x"}])
def test_adapters_are_paths_by_name(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"adapters is .*; expected"):
        trilens.load("tiny-dense", adapters=wrong)
