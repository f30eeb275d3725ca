"""The page of the API for people, /docs, whose files are served from here: a browser asks no other host."""

import asyncio
import gzip
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import fastapi_offline
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from onward.service.http.content_coding import accepts_gzip
from onward.service.http.routes.console import CONSOLE_PATH

DOCS_PATH, OPENAPI_PATH, ROOT_PATH = "/docs", "/openapi.json", "/"
FOLDER = Path(str(files(fastapi_offline))) / "static"
TYPES = MappingProxyType(
    {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
)
KEPT = {"Cache-Control": "public, max-age=86400"}


async def show_docs(request: Request) -> Response:
    """Return the page, which shows openapi.json."""
    prefix = request.scope.get("root_path", "").rstrip("/")
    script, style, icon = (f"{prefix}{DOCS_PATH}/{name}" for name in TYPES)
    page: HTMLResponse = get_swagger_ui_html(
        openapi_url=f"{prefix}{OPENAPI_PATH}",
        title="Onward",
        swagger_js_url=script,
        swagger_css_url=style,
        swagger_favicon_url=icon,
    )
    return page


async def show_file(request: Request) -> Response:
    """Return a file of the page, compressed in a thread: the script is large."""
    name = request.url.path.rpartition("/")[2]
    headers = KEPT | {"Vary": "Accept-Encoding"}
    if not accepts_gzip(request.scope):
        content = await asyncio.to_thread((FOLDER / name).read_bytes)
        return Response(content, media_type=TYPES[name], headers=headers | {"Content-Encoding": "identity"})
    content = await asyncio.to_thread(_compressed, name)
    return Response(content, media_type=TYPES[name], headers=headers | {"Content-Encoding": "gzip"})


@cache
def _compressed(name: str) -> bytes:
    return gzip.compress((FOLDER / name).read_bytes(), mtime=0)


def root_route(*, has_console: bool) -> Route:
    """Return the route that leads from / to the console, or else to the page."""
    target = f"{CONSOLE_PATH}/" if has_console else DOCS_PATH

    async def lead(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '').rstrip('/')}{target}")

    return Route(ROOT_PATH, lead)


FILE_ROUTES = [Route(f"{DOCS_PATH}/{name}", show_file) for name in TYPES]
FILE_PATHS = frozenset(route.path for route in FILE_ROUTES)
"""They hold no data, so a browser asks for them without a key."""
DOCUMENTATION_PATHS = frozenset({DOCS_PATH, OPENAPI_PATH})
