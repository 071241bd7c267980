"""A name or an address -> a hosted model: its library, its key, its row of the table, and what the catalog knows."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from trilens.errors import TrilensError, UsageError
from trilens.executors.accountant import ParameterCount, count_parameters
from trilens.generate import arguments
from trilens.hosted.anthropic import Messages
from trilens.hosted.chat import Chat
from trilens.hosted.faults import typed
from trilens.hosted.gemini import Gemini
from trilens.hosted.keys import key_of
from trilens.hosted.model import Elsewhere, HostedModel
from trilens.hosted.names import ADDRESS, VENDORS, at_vendor
from trilens.hosted.responses import Responses
from trilens.hosted.table import row_for, rows, service_of_host
from trilens.spec.catalog import Backbone, catalogued
from trilens.spec.catalog.recognise import recognise

# What servers write into `owned_by` of their list of models.
OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
    "library": "ollama",
    "tensorrt_llm": "tensorrt-llm",
    "organization_owner": "lm-studio",
    "trilens": "trilens",
    "me": "llama-cpp-python",
}


def load_hosted(
    name: str,
    *,
    model: str | None = None,
    engine: str | None = None,
    tokenizer: str | None = None,
    key_variable: str | None = None,
    retries: int = 2,
    timeout: float = 600,
) -> HostedModel:
    """Load a model at a service: "openai:MODEL", "anthropic:MODEL", "gemini:MODEL", or the URL of a server.

    - `model`: the server's name for the model, for URLs only. It can be left out if the server has one model, and
      can be part of the URL: "http://host:8000/v1#MODEL".
    - `engine`: the kind of server, as in thinking.toml, if the server does not report it.
    - `tokenizer`: a local model (a catalog name, a path, a hub id) whose tokenizer counts what the server does not.
    - `key_variable`: the environment variable with the server's key.
    - `retries`: retries before an answer begins, with the vendor's own back-off.
    - `timeout`: give up after this many seconds without a byte.

    Raises UsageError or HostedError.
    """
    for option, value in (
        ("model", model),
        ("engine", engine),
        ("tokenizer", tokenizer),
        ("key_variable", key_variable),
    ):
        arguments.text(option, value)
    arguments.whole("retries", retries, 0, none=False, error=UsageError)
    arguments.number("timeout", timeout, 0)
    if ADDRESS.match(name):
        address, _, said = name.partition("#")
        return _at_address(address, model or said or None, engine, tokenizer, key_variable, retries, timeout)
    for option, value in (("model", model), ("engine", engine), ("tokenizer", tokenizer)):
        if value is not None:
            raise UsageError(f"{option} is only for a server's address; leave it out for {name}")
    vendor, called = at_vendor(name) or (name, "")
    if not called:
        raise UsageError(f"{name!r} names no model; expected {vendor}:MODEL")
    key = key_of(vendor, *((key_variable,) if key_variable else ()))
    row = row_for(vendor, called)
    service: Any
    if vendor == "openai":
        client = _library("openai", vendor).OpenAI(api_key=key, max_retries=retries, timeout=timeout)
        service = Responses(client)
    elif vendor == "anthropic":
        client = _library("anthropic", vendor).Anthropic(api_key=key, max_retries=retries, timeout=timeout)
        service = Messages(client)
    else:
        http = {"timeout": int(timeout * 1000), "retry_options": {"attempts": retries + 1}}
        client = _library("google.genai", vendor).Client(api_key=key, vertexai=False, http_options=http)
        service = Gemini(client)
    backbone, parameters = _known(called)
    return HostedModel(Elsewhere(f"{vendor}:{called}", called, row, None, key, None, backbone, parameters), service)


def _at_address(
    address: str,
    model: str | None,
    engine: str | None,
    tokenizer: str | None,
    key_variable: str | None,
    retries: int,
    timeout: float,
) -> HostedModel:
    url, host = _url(address)
    known = {row.service for row in rows()} - set(VENDORS)
    if engine is not None and engine not in known:
        raise UsageError(f"engine is {engine!r}; expected one of {', '.join(sorted(known))}")
    service = engine or service_of_host(host.partition(":")[0])
    variable = key_variable or (row_for(service, model or "").key if service else None)
    key = key_of(host, *((variable,) if variable else ()), needed=variable is not None)
    library = _library("openai", "openai")
    client = library.OpenAI(base_url=url, api_key=key or "none", max_retries=retries, timeout=timeout)
    client.organization = client.project = None  # those of the environment are for OpenAI alone
    context = None
    if service is None or model is None:
        service, model, context = _ask_server(client, host, service, model, key)
    row = row_for(service, model)
    backbone, parameters = _known(model)
    counter = None if tokenizer is None else _counter(tokenizer)
    elsewhere = Elsewhere(model, model, row, host, key, context, backbone, parameters, counter)
    return HostedModel(elsewhere, Chat(client, row))


def engine_client(url: str, key: str, timeout: float) -> Any:
    """openai's client for an engine that trilens started. It does not retry."""
    client = _library("openai", "openai").OpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout)
    client.organization = client.project = None
    return client


def engine_model(
    client: Any, model: str, engine: str, known: tuple[Backbone, ParameterCount | None], tokens_of: Callable[[str], int]
) -> HostedModel:
    """The model of such an engine. Everything but its context is known in advance."""
    row, host = row_for(engine, model), urlsplit(str(client.base_url)).netloc
    return HostedModel(Elsewhere(model, model, row, host, client.api_key, None, *known, tokens_of), Chat(client, row))


def engine_context(client: Any, model: str) -> int | None:
    """The maximum number of tokens of the engine; None if it does not say."""
    return _ask_server(client, "the engine", None, model, client.api_key)[2]


def _url(address: str) -> tuple[str, str]:
    """(the address with /v1 where it has no path, host and port)."""
    parts = urlsplit(address)
    if parts.hostname is None or parts.username is not None or parts.password is not None:
        raise UsageError(
            "the address has no host, or contains a password; expected http://host:port/v1, with the key elsewhere"
        )
    path = parts.path.rstrip("/") or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), parts.netloc


def _ask_server(
    client: Any, host: str, service: str | None, model: str | None, key: str | None
) -> tuple[str, str, int | None]:
    """(service, model, its context) from the server's own list of models."""
    try:
        listed = [entry.model_dump() for entry in client.models.list()]
    except Exception as problem:
        error = typed(problem, host, key, begun=False)
        if error is None:
            raise
        raise error from None
    names = [entry["id"] for entry in listed]
    if model is None and len(names) != 1:
        shown, where = ", ".join(names[:10]) or "none", str(client.base_url).rstrip("/")
        raise UsageError(f"{host} serves {shown}; say which, as in {where}#{(names or ['MODEL'])[0]}")
    called = model or names[0]
    found: dict[str, Any] = next((entry for entry in listed if entry["id"] == called), {})
    context = found.get("max_model_len")
    said = OWNERS.get(str(found.get("owned_by")), "any")
    return service or said, called, context if isinstance(context, int) else None


def _library(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(f"{module} is not installed; pip install 'trilens[{extra}]'") from None


def _known(model: str) -> tuple[Backbone, ParameterCount | None]:
    """What the catalog knows of a model that is served under this name."""
    entry = catalogued(model)
    backbone = recognise(model).backbone if entry is None else entry.backbone
    if entry is None or (entry.config is None and entry.comes_with is None):
        return backbone, None
    from trilens.lenses.cards.source import card_source

    try:
        reading = card_source(entry.name, offline=True).reading
    except TrilensError:
        return backbone, None
    if reading is None:
        return backbone, None
    return reading.spec.backbone, count_parameters(reading.spec)


def _counter(name: str) -> Callable[[str], int]:
    from trilens.checkpoints.find import find
    from trilens.text.model_text import read_model_text

    text = read_model_text(find(name, only_small=True), catalogued(name))
    return lambda said: len(text.tokenizer.encode(said))
