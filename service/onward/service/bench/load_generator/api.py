"""The HTTP interface of a server under test: how to write a request and how to judge a response."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

NOT_DEGRADED = b'"degraded":[]'


class Api(Protocol):
    """Writes requests and checks responses. Sent to the load generator's process, so it must be picklable."""

    def request(self, session_id: str, item_id: str) -> bytes:
        """Return a complete HTTP/1.1 keep-alive request, headers and body, for one click on an item."""
        ...

    def fault(self, status: int, body: bytes) -> str | None:
        """Return what is wrong with a response, None if it is good."""
        ...


@dataclass(frozen=True, slots=True)
class Onward:
    """This service: one call appends the item to its session and returns recommendations."""

    k: int = 20
    filter: dict[str, Any] | None = None
    host: str = "localhost"
    key: str | None = None

    def request(self, session_id: str, item_id: str) -> bytes:
        """Return a POST to /v1/recommendations."""
        query: dict[str, Any] = {"session_id": session_id, "items": [item_id], "k": self.k}
        if self.filter is not None:
            query["filter"] = self.filter
        return post("/v1/recommendations", self.host, json.dumps(query).encode(), self.key)

    def fault(self, status: int, body: bytes) -> str | None:
        """Return what is wrong: any status but 200, or a degraded answer (one made without the stored session)."""
        if status != 200:
            return f"status {status}"
        return None if NOT_DEGRADED in body else "degraded"


def post(path: str, host: str, body: bytes, key: str | None = None) -> bytes:
    """Return an HTTP/1.1 POST request with a JSON body; `key` is sent as a bearer token."""
    authorization = "" if key is None else f"Authorization: Bearer {key}\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
