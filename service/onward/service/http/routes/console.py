"""The console: static pages that hold no data; in the browser they call the API with the key that a person enters."""

import mimetypes
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

FOLDER = Path(str(files("onward.service"))) / "console"
CONSOLE_PATH = "/console"
INDEX = "index.html"

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-cache",  # kept by the browser, but asked for again by its ETag: an upgrade shows at once
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ConsoleFile:
    """One file of the console, kept in memory; 304 for a browser that has it."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._type = mimetypes.guess_type(path.name)[0]
        self._etag = f'W/"{sha256(self._content).hexdigest()[:16]}"'  # weak: compressed or not, it is the same file

    async def __call__(self, request: Request) -> Response:
        """Answer GET."""
        headers = {**HEADERS, "ETag": self._etag}
        if self._etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self._content, media_type=self._type, headers=headers)


class ConsoleRoute(Route):
    """A path of the console."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; metrics count all files of the console as one route."""
        scope["route"] = ROUTES[0]
        await super().handle(scope, receive, send)


async def _to_folder(_request: Request) -> Response:
    """Redirect to the path with a slash, relative to which the page names its files, also behind a proxy's prefix."""
    return RedirectResponse(f"{CONSOLE_PATH[1:]}/", status_code=308)


def _routes() -> list[ConsoleRoute]:
    paths = {file.relative_to(FOLDER).as_posix(): file for file in sorted(FOLDER.rglob("*.*")) if file.is_file()}
    routes = [ConsoleRoute(f"{CONSOLE_PATH}/{path}", ConsoleFile(file).__call__) for path, file in paths.items()]
    index = ConsoleRoute(f"{CONSOLE_PATH}/", ConsoleFile(FOLDER / INDEX).__call__)
    return [ConsoleRoute(CONSOLE_PATH, _to_folder), index, *routes]


ROUTES: Sequence[ConsoleRoute] = _routes()
CONSOLE_PATHS = frozenset(route.path for route in ROUTES)
"""Every path of the console; a browser asks for them without a key."""
