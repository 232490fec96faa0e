"""The OpenAPI document describes what the server does: requests made from it get the answers that it promises."""

from __future__ import annotations

import pytest

from parity.serve.openapi import openapi_document
from parity.serve.routes import api_routes

from .conftest import client_of
from .scripted import ScriptedService, make_desk


async def test_it_is_served_and_holds_every_route():
    async with client_of(make_desk()) as client:
        document = (await client.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    paths = {route.path.replace(":path", "") for route in api_routes(make_desk())}
    assert set(document["paths"]) == paths
    body = document["components"]["schemas"]["ChatRequest"]
    assert body["additionalProperties"] is False
    assert body["properties"]["audio"] == {"type": "null", "default": None}


def test_requests_made_from_the_document_get_what_it_promises(serve):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings

    url = serve(ScriptedService(lambda prompt: "fine"), log_requests=False, max_body_bytes=100_000)
    schema = schemathesis.openapi.from_dict(openapi_document(api_routes(make_desk())))
    seen = set()
    for operation in schema.get_all_operations():
        operation = operation.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case):
            answer = case.call(base_url=url)
            case.validate_response(answer, checks=list(promises(schemathesis)))
            seen.add((case.path, answer.status_code))

        check()
    assert {path for path, _ in seen} == set(schema.raw_schema["paths"])
    assert all(status < 500 for _, status in seen)


def promises(schemathesis):
    from schemathesis.specs.openapi import checks

    return (
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    )
