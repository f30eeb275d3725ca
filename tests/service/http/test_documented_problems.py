"""What is refused before an endpoint is known, or for its key, is documented for every endpoint, and looks so."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import pytest

from tests.service.http.test_scopes import line
from tests.service.process import ServiceProcess

LIMITS = {
    "SERVICE_MAX_URL": "1024",
    "SERVICE_MAX_HEADERS": "8192",
    "SERVICE_MAX_BODY": "4096",
    "SERVICE_HEAD_TIMEOUT": "1",
    "SERVICE_BODY_TIMEOUT": "0.5",
}
HEAD = b"Host: x\r\nX-API-Key: all\r\n"
JSON = HEAD + b"Content-Type: application/json\r\n"
REFUSED: dict[str, tuple[int, bytes, bytes]] = {
    "malformed_request": (400, b"", b"No header\r\n\r\n"),
    "missing_key": (401, b"", b"Host: x\r\n\r\n"),
    "wrong_key": (403, b"", b"Host: x\r\nX-API-Key: wrong\r\n\r\n"),
    "missing_scope": (403, b"", b"Host: x\r\nX-API-Key: metrics\r\n\r\n"),
    "head_too_slow": (408, b"", b"Host: x\r\n"),
    "body_too_slow": (408, b"", JSON + b"Content-Length: 100\r\n\r\n{"),
    "body_too_large": (413, b"", JSON + b"Content-Length: 5000\r\n\r\n"),
    "url_too_long": (414, b"?" + b"x" * 2_000, HEAD + b"\r\n"),
    "headers_too_large": (431, b"", HEAD + b"X-Long: " + b"x" * 10_000 + b"\r\n\r\n"),
}
OF_A_KEY = {"missing_key", "wrong_key", "missing_scope"}


@pytest.fixture(scope="module")
def service(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    keys = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    keys.write_text("\n".join([line("all"), line("metrics", "metrics")]))
    environment = {**LIMITS, "SERVICE_KEYS_FILE": str(keys), "REDIS_URL": "memory://"}
    with ServiceProcess(bundles, environment=environment) as process:
        yield process.wait_until_ready()


@pytest.fixture(scope="module")
def document(service: ServiceProcess) -> dict[str, Any]:
    with service.client() as client:
        described: dict[str, Any] = client.get("/openapi.json").json()
    return described


def answer(service: ServiceProcess, request: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes and return the status and the body of the first answer."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as received:
            status = int(received.readline().split()[1])
            length = 0
            while (header := received.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            return status, json.loads(received.read(length))


@pytest.mark.parametrize("code", REFUSED)
def test_every_endpoint_documents_what_any_request_may_meet(
    service: ServiceProcess, document: dict[str, Any], code: str
) -> None:
    status, query, rest = REFUSED[code]
    problem: dict[str, Any]
    actual, problem = answer(service, b"POST /v1/events" + query + b" HTTP/1.1\r\n" + rest)
    assert (actual, problem["code"]) == (status, code)
    schemas = document["components"]
    validator = jsonschema_rs.Draft202012Validator({"$ref": "#/components/schemas/Problem", "components": schemas})
    validator.validate(problem)
    for path, operations in document["paths"].items():
        if code in OF_A_KEY and not path.startswith("/v1/"):
            continue
        for method, operation in operations.items():
            examples = operation["responses"][str(status)]["content"]["application/problem+json"]["examples"]
            assert examples[code]["value"]["title"] == problem["title"], (method, path)
