"""How a server is asked for what comes next, and what is wrong with its answers."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

DEGRADED = b'"degraded":[]'


class Api(Protocol):
    """A server's interface. It goes to the generator's process, so it can be pickled."""

    def request(self, session_id: str, item_id: str) -> bytes:
        """One whole HTTP/1.1 request, headers and body, on a connection that is kept: a visitor clicked an item."""
        ...

    def fault(self, status: int, body: bytes) -> str | None:
        """Name what is wrong with an answer, None where it is good."""
        ...


@dataclass(frozen=True, slots=True)
class Onward:
    """The interface of this service: the item is appended to its session, and answered in the same call."""

    k: int = 20
    filter: dict[str, Any] | None = None
    host: str = "localhost"
    key: str | None = None

    def request(self, session_id: str, item_id: str) -> bytes:
        """POST /v1/recommendations."""
        query: dict[str, Any] = {"session_id": session_id, "items": [item_id], "k": self.k}
        if self.filter is not None:
            query["filter"] = self.filter
        return post("/v1/recommendations", self.host, json.dumps(query).encode(), self.key)

    def fault(self, status: int, body: bytes) -> str | None:
        """Any status but 200, and an answer that went without its session."""
        if status != 200:
            return f"status {status}"
        return None if DEGRADED in body else "degraded"


def post(path: str, host: str, body: bytes, key: str | None = None) -> bytes:
    """Write a POST of JSON."""
    authorization = "" if key is None else f"Authorization: Bearer {key}\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
