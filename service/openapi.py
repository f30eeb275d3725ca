"""What the framework's OpenAPI document cannot know: the problems' schema, and the keys that callers are asked for."""

from typing import Any

from service.errors import Problem

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
