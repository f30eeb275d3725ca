"""CORS: which scripts of other origins may call the service from a browser, and the events that their beacons send."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Scope

from onward.service.http.path_ids import route_path

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
REQUEST_HEADERS = ("Authorization", "Content-Type", "Content-Encoding", "If-Match", "X-API-Key", "X-Request-ID")
RESPONSE_HEADERS = ("ETag", "Location", "Retry-After", "X-Request-ID")
MAX_AGE_S = 3_600


class CORS:
    """The rules of starlette's CORSMiddleware, for requests that do not pass through ASGI. Off without origins."""

    def __init__(self, origins: Sequence[str], *, beacon_paths: Sequence[str]) -> None:
        """Allow origins.

        Args:
            origins: as in https://shop.example; "*" for all.
            beacon_paths: paths of which JSON is accepted from these origins although it is declared as text, as by
                `navigator.sendBeacon`: a browser sends such a request without asking first.
        """
        self.is_on = bool(origins)
        self._beacon_paths = frozenset(beacon_paths)
        self._rules = None
        if origins:
            self._rules = CORSMiddleware(
                app=_unused,
                allow_origins=origins,
                allow_methods=METHODS,
                allow_headers=REQUEST_HEADERS,
                expose_headers=RESPONSE_HEADERS,
                max_age=MAX_AGE_S,
            )

    def preflight(self, scope: Scope) -> Response | None:
        """Return the response if the request is a browser's question whether another request is allowed."""
        if self._rules is None:
            return None
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers:
            return self._rules.preflight_response(headers)
        if route_path(scope) in self._beacon_paths and self._allows(headers.get("origin")):
            _accept_text_as_json(scope)
        return None

    def complete(self, scope: Scope, response: Response) -> None:
        """Add the headers with which a browser lets the calling script read the response."""
        if self._rules is None:
            return
        origin = Headers(scope=scope).get("origin")
        if self._allows(origin):
            response.headers.update(self._rules.simple_headers)
            if origin is not None and not self._rules.allow_all_origins:
                response.headers["Access-Control-Allow-Origin"] = origin
        response.headers.add_vary_header("Origin")

    def _allows(self, origin: str | None) -> bool:
        return self._rules is not None and origin is not None and self._rules.is_allowed_origin(origin=origin)


def _accept_text_as_json(scope: Scope) -> None:
    scope["headers"] = [
        (name, b"application/json" if name == b"content-type" and value.startswith(b"text/plain") else value)
        for name, value in scope["headers"]
    ]


async def _unused(*_: object) -> None:
    """Stand in for the application of a middleware that is not run."""
