"""Additions to the framework's OpenAPI document.

Problems of each endpoint, security schemes, an example of each answer, and links from an answer to other operations.
Defaults become words: generated clients send a declared default, and so would override that of a scenario.
"""

import json
from collections.abc import Mapping
from typing import Any

from fastapi.routing import APIRoute

from onward.service.errors import (
    BodyTooLarge,
    BodyTooSlow,
    HeadersTooLarge,
    HeadTooSlow,
    MalformedRequest,
    ServiceError,
    URLTooLong,
)
from onward.service.http.problems import Problem
from onward.service.http.scopes import SCOPE_OF

GUARDED = "/v1/"
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of this deployment."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, without a scheme."},
}
JSON = "application/json"
NULL = {"type": "null"}
PARTIAL = "207"
"""Status of a list if some of its entries failed; the schema's last example shows it."""
SCHEMAS = "#/components/schemas/"

_ANSWER, _SESSION, _ITEM = (
    {name: f"$response.body#/{place}"}
    for name, place in (
        ("recommendation_id", "recommendation_id"),
        ("session_id", "session_id"),
        ("item_id", "items/0/id"),
    )
)
_SAME_SESSION, _SAME_ITEM, _SAME_NAME = ({name: f"$request.path.{name}"} for name in ("session_id", "item_id", "name"))
_EVENT = {"type": "view", **_ANSWER, **_SESSION, **_ITEM}
_AFTER_ANSWER = {
    "next page": {"operationId": "recommend_more", "parameters": _ANSWER},
    "explanation": {"operationId": "explain", "parameters": _ANSWER},
    "click": {"operationId": "record_events", "requestBody": _EVENT},
    "session": {"operationId": "read_session", "parameters": _SESSION},
    "similar items": {"operationId": "similar_items", "parameters": _ITEM},
}
_AFTER_ITEM = {
    name: {"operationId": operation, "parameters": _SAME_ITEM}
    for name, operation in (("item", "show_item"), ("similar items", "similar_items"), ("deletion", "delete_item"))
}
_EVENT_SESSION = {"session_id": "$request.body#/session_id"}
LINKS: Mapping[str, Mapping[str, Any]] = {
    "recommend": _AFTER_ANSWER,
    "recommend_for_session": _AFTER_ANSWER,
    "recommend_more": _AFTER_ANSWER,
    "record_events": {
        "session": {"operationId": "read_session", "parameters": _EVENT_SESSION},
        "recommendations": {
            "operationId": "recommend_for_session",
            "parameters": _EVENT_SESSION | {"position": "$response.body#/position"},
        },
    },
    "read_session": {
        "recommendations": {
            "operationId": "recommend_for_session",
            "parameters": _SAME_SESSION | {"position": "$response.body#/position"},
        },
        "merge": {"operationId": "merge_session", "parameters": _SAME_SESSION},
        "deletion": {"operationId": "delete_session", "parameters": _SAME_SESSION},
    },
    "merge_session": {"session": {"operationId": "read_session", "parameters": _SESSION}},
    "delete_session": {"session": {"operationId": "read_session", "parameters": _SAME_SESSION}},
    "popular_items": {"similar items": {"operationId": "similar_items", "parameters": _ITEM}},
    "show_item": _AFTER_ITEM,
    "change_item": _AFTER_ITEM,
    "delete_item": {"item": {"operationId": "show_item", "parameters": _SAME_ITEM}},
    "change_items": {"item": {"operationId": "show_item", "parameters": {"item_id": "$response.body#/results/0/id"}}},
    "store_scenario": {
        "scenario": {"operationId": "show_scenario", "parameters": _SAME_NAME},
        "deletion": {
            "operationId": "delete_scenario",
            "parameters": _SAME_NAME | {"if-match": "$response.header.ETag"},
        },
    },
    "list_scenarios": {
        "scenario": {"operationId": "show_scenario", "parameters": {"name": "$response.body#/scenarios/0/name"}}
    },
    "delete_scenario": {"scenario": {"operationId": "show_scenario", "parameters": _SAME_NAME}},
}
"""Links from an answer to other operations, by operation id."""

CONNECTION_PROBLEMS = (MalformedRequest, HeadTooSlow, BodyTooSlow, BodyTooLarge, URLTooLong, HeadersTooLarge)
"""What any request may be answered before its endpoint is known."""


def operation_id(route: APIRoute) -> str:
    """Return the id of an operation, after which generated clients name their methods."""
    return route.name


def complete(document: dict[str, Any], *, asks_for_keys: bool) -> None:
    """Complete the document in place; operations name the scope of their key only if the deployment has keys."""
    schema = Problem.model_json_schema(ref_template=f"{SCHEMAS}{{model}}", mode="serialization")
    schemas = document["components"]["schemas"]
    schemas |= {**schema.pop("$defs"), "Problem": schema}
    for model in schemas.values():
        for field in model.get("properties", {}).values():
            _say_default(field, field)
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if asks_for_keys and path.startswith(GUARDED):
                scope = SCOPE_OF[operation["operationId"]]
                operation["security"] = [{name: [scope]} for name in SECURITY_SCHEMES]
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
                _say_default(parameter["schema"], parameter)
            _add_responses(operation["responses"], problems(*CONNECTION_PROBLEMS))
            for status, answer in operation["responses"].items():
                if status.startswith("2"):
                    _complete_response(answer, LINKS.get(operation["operationId"]), status == PARTIAL, schemas)


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], *, which: int = 0) -> Any:
    """Return one of a schema's examples, or compose one from the examples of its fields.

    An optional field without an example is left out. Raises LookupError if a required field has none.
    """
    for examples in ("examples", "enum"):
        if examples in schema:
            return schema[examples][which]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(SCHEMAS)], schemas, which=which)
    if "const" in schema:
        return schema["const"]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas)
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas)]
    if schema.get("type") == "object":
        required = schema.get("required", ())
        return {
            name: example_of(field, schemas)
            for name, field in schema.get("properties", {}).items()
            if name in required or "examples" in field
        }
    raise LookupError(f"no example of {schema}")


def problems(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for the problems that an endpoint may answer."""
    described: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        example = {
            "type": f"/problems/{error.code}",
            "title": error.title,
            "status": error.status,
            "detail": error.title,
            "code": error.code,
            "request_id": "4f0c2a9e6b1d4c7f8e3a5d2b1c0f9e8d",
        }
        content = {"schema": {"$ref": f"{SCHEMAS}Problem"}, "examples": {error.code: {"value": example}}}
        if error.status in described:
            described[error.status]["description"] += f"; {error.title}"
            described[error.status]["content"]["application/problem+json"]["examples"] |= content["examples"]
        else:
            described[error.status] = {
                "description": error.title,
                "content": {"application/problem+json": content},
            }
        for header, description in error.response_headers.items():
            header_object = {"description": description, "schema": {"type": "string"}}
            described[error.status].setdefault("headers", {})[header] = header_object
    return described


def _add_responses(responses: dict[str, Any], added: Mapping[int | str, Any]) -> None:
    """Add responses to those of an operation, to those of the same status as further examples."""
    for status, response in added.items():
        existing = responses.setdefault(str(status), response)
        examples = existing["content"]["application/problem+json"]["examples"]
        for code, example in response["content"]["application/problem+json"]["examples"].items():
            if code not in examples:
                examples[code] = example
                existing["description"] += f"; {example['value']['title']}"


def _complete_response(
    answer: dict[str, Any], links: Mapping[str, Any] | None, is_partial: bool, schemas: Mapping[str, Any]
) -> None:
    if links is not None:
        answer["links"] = dict(links)
    if (body := answer.get("content", {}).get(JSON)) is not None:
        body.setdefault("example", example_of(body["schema"], schemas, which=-1 if is_partial else 0))


def _say_default(schema: dict[str, Any], described: dict[str, Any]) -> None:
    """Move the default of a schema into a description; one that is null or empty says no more than its absence."""
    if (default := schema.pop("default", None)) not in (None, [], {}):
        described["description"] = f"{described.get('description', '')} By default {json.dumps(default)}.".lstrip()


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove null from a parameter's schema: nothing in a path, a query string or a header can be null."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", ()) if kind != NULL]
    if len(kinds) != 1:
        return schema | {"anyOf": kinds} if kinds else schema
    return kinds[0] | {word: value for word, value in schema.items() if word != "anyOf"}
