"""schemathesis asks what the server's own OpenAPI document allows, and what it does not: nothing is a fault of ours."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from tests.serve.conftest import Served

LEAST = ("max_tokens", "max_completion_tokens", "max_output_tokens")
PATHS = (
    *("chat/completions", "completions", "responses", "messages", "messages/count_tokens"),
    *("trilens/answer_now", "trilens/card", "trilens/attention", "trilens/logit_lens"),
)


@pytest.fixture(scope="module")
def document(server: Served) -> schemathesis.openapi.OpenApiSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_every_route_is_in_the_document(document: schemathesis.openapi.OpenApiSchema) -> None:
    paths = {operation.ok().path for operation in document.get_all_operations()}
    under = {f"/v1/{path}" for path in (*PATHS, "models", "models/{name}", "trilens/questions")}
    assert paths == under | {"/healthz", "/health", "/metrics", "/tokenize", "/detokenize", "/tokenizer_info"}


@pytest.mark.parametrize("examples", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda m: m.value)
@pytest.mark.parametrize("path", PATHS)
def test_no_request_is_a_fault_of_ours(
    document: schemathesis.openapi.OpenApiSchema, path: str, mode: GenerationMode, examples: int
) -> None:
    operation = document[f"/v1/{path}"]["post"]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):
            if isinstance(case.body.get("model"), str):
                case.body["model"] = "tiny-dense"  # so that requests reach a model at all
            for most in LEAST:
                if isinstance(case.body.get(most), int):
                    case.body[most] = min(case.body[most], 8)
        case.validate_response(case.call(), checks=[not_a_server_error])

    check()
