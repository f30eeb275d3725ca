"""The OpenAPI document has the form that generators of clients understand; `tests/clients` runs two of them."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from starlette.testclient import TestClient

from onward.service.http.openapi import SCHEMAS

COMBINATORS = {"allOf", "anyOf", "oneOf", "if", "then", "else"}


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def schemas(document: dict[str, Any]) -> dict[str, Any]:
    components: dict[str, Any] = document["components"]["schemas"]
    return components


def objects(node: Any, *path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema with fields, with its location."""
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield "/".join(path), node
        for name, value in node.items():
            if name not in ("examples", "example", "not"):  # a generator makes no class of what must not be
                yield from objects(value, *path, name)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from objects(value, *path, str(number))


def test_every_model_has_one_schema_with_a_name_for_a_class(document: dict[str, Any]) -> None:
    assert [name for name in schemas(document) if not re.fullmatch(r"[A-Z][A-Za-z]+", name)] == []


def test_no_model_is_named_as_one_of_its_fields_that_needs_parsing(document: dict[str, Any]) -> None:
    """openapi-python-client gives an object and such a field variables of the same name."""
    for name, schema in schemas(document).items():
        variable = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        field = schema.get("properties", {}).get(variable, {"type": "string"})
        assert field.get("type") in ("string", "number", "integer", "boolean"), name


def test_no_combinator_stands_beside_fields(document: dict[str, Any]) -> None:
    found = list(objects(document))
    assert len(found) > 40
    assert {place: COMBINATORS & schema.keys() for place, schema in found if COMBINATORS & schema.keys()} == {}


def test_no_default_is_declared_since_clients_would_send_it(document: dict[str, Any]) -> None:
    fields = [field for _, schema in objects(document) for field in schema["properties"].values()]
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    parameters = [parameter for operation in operations for parameter in operation.get("parameters", ())]
    assert not any("default" in schema for schema in [*fields, *(parameter["schema"] for parameter in parameters)])
    assert schemas(document)["RecommendationQuery"]["properties"]["k"]["description"].endswith("By default 20.")
    windows = [parameter for parameter in parameters if parameter["name"] == "window"]
    assert windows
    assert all(re.search(r'By default "P\w+"\.$', window["description"]) for window in windows)


def test_every_operation_has_an_id_of_its_own_that_can_name_a_function(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", operation_id) for operation_id in ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("body", "is_accepted"),
    [
        ({"session_id": "a"}, True),
        ({"user_id": "a"}, True),
        ({"items": ["a"]}, True),
        ({"session_id": "a", "position": "0-1"}, True),
        ({"items": ["a"], "position": None}, True),
        ({}, False),
        ({"k": 3, "session_id": None, "items": []}, False),
        ({"items": ["a"], "position": "0-1"}, False),
        ({"items": ["a"], "position": "0-1", "session_id": None}, False),
    ],
)
def test_the_schema_is_as_strict_as_the_service_about_what_a_query_is_for(
    client: TestClient, document: dict[str, Any], body: dict[str, Any], is_accepted: bool
) -> None:
    schema = {"$ref": f"{SCHEMAS}RecommendationQuery", "components": document["components"]}
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(body) == is_accepted
    status = client.post("/v1/recommendations", json=body).status_code
    assert status in ((200, 409) if is_accepted else (422,))  # 409: no session is as far as that position
