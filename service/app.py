"""create_app(settings): lifespan, routes, problem handler."""

import multiprocessing
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import openapi, telemetry
from service.admission import InFlightLimit, KeyCheck, RateCheck
from service.background import repeated
from service.errors import on_http_error, on_invalid_request
from service.middleware import RequestLimits, RequestTelemetry
from service.parent import end_with_parent
from service.recommender import Recommender
from service.reload import LiveBundle
from service.routes import ROUTERS
from service.routes.sessions import EVENTS_PATH
from service.sessions import InMemorySessionStore, RedisSessionStore, SessionStore
from service.settings import IN_MEMORY, Settings

MAX_BODY_BYTES = 64 * 2**10
MAX_EVENTS_BODY_BYTES = 2**20

DESCRIPTION = """\
Recommends what a visitor will want next, from what they did in this session.

Ids are strings of 1 to 128 visible characters everywhere. Unknown fields are refused. Errors are RFC 9457 problems
with a `code` for programs and the `request_id` that the log carries; `X-Request-ID` names a request yourself.
A body holds at most 64 KiB (events 1 MiB), `items` 100 ids, `exclude` 1,000, `events` 1,000.

A deployment may ask for a key, sent as `Authorization: Bearer KEY` or as `X-API-Key: KEY`, and limit how often a caller
comes. Under overload it refuses at once. `Retry-After` of a 429 or 503 says when to come again.
"""


def create_app(settings: Settings) -> FastAPI:
    """Build the service."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        store = open_store(settings)
        live = LiveBundle(settings.bundles)
        try:
            async with repeated(live.refresh, settings.reload_interval):
                yield {"live": live, "store": store, "recommender": Recommender(live, store)}
        finally:
            await store.close()

    app = FastAPI(
        title="Onward",
        version=version("onward"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_middleware(
        RequestLimits,
        max_body_bytes=MAX_BODY_BYTES,
        max_body_bytes_of={EVENTS_PATH: MAX_EVENTS_BODY_BYTES},
        body_timeout=settings.body_timeout,
    )
    app.add_middleware(InFlightLimit, max_in_flight=settings.max_in_flight)
    if settings.rate_limit is not None:
        app.add_middleware(RateCheck, limit=settings.rate_limit)
    if settings.api_keys:
        app.add_middleware(KeyCheck, digests=settings.api_keys)
    app.add_middleware(RequestTelemetry)  # the outermost, as the last one added
    openapi.complete(app.openapi(), asks_for_keys=bool(settings.api_keys))
    return app


def create_app_from_environment() -> FastAPI:
    """Build the service of a worker process, as the SERVICE_* variables say."""
    if multiprocessing.parent_process() is not None:
        end_with_parent()
    settings = Settings()  # type: ignore[call-arg]  # the environment gives what has no default
    telemetry.configure_logging(settings.log_level)
    return create_app(settings)


def open_store(settings: Settings) -> SessionStore:
    """Open the session store that the settings name."""
    url = settings.redis_url.get_secret_value() if settings.redis_url else IN_MEMORY
    if url == IN_MEMORY:
        telemetry.sessions_in_memory()
        return InMemorySessionStore(length=settings.session_length, ttl=settings.session_ttl)
    return RedisSessionStore.connect(
        url, length=settings.session_length, ttl=settings.session_ttl, timeout=settings.store_timeout
    )
