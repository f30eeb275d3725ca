"""The OpenAPI document is complete: every endpoint with examples, every problem, every field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.shop import opened, publish_shop, recommend

CONNECTION = {400, 408, 413, 414, 431}
ADMISSION = {401, 403, 429, 500, 503}
BODY = {415, 422} | ADMISSION
PATH = {422} | ADMISSION

ENDPOINTS = {
    ("post", "/v1/recommendations"): BODY | {409},
    ("post", "/v1/recommendations:batch"): BODY,
    ("get", "/v1/sessions/{session_id}/recommendations"): PATH | {409},
    ("post", "/v1/recommendations/{recommendation_id}/next"): BODY | {404, 409, 410},
    ("get", "/v1/recommendations/{recommendation_id}/explanation"): PATH | {404, 410},
    ("post", "/v1/events"): BODY,
    ("get", "/v1/sessions"): PATH,
    ("get", "/v1/sessions/{session_id}/history"): PATH | {404},
    ("get", "/v1/sessions/{session_id}"): PATH | {404},
    ("post", "/v1/sessions/{session_id}:merge"): BODY,
    ("delete", "/v1/sessions/{session_id}"): PATH,
    ("delete", "/v1/users/{user_id}"): PATH,
    ("get", "/v1/items/{item_id}/similar"): PATH | {404},
    ("get", "/v1/items:popular"): PATH,
    ("get", "/v1/items"): PATH,
    ("post", "/v1/items/{item_id}/explanation"): BODY | {409},
    ("get", "/v1/items/{item_id}"): PATH | {404},
    ("patch", "/v1/items/{item_id}"): BODY | {409},
    ("delete", "/v1/items/{item_id}"): PATH | {404},
    ("post", "/v1/items:batch"): BODY,
    ("get", "/v1/scenarios"): ADMISSION,
    ("get", "/v1/scenarios/{name}"): PATH | {404},
    ("put", "/v1/scenarios/{name}"): BODY | {409, 412},
    ("delete", "/v1/scenarios/{name}"): PATH | {404, 412},
    ("get", "/v1/metrics/online"): PATH,
    ("get", "/v1/bundles"): ADMISSION | {409},
    ("get", "/v1/bundles/{digest}"): PATH | {404, 409},
    ("get", "/v1/bundles/{digest}/data"): PATH | {404, 409},
    ("post", "/v1/bundles/{digest}/recommendations"): BODY | {404, 409},
    ("post", "/v1/bundles/{digest}:activate"): BODY | {404, 409, 412},
    ("post", "/v1/bundles:rollback"): BODY | {404, 409, 412},
    ("post", "/v1/bundles/{digest}:protect"): BODY | {404, 409, 412},
    ("post", "/v1/bundles/{digest}:remove"): BODY | {404, 409, 412},
    ("get", "/v1/audit"): PATH | {404},
    ("get", "/v1/metrics/live"): PATH,
    ("get", "/v1/metrics/exposure"): PATH,
    ("get", "/v1/items:unseen"): PATH,
    ("post", "/v1/jobs"): BODY | {404, 409},
    ("get", "/v1/jobs"): PATH | {404},
    ("get", "/v1/jobs/{job_id}"): PATH | {404},
    ("post", "/v1/jobs/{job_id}:cancel"): PATH | {404, 409},
    ("get", "/v1/version"): ADMISSION,
    ("get", "/health/live"): set(),
    ("get", "/health/ready"): {500, 503},
    ("get", "/metrics"): set(),
}


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (method, path), operation


def test_every_endpoint_documents_the_problems_it_may_answer(document: dict[str, Any]) -> None:
    documented = {
        endpoint: {int(status) for status in operation["responses"] if int(status) >= 400}
        for endpoint, operation in operations(document)
    }
    assert documented == {endpoint: statuses | CONNECTION for endpoint, statuses in ENDPOINTS.items()}
    assert all(operation["description"] for _, operation in operations(document))


def test_every_error_response_is_a_problem_document_with_an_example(document: dict[str, Any]) -> None:
    for _, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                content = response["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
                assert all(example["value"]["status"] == int(status) for example in content["examples"].values())


def test_every_schema_reference_is_defined(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    schemas = document["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(document)} <= set(schemas)
    assert "HTTPValidationError" not in schemas


def bodies(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[Any]:
    """Yield the examples of a request body, or those of each schema that it may have."""
    for alternative in schema.get("oneOf", [schema]):
        yield from schemas[alternative["$ref"].removeprefix("#/components/schemas/")]["examples"]


def test_every_request_body_has_examples_that_are_accepted(
    document: dict[str, Any], tmp_path: Path, valkey: str
) -> None:
    retired, _ = publish_shop(tmp_path, seed=1), publish_shop(tmp_path)
    staged = publish_shop(tmp_path, seed=2, make_live=False)
    with opened(tmp_path, valkey) as client:
        for (method, path), operation in operations(document):
            if "requestBody" not in operation:
                continue
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            for body in bodies(schema, document["components"]["schemas"]):
                url = path.format(
                    session_id="visitor-1",
                    item_id="item-17",
                    name="homepage",
                    digest=staged if path.endswith(":remove") else retired,
                    recommendation_id=recommend(client, items=["item-1"])["recommendation_id"],
                )
                assert client.request(method, url, json=body).status_code in (200, 202), (path, body)


def test_parameters_have_examples_or_limits(document: dict[str, Any]) -> None:
    for _, operation in operations(document):
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            assert parameter.get("examples") or schema.get("examples") or schema.get("description"), parameter
