"""Ids in paths: a percent-encoded slash is part of an id, a plain slash ends it."""

import re
from urllib.parse import unquote

from starlette.convertors import Convertor
from starlette.types import ASGIApp, Receive, Scope, Send

_KEPT = re.compile("%(25|2F)", re.IGNORECASE)


class EncodedSlashes:
    """Decode paths for routing, except for `%2F` and `%25`, so that an encoded slash does not separate segments."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the ASGI application."""
        if scope["type"] == "http" and b"%" in scope["raw_path"]:
            scope["path"] = unquote(_KEPT.sub(r"%25\1", scope["raw_path"].decode("ascii").replace("%2f", "%2F")))
        await self._app(scope, receive, send)


class IdConvertor(Convertor[str]):
    """A path segment that holds an id, as in `{item_id:id}`."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Decode `%2F` and `%25`, which `EncodedSlashes` left encoded."""
        return value.replace("%2F", "/").replace("%25", "%")

    def to_string(self, value: str) -> str:
        """Encode slashes and percent signs."""
        return value.replace("%", "%25").replace("/", "%2F")
