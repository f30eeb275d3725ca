"""Ids in addresses: an encoded slash is part of an id, a plain one ends it."""

import re
from urllib.parse import unquote

from starlette.convertors import Convertor
from starlette.types import ASGIApp, Receive, Scope, Send

_KEPT = re.compile("%(25|2F)", re.IGNORECASE)


class EncodedSlashes:
    """Route by a path that is decoded but for its encoded slashes, and the percent signs that tell these apart."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, by ASGI."""
        if scope["type"] == "http" and b"%" in scope["raw_path"]:
            scope["path"] = unquote(_KEPT.sub(r"%25\1", scope["raw_path"].decode("ascii").replace("%2f", "%2F")))
        await self._app(scope, receive, send)


class IdConvertor(Convertor[str]):
    """An id in a route's pattern, as in `{item_id:id}`: whatever stands between two slashes."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Decode what was left encoded."""
        return value.replace("%2F", "/").replace("%25", "%")

    def to_string(self, value: str) -> str:
        """Encode it again."""
        return value.replace("%", "%25").replace("/", "%2F")
