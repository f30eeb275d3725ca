"""Write the types of the clients from the OpenAPI document: `make client-types`.

Each client has the types of the operations that it calls, without what only documentation needs. Other operations may
change without a change of the clients.
"""

import json
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from onward.service.app import create_app
from onward.service.http.openapi import SCHEMAS
from onward.service.settings import IN_MEMORY, Settings

ROOT = Path(__file__).parents[1]
GENERATORS = ROOT / "build" / "generators" / "bin"
"""Programs of requirements/generators.lock; `make clients` installs them."""
NPM = ROOT / "clients" / "typescript" / "node_modules" / ".bin"
PYTHON_TYPES = ROOT / "clients" / "python" / "src" / "onward_client" / "schemas.py"
TYPESCRIPT_TYPES = ROOT / "clients" / "typescript" / "src" / "schemas.ts"

BROWSER_OPERATIONS = frozenset(
    {"recommend", "recommend_more", "similar_items", "popular_items", "record_events", "merge_session"}
)
OPERATIONS = BROWSER_OPERATIONS | {
    "recommend_for_many",
    "explain",
    "read_session",
    "delete_session",
    "erase_user",
    "show_item",
    "change_item",
    "delete_item",
    "change_items",
    "list_scenarios",
    "show_scenario",
    "store_scenario",
    "delete_scenario",
    "show_online_metrics",
    "show_version",
}
PROBLEM = "Problem"
DOCUMENTATION = ("examples", "example", "links", "security", "title")
CONSTRAINTS = (
    *("format", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"),
    *("minProperties", "maxProperties", "propertyNames"),
)


def write_python_types(path: Path) -> None:
    """Write a TypedDict for each schema of the operations that the Python client calls."""
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "openapi.json"
        document.write_text(json.dumps(part(openapi(), OPERATIONS)))
        style = ["--output-model-type", "typing.TypedDict", "--target-python-version", "3.11", "--use-union-operator"]
        texts = ["--use-field-description", "--use-schema-description", "--disable-timestamp", "--formatters", "black"]
        source = ["--input", str(document), "--input-file-type", "openapi", "--output", str(path)]
        subprocess.run([GENERATORS / "datamodel-codegen", *source, *style, *texts], check=True)


def write_typescript_types(path: Path) -> None:
    """Write the types of the operations that the TypeScript client calls."""
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "openapi.json"
        document.write_text(json.dumps(part(openapi(), BROWSER_OPERATIONS)))
        subprocess.run(
            [NPM / "openapi-typescript", document, "--output", path, "--root-types", "--root-types-no-schema-prefix"],
            check=True,
            capture_output=True,
        )


def openapi() -> dict[str, Any]:
    """Return the document of a service without a bundle."""
    with tempfile.TemporaryDirectory() as bundles:
        return create_app(Settings(bundles=Path(bundles), redis_url=SecretStr(IN_MEMORY))).openapi()


def part(document: dict[str, Any], operations: Collection[str]) -> dict[str, Any]:
    """Return a document of some operations, their answers other than problems, and the schemas that these use."""
    paths: dict[str, Any] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["operationId"] in operations:
                answers = {status: answer for status, answer in operation["responses"].items() if status < "300"}
                paths.setdefault(path, {})[method] = operation | {"responses": answers}
    schemas = document["components"]["schemas"]
    wanted = {PROBLEM}
    found = [*references(paths), *references(schemas[PROBLEM])]
    while found:
        if (name := found.pop()) not in wanted:
            wanted.add(name)
            found += references(schemas[name])
    components = {"schemas": {name: schema for name, schema in schemas.items() if name in wanted}}
    reduced: dict[str, Any] = without_words(document | {"paths": paths, "components": components})
    return reduced


def references(node: Any) -> Iterator[str]:
    """Yield the names of the schemas that a part of the document refers to."""
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference.removeprefix(SCHEMAS)
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def without_words(node: Any, *, are_names: bool = False) -> Any:
    """Leave out what types do not depend on; `are_names` for an object whose names are those of fields or schemas.

    Whether a caller may send further fields is left out too: an answer may get some within this version.
    """
    if isinstance(node, dict):
        return {
            name: _without_description(value)
            if name == "items" and not are_names
            else without_words(value, are_names=not are_names and name in ("properties", "schemas", "paths"))
            for name, value in node.items()
            if are_names
            or not (name in DOCUMENTATION + CONSTRAINTS or (name, value) == ("additionalProperties", False))
        }
    return [without_words(value) for value in node] if isinstance(node, list) else node


def _without_description(schema: Any) -> Any:
    """Leave out what describes an entry of a list, of which a generator would make a type of its own."""
    return {word: value for word, value in without_words(schema).items() if word != "description"}


if __name__ == "__main__":
    write_python_types(PYTHON_TYPES)
    write_typescript_types(TYPESCRIPT_TYPES)
