"""In the OpenAPI document every body has an example that is valid, and every link leads to an endpoint."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from starlette.testclient import TestClient

from onward.service.http.openapi import SCHEMAS, example_of


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the content of every request and response, with its location."""
    for place, operation in operations(document):
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{place} {kind}", content
        for status, answer in operation["responses"].items():
            for kind, content in answer.get("content", {}).items():
                yield f"{place} {status} {kind}", content


def examples(content: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Return the examples of a body, or those of each schema that it may have."""
    if "examples" in content:
        return [example["value"] for example in content["examples"].values()]
    if "example" in content:
        return [content["example"]]
    schema_examples = []
    for schema in content["schema"].get("oneOf", [content["schema"]]):
        schema_examples += document["components"]["schemas"][schema["$ref"].removeprefix(SCHEMAS)]["examples"]
    return schema_examples


def test_every_body_has_examples_that_match_its_schema(document: dict[str, Any]) -> None:
    for place, content in bodies(document):
        body_examples = examples(content, document)
        assert body_examples, place
        if "schema" in content:
            validator = jsonschema_rs.Draft202012Validator(
                content["schema"] | {"components": document["components"]}, validate_formats=True
            )
            for example in body_examples:
                assert not [error.message for error in validator.iter_errors(example)], (place, example)


def test_the_example_of_a_207_contains_a_failure(document: dict[str, Any]) -> None:
    partial_examples = {
        place: operation["responses"]["207"]["content"]["application/json"]["example"]
        for place, operation in operations(document)
        if "207" in operation["responses"]
    }
    assert partial_examples.keys() == {"post /v1/events", "post /v1/items:batch", "post /v1/recommendations:batch"}
    assert all(example.get("rejected") or example.get("failed") for example in partial_examples.values())


def test_every_link_leads_to_an_endpoint_with_the_parameters_it_requires(document: dict[str, Any]) -> None:
    endpoints = {operation["operationId"]: operation for _, operation in operations(document)}
    links = [
        link
        for operation in endpoints.values()
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    for link in links:
        endpoint = endpoints[link["operationId"]]
        names = {parameter["name"] for parameter in endpoint.get("parameters", [])}
        required = {parameter["name"] for parameter in endpoint.get("parameters", []) if parameter["required"]}
        assert required <= link.get("parameters", {}).keys() <= names, link
    linked = {link["operationId"] for link in links}
    assert linked >= {"recommend_more", "explain", "record_events", "read_session", "show_scenario", "show_item"}


def test_no_parameter_is_nullable(document: dict[str, Any]) -> None:
    for place, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert {"type": "null"} not in parameter["schema"].get("anyOf", []), (place, parameter["name"])


def test_an_example_is_composed_of_required_fields_and_fields_with_examples() -> None:
    schemas = {"Part": {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": ["a", "b"]}}}}
    schema = {
        "type": "object",
        "required": ["parts", "flag"],
        "properties": {
            "parts": {"type": "array", "items": {"$ref": f"{SCHEMAS}Part"}},
            "flag": {"anyOf": [{"const": True}, {"type": "null"}]},
            "shown": {"type": "integer", "examples": [3, 4]},
            "left_out": {"type": "string"},
        },
    }
    assert example_of(schema, schemas) == {"parts": [{"kind": "a"}], "flag": True, "shown": 3}
    with pytest.raises(LookupError, match="no example of"):
        example_of({"type": "string"}, schemas)
