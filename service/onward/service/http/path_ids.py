"""Ids in paths: a percent-encoded slash is part of an id, a plain slash ends it."""

import re
from urllib.parse import unquote

from starlette.convertors import Convertor, StringConvertor
from starlette.types import Scope

_KEPT = re.compile("%(25|2F)", re.IGNORECASE)


def decoded_path(raw_path: bytes) -> str:
    """Decode a path for routing, except for `%2F` and `%25`, so that an encoded slash does not separate segments."""
    return unquote(_KEPT.sub(r"%25\1", raw_path.decode("ascii").replace("%2f", "%2F")))


def route_path(scope: Scope) -> str:
    """Return the path of a request without the prefix that a proxy had removed and the server put back."""
    path: str = scope["path"]
    return path.removeprefix(root_path) if (root_path := scope.get("root_path")) else path


class IdConvertor(Convertor[str]):
    """A path segment that holds an id, as in `{item_id:id}`."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Decode `%2F` and `%25`, which `decoded_path` left encoded."""
        return value.replace("%2F", "/").replace("%25", "%")

    def to_string(self, value: str) -> str:
        """Encode slashes and percent signs."""
        return value.replace("%", "%25").replace("/", "%2F")


class WordConvertor(StringConvertor):
    """A part of a path without a colon, which begins the name of an action, as in `/v1/jobs/JOB:cancel`."""

    regex = "[^/:]+"
