"""What the framework's OpenAPI document cannot know: the problems of an endpoint, and the keys that callers need."""

from typing import Any

from service.errors import Problem, ServiceError

GUARDED = "/v1/"
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of this deployment."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, by itself."},
}


def complete(document: dict[str, Any], *, asks_for_keys: bool) -> None:
    """Add to a document, in place; an operation asks for a key only where the deployment has some."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    document["components"]["schemas"] |= {**schema.pop("$defs"), "Problem": schema}
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    if asks_for_keys:
        for path, operations in document["paths"].items():
            if path.startswith(GUARDED):
                for operation in operations.values():
                    operation["security"] = [{name: []} for name in SECURITY_SCHEMES]


def problems(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Document the problems that an endpoint may answer with, for OpenAPI."""
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
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {error.code: {"value": example}}}
        if error.status in described:
            described[error.status]["description"] += f"; {error.title}"
            described[error.status]["content"]["application/problem+json"]["examples"] |= content["examples"]
        else:
            described[error.status] = {
                "description": error.title,
                "content": {"application/problem+json": content},
            }
        for header, meaning in error.sends.items():
            sent = {"description": meaning, "schema": {"type": "string"}}
            described[error.status].setdefault("headers", {})[header] = sent
    return described
