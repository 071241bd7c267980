"""The price of a call, from genai-prices' list. A model without a listed price is unpriced, not free."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from trilens.hosted.service import Usage

PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}


class UnpricedWarning(UserWarning):
    """A call that is billed, but whose price is not known."""


@dataclass(frozen=True)
class Price:
    """US dollars. `thinking` is part of `total`. None if no price is listed; `source` says so."""

    total: float | None
    thinking: float | None
    source: str


def price(service: str, host: str | None, model: str, usage: Usage, *, broken: bool = False) -> Price:
    """The price of a call with these counts. It is unknown for a call that was interrupted. `host` is None for a
    vendor's own interface, else the server's, whose owner may not bill at all. Warns with UnpricedWarning if a
    vendor bills and the list does not have the model.
    """
    if host is not None and service not in _billing():
        return Price(None, None, f"unpriced: {host} is not on a price list")
    if broken:
        return Price(None, None, "unpriced: the answer broke off before the service said what it counted")
    if usage.prompt is None or usage.output is None:
        return _unpriced(f"{model}: the service did not say how many tokens it counted")
    try:
        prices = import_module("genai_prices")
    except ImportError:
        return _unpriced("genai-prices is not installed; pip install genai-prices")
    at = {"provider_id": PROVIDERS[service]} if host is None else {"provider_api_url": f"https://{host}/"}
    counts = {
        "input_tokens": usage.prompt,
        "cache_read_tokens": usage.cached,
        "cache_write_tokens": usage.written,
        "output_tokens": usage.output,
    }
    stated = {name: count for name, count in counts.items() if count is not None}
    try:
        whole = prices.calc_price(prices.Usage(**stated), model, **at)
        thinking = prices.calc_price(prices.Usage(output_tokens=usage.thinking or 0), model, **at)
    except (LookupError, ValueError):
        return _unpriced(f"{model}: genai-prices {prices.__version__} does not list it")
    source = f"genai-prices {prices.__version__}, {_identity(whole.provider)} {_identity(whole.model)}"
    return Price(float(whole.total_price), float(thinking.total_price), source)


def _billing() -> tuple[str, ...]:
    """Services with an address that bill their calls."""
    from trilens.hosted.table import rows

    return tuple({row.service for row in rows() if row.key is not None})


def _unpriced(why: str) -> Price:
    warnings.warn(f"unpriced: {why}", UnpricedWarning, stacklevel=2)
    return Price(None, None, f"unpriced: {why}")


def _identity(what: Any) -> str:
    return str(what.id)
