"""Requests that come, are cancelled and go, through the scheduler: no page and no memory stays behind."""

from __future__ import annotations

import resource

import numpy as np

from tests.executors.packing import native_executor
from tests.executors.tiny import MODELS, VOCAB, random_tensors
from trilens.generate.limits import Limits
from trilens.generate.sampling import Sampling
from trilens.generate.scheduler import Scheduler


def test_a_thousand_random_requests_leave_nothing_behind() -> None:
    spec = MODELS["windowed"]()
    executor = native_executor(spec, random_tensors(spec), "Q4_0", threads=2, kv_limit=1_000_000)
    scheduler, rng, peak = Scheduler(executor), np.random.default_rng(3), 0
    for request in range(1000):
        prompt = rng.integers(0, VOCAB, int(rng.integers(1, 200))).tolist()
        sampling = Sampling(
            temperature=float(rng.choice([0.0, 0.7, 1.3])),
            top_k=int(rng.choice([0, 5])),
            top_p=float(rng.choice([1.0, 0.9])),
            seed=int(rng.integers(1 << 30)),
        )
        scheduler.submit(prompt, sampling, Limits(most := int(rng.integers(1, 300)), most), frozenset([3]))
        for _ in range(int(rng.integers(0, 4))):
            if scheduler.running:
                watched = scheduler.running[int(rng.integers(len(scheduler.running)))]
                scheduler.advance([watched])
                watched.unread.clear()
            for generation in list(scheduler.running):
                if rng.random() < 0.1:
                    scheduler.end(generation, "cancelled")
        if request == 300:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for generation in list(scheduler.running):
        scheduler.end(generation, "cancelled")
    scheduler.forget()
    assert executor.pool.pages_in_use == 0
    assert executor.pool.bytes_in_use == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1.05 * peak + 4096
