"""Drafts of the model's own block for multi-token prediction change no token, and a trained block is often right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.families import prompt
from tests.generate.test_speculation import Asked, answered, asked, called
from tests.prediction import saved_with_block
from trilens import load
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.decoder.weights import Parameter, parameters, prediction_weights
from trilens.errors import UnsupportedModel, UsageError
from trilens.executors.accountant import prediction_cost
from trilens.executors.executor import StepInput
from trilens.executors.native.executor import NativeExecutor
from trilens.executors.native.prediction import NativePrediction
from trilens.executors.native.program import Op
from trilens.generate.receipt import replay_hash
from trilens.generate.request import Request
from trilens.generate.scheduler import Scheduler
from trilens.text.events import EndEvent

TRAINED = Path(__file__).parents[1] / "data" / "tiny-hybrid"  # recipes/prediction made it
REQUESTS = 24


@pytest.mark.parametrize("name", ["qwen3-next", "glm-4.5", "deepseek v3"])
def test_it_predicts_what_the_reference_does(name: str, tmp_path: Path) -> None:
    """In any pieces, and with tokens that are taken back on the way."""
    directory, block = saved_with_block(name, tmp_path)
    executor = native_executor(open_model(find(str(directory)), prediction=True), kv="f32", kv_limit=40_000_000)
    tokens = prompt(60)
    expected = block.eval()(tokens).detach().numpy()
    sequence = executor.sequence(len(tokens))
    assert executor.follow(sequence)
    at = compared = 0
    for size in (1, 20, 1, 1, 7, 2, 1, 1, 9, 1):
        executor.step([StepInput(sequence, tokens[at : at + size])])
        at += size
        if size == 7 and not executor.costs.fixed_bytes:  # these go back only behind a draft
            sequence.take_back(3)
            at -= 3
        (got,) = executor.predict([(sequence, tokens[at])])
        row = expected[at - 1]
        if np.sort(row)[-1] - np.sort(row)[-2] > 0.05 * row.std():  # no near tie, which rounding may turn
            assert got == int(row.argmax())
            compared += 1
    assert compared > 5


@pytest.mark.parametrize("name", ["qwen3-next", "qwen3.5 (text)", "deepseek v3"])
def test_tokens_and_routes_are_equal(name: str, tmp_path: Path) -> None:
    """With a random block, whose drafts are wrong nearly always, beside what is looked up."""
    directory, _ = saved_with_block(name, tmp_path)
    plain = native_executor(open_model(find(str(directory))), kv_limit=40_000_000)
    predicting = native_executor(open_model(find(str(directory)), prediction=True), kv_limit=40_000_000)
    rng = random.Random(name)
    wanted = [asked(rng, plain.spec.vocab) for _ in range(REQUESTS)]
    results: list[list[Request]] = [
        answered(Scheduler(plain, speculates=False), wanted, 1, 0.0),
        # one token a step: what several steps in a row would leave to predict depends on the machine's speed
        answered(Scheduler(predicting, speculates="always"), wanted, 4, 0.0),
        answered(Scheduler(predicting, speculates=True), wanted, 3, 0.01),
    ]
    for one, *others in zip(*results, strict=True):
        for other in others:
            assert other.tokens == one.tokens and other.finish == one.finish
            assert replay_hash((*other.prompt, *other.tokens), other.routes) == replay_hash(
                (*one.prompt, *one.tokens), one.routes
            )
            assert other.kv_bytes == one.kv_bytes
    assert any(step.predicted for request in results[1] for step in request.steps)


def calls_are_equal(count: int) -> tuple[int, int, int]:
    """Ask so many calls with the block and without any draft, one to eight at a time. How many tokens it predicted, how
    many of these were right, and how many proposed tokens were right in all."""
    rng = random.Random("predictions")
    plain, drafting = load(str(TRAINED), speculation=False), load(str(TRAINED), prediction_block=True)
    drafting._scheduler.speculates = "always"
    predicted = right = accepted = 0
    left = count
    while left > 0:
        batch = [Asked.random(rng, True) for _ in range(min(left, rng.randrange(1, 9)))]
        left -= len(batch)
        pairs = zip(called(plain, batch), called(drafting, batch), strict=True)
        for one, ((call, expected), (other, got)) in zip(batch, pairs, strict=True):
            assert call.request is not None and other.request is not None
            ours, theirs = other.request.tokens, call.request.tokens
            if one.cancelled is None:
                assert (ours, got.finish, got.replay) == (theirs, expected.finish, expected.replay), one
                assert replace(got.tokens, cached=0) == replace(expected.tokens, cached=0), one
                assert (got.thinking, got.kv_cache_bytes) == (expected.thinking, expected.kv_cache_bytes), one
                assert other.request.logprobs == call.request.logprobs, one
            else:
                same = min(len(ours), len(theirs))
                assert ours[:same] == theirs[:same], one
            predicted += got.drafts.predicted
            right += got.drafts.predicted_accepted
            accepted += got.drafts.accepted
            assert not expected.drafts.proposed
    return predicted, right, accepted


def test_calls_are_equal() -> None:
    predicted, right, accepted = calls_are_equal(100)
    assert predicted > 100 and right > 20 and accepted >= right


@pytest.mark.slow
def test_a_thousand_calls_are_equal() -> None:
    predicted, right, _ = calls_are_equal(1000)
    assert right > 300 and predicted > right


def test_the_trained_block_is_right_in_two_of_five() -> None:
    """At the model's own sampling defaults and warmer, on questions that it answers."""
    model = load(str(TRAINED), prediction_block=True)
    model._scheduler.speculates = "always"
    for temperature in (0.0, 0.7):
        predicted = right = 0
        for n, question in enumerate(("What is 17 + 25?", "hi", "Which is larger, 45 or 54?", "What is 80 - 31?")):
            drafts = model.generate(question, temperature=temperature, seed=n, max_tokens=60).receipt.drafts
            predicted += drafts.predicted
            right += drafts.predicted_accepted
        assert predicted > 20 and right >= 0.4 * predicted


def test_the_receipt_counts_what_the_block_read() -> None:
    """A prompt that it follows in pieces, and an answer for which it is asked nearly always."""
    model = load(str(TRAINED), prediction_block=True)
    model._scheduler.speculates = "always"
    executor = model.executor
    assert isinstance(executor, NativeExecutor) and executor.prediction is not None
    spec = executor.spec
    row = spec.width * executor.element_bytes(Parameter("embedding", (spec.vocab, spec.width)))
    vectors = [p for p in parameters(prediction_weights(spec)) if len(p.shape) == 1]
    uncounted = sum(p.size * executor.element_bytes(p) for p in vectors)  # in no engine's count
    for question in ("What is 17 + 25?", 12 * "abcdefghijklmnopqrstuvwxyz " + "What is 80 - 31?"):
        before = _read(executor.prediction)
        call = model.prepare(question, temperature=0, max_tokens=40)
        call.submit()
        while model.step():  # one token a step, so that the block is asked for each
            pass
        end = list(call.events())[-1]
        assert isinstance(end, EndEvent) and call.request is not None
        drafts, passes = end.receipt.drafts, call.request.block_passes
        assert sum(span.logits for span in passes) >= drafts.predicted > 0
        # where the head is not read, rows of its matrix are looked up
        looked_up = sum(round(min(span.new, spec.vocab) * row) for span in passes if not span.logits)
        read = _read(executor.prediction) - before + looked_up + len(passes) * uncounted
        assert drafts.block_weight_bytes == read
        assert drafts.block_flops == sum(prediction_cost(spec, [span]).flops() for span in passes)


def _read(prediction: NativePrediction) -> int:
    """Bytes of matrices, so far. What is looked up comes from the matrix of the head, which is read as a whole."""
    assert prediction.executor.spec.head.tied
    read = prediction.engine.counts()["bytes"]
    return int(sum(read) - read[list(Op).index(Op.ATTEND)] - read[list(Op).index(Op.EMBED)])


def test_drafts_in_later_steps_of_a_call_respect_what_is_barred() -> None:
    """Ends are barred for nine tokens; several steps are done before Python sees a token, the last of them with a
    draft."""
    options = {"temperature": 0, "max_tokens": 50, "thinking": False, "min_tokens": 9}
    asked = Asked("9-4=5 9-3=6 9-2=7 9-", options, None, None)
    plain, drafting = load(str(TRAINED), speculation=False), load(str(TRAINED))
    drafting._scheduler.speculates = "always"
    ((one, _),), ((other, receipt),) = called(plain, [asked]), called(drafting, [asked])
    assert one.request is not None and other.request is not None
    assert other.request.tokens == one.request.tokens
    assert receipt.drafts.proposed > 0


def test_a_model_without_a_block_and_other_executors_are_refused(tiny_directory: Callable[[str], Path]) -> None:
    with pytest.raises(UnsupportedModel, match="has no block for multi-token prediction"):
        load("tiny-dense", prediction_block=True)
    for options in ({"executor": "torch"}, {"speculation": False}):
        with pytest.raises(UsageError, match="prediction_block"):
            load(str(TRAINED), prediction_block=True, **options)  # type: ignore[arg-type]
