"""Metrics for Prometheus: requests, tokens and times by model, without prompts, answers or paths."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trilens.generate.receipt import Receipt
from trilens.serve.registry import ModelRegistry
from trilens.serve.wire import AnyReceipt

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    def __init__(self, models: ModelRegistry) -> None:
        registry = self._registry = CollectorRegistry()
        self._models = models
        self._requests = Counter(
            "trilens_requests", "Requests, by route and status.", ["route", "status"], registry=registry
        )
        self._tokens = Counter("trilens_tokens", "Tokens, by model and kind.", ["model", "kind"], registry=registry)
        self._first = Histogram(
            "trilens_time_to_first_token_seconds",
            "Seconds of computing to an answer's first token.",
            ["model"],
            registry=registry,
            buckets=SECONDS,
        )
        self._speed = Histogram(
            "trilens_decode_tokens_per_second",
            "Tokens a second of a request's decoding.",
            ["model"],
            registry=registry,
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 20000),
        )
        self._running = Gauge("trilens_calls_running", "Calls that are stepped.", ["model"], registry=registry)
        self._waiting = Gauge("trilens_calls_waiting", "Calls in line.", ["model"], registry=registry)
        self._pages = Gauge("trilens_cache_pages", "Pages of keys and values in use.", ["model"], registry=registry)
        self._loaded = Gauge("trilens_model_loaded", "Whether a model is in memory.", ["model"], registry=registry)

    def answered(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def finished(self, receipt: AnyReceipt) -> None:
        t, model = receipt.tokens, receipt.model
        if isinstance(receipt, Receipt) and receipt.adapter is not None:
            model += f":{receipt.adapter.name}"
        counts = {"prompt": (t.prompt or 0) - (t.cached or 0), "cached": t.cached, "thinking": t.thinking}
        for kind, count in {**counts, "answer": t.answer, "control": t.control}.items():
            self._tokens.labels(model, kind).inc(count or 0)  # an engine does not tell every count
        if receipt.time_to_first_token is not None:
            self._first.labels(model).observe(receipt.time_to_first_token)
        speed = _speed(receipt)
        if speed is not None:
            self._speed.labels(model).observe(speed)

    def page(self) -> bytes:
        for place in self._models.places.values():
            loop = place.loop
            self._running.labels(place.name).set(0 if loop is None else loop.running)
            self._waiting.labels(place.name).set(0 if loop is None else loop.waiting)
            self._pages.labels(place.name).set(0 if loop is None else loop.model.cache_pages)
            self._loaded.labels(place.name).set(loop is not None)
        return generate_latest(self._registry)


def _speed(receipt: AnyReceipt) -> float | None:
    if not isinstance(receipt, Receipt):
        return receipt.tokens_per_second
    return receipt.work.decode.tokens_per_second if receipt.work.decode.steps else None
