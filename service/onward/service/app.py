"""The application: lifespan, routes, the dispatcher in front of them, and error handlers."""

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from onward.bundle.storage import Address
from onward.service import telemetry
from onward.service.background import repeated
from onward.service.http import openapi
from onward.service.http.admission.admission import Admission
from onward.service.http.connection import HTTP_SERVER, HTTPServer, Responder
from onward.service.http.connection_pool import SWEEP_S, ConnectionLimits, ConnectionPool
from onward.service.http.cors import CORS
from onward.service.http.dispatcher import Dispatcher
from onward.service.http.drain import Drain
from onward.service.http.problems import add_error_handlers
from onward.service.http.routes import ROUTERS, console, documentation, operations
from onward.service.http.routes.sessions import EVENTS_PATH
from onward.service.http.tracing import TracedResponder, TracingError, end_tracing, tracer_provider
from onward.service.keys import KeyRing, KeysFileError, key_ring
from onward.service.live.bundle import LiveBundle
from onward.service.live.bundle_ids import BundleIds
from onward.service.live.catalog import open_live_catalog
from onward.service.live.item_search import ItemSearch
from onward.service.live.jobs import Jobs
from onward.service.live.private_copies import COPIES_FOLDER, PrivateCopies
from onward.service.live.releases import open_releases
from onward.service.live.replica import FOLLOW_INTERVAL
from onward.service.live.versioned_store import CALL_TIMEOUT as LIVE_TIMEOUT
from onward.service.parts import SharedParts, Tenants, open_tenant
from onward.service.records.audit_log import AuditLog, AuditLogError
from onward.service.records.event_log_upload import UPLOAD_INTERVAL_S, EventLogUpload
from onward.service.records.recorder import COUNT_INTERVAL
from onward.service.redis_client import CHECK_INTERVAL, StoreCheck, open_connector
from onward.service.server.draining import DRAIN
from onward.service.server.parent_death import terminate_with_parent
from onward.service.settings import IN_MEMORY, Settings
from onward.service.worker_metrics import WorkerMetrics

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

NO_FRAMEWORK_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False)
"""Turned off: the framework would look up a telemetry provider for each request."""
GC_THRESHOLDS = 20_000, 20, 50
"""Thresholds of the cyclic garbage collector, above its defaults: requests leave hardly any cycles."""

MAX_START_S = 30.0
"""Longest time that a worker takes no requests because it loads its first bundle."""

DESCRIPTION = """\
Recommends the items that a visitor is likely to want next, from the events of the current session.

Ids are strings of 1 to 128 characters everywhere, percent-encoded in paths, slashes too (%2F).
Unknown fields are refused. Errors are RFC 9457 problems with a `code` for programs and the `request_id` that also
appears in the log; send `X-Request-ID` to choose it. A body holds at most 1 MiB unless the deployment sets another
limit, `items` 100 ids, `exclude` 1,000, `events` 1,000. It may be compressed with gzip; large answers are, if you
accept it.

A deployment may require a key, sent as `Authorization: Bearer KEY` or as `X-API-Key: KEY`, and limit the request rate
of a caller. Under overload requests are refused at once. `Retry-After` of a 429 or 503 says when to retry.
"""


class Service(FastAPI):
    """The framework's application behind the dispatcher, which answers fast routes without it."""

    dispatcher: Dispatcher
    drain: Drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run as an ASGI application; the service's own server calls the dispatcher instead."""
        await self.dispatcher(scope, receive, send)


def create_app(settings: Settings, tracing: "TracerProvider | None" = None) -> Service:
    """Build the service, with a span for each request if `tracing` is given. Raises KeysFileError, AuditLogError."""
    keys, audit = key_ring(settings.api_keys, settings.keys_file), AuditLog(settings.audit_log)
    admission = Admission(settings, keys)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with AsyncExitStack() as running:
            pool = ConnectionPool(ConnectionLimits.of(settings), asyncio.get_running_loop().time, app.drain)
            await running.enter_async_context(repeated(pool.sweep, timedelta(seconds=SWEEP_S)))
            responder: Responder = app.dispatcher
            if tracing is not None:
                running.push_async_callback(end_tracing, tracing)
                responder = TracedResponder(app.dispatcher, tracing)
            yield {
                **await _parts(settings, keys, admission, running),
                "audit": audit,
                "drain": app.drain,
                HTTP_SERVER: HTTPServer(responder, pool),
            }

    app = Service(
        title="Onward",
        version=version("onward"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        docs_url=None,  # those of the framework load scripts from another host
        openapi_url=None if settings.docs_access == "off" else documentation.OPENAPI_PATH,
        telemetry=NO_FRAMEWORK_TELEMETRY,
        generate_unique_id_function=openapi.operation_id,
        separate_input_output_schemas=False,  # generators cannot name two classes of one model
    )
    for router in ROUTERS:
        app.include_router(router)
    if settings.metrics_access != "off":
        app.include_router(operations.metrics)
    if settings.docs_access != "off":
        app.router.routes += [Route(documentation.DOCS_PATH, documentation.show_docs), *documentation.FILE_ROUTES]
    if settings.console == "on":
        app.router.routes.extend(console.ROUTES)
    if settings.console == "on" or settings.docs_access != "off":
        app.router.routes.append(documentation.root_route(has_console=settings.console == "on"))
    add_error_handlers(app)
    app.drain = Drain(settings.drain_delay)
    app.dispatcher = Dispatcher(
        super(Service, app).__call__,
        routers=ROUTERS,
        admission=admission,
        cors=CORS(settings.cors_origins, beacon_paths=(EVENTS_PATH,)),
        max_body_bytes=settings.max_body,
        # Only these use the client's address.
        trusted_proxies=None
        if settings.rate_limit is None and keys is None and not audit.is_on
        else os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1"),
    )
    openapi.complete(app.openapi(), asks_for_keys=keys is not None)
    return app


def create_app_from_environment() -> Service:
    """Build the service of a worker process, configured by the SERVICE_* variables."""
    if (parent := multiprocessing.parent_process()) is not None and parent.pid is not None:
        terminate_with_parent(parent.pid)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of a terminal that closes: the supervisor handles it
    settings = Settings()  # type: ignore[call-arg]  # the environment provides the fields without default
    telemetry.configure_logging(settings.log_level)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        app = create_app(settings, tracer_provider())
    except (
        KeysFileError,
        AuditLogError,
        TracingError,
    ) as error:  # the files have changed since the service was started
        telemetry.not_started(str(error))
        sys.exit(STARTUP_FAILURE)
    signal.signal(DRAIN, lambda *_: app.drain.begin())
    return app


async def _parts(
    settings: Settings, keys: KeyRing | None, admission: Admission, running: AsyncExitStack
) -> Mapping[str, Any]:
    """Open the service parts that the endpoints use, and run their background tasks until `running` is closed."""
    running.callback(_report_last)
    shared = _open_shared(settings, running)
    if shared.connector is None:
        telemetry.sessions_in_memory()
    elif settings.rate_limit_scope == "deployment":
        redis = shared.connector.client(settings.store_timeout)
        running.push_async_callback(redis.aclose)
        await admission.share_rate(redis)
    if isinstance(settings.event_log, Address) and settings.event_log_spool is not None:
        upload = EventLogUpload(settings.event_log_spool, settings.event_log)
        running.push_async_callback(upload.run)  # of the files that the closing of the records below closes
        await running.enter_async_context(repeated(upload.run, timedelta(seconds=UPLOAD_INTERVAL_S)))
    own = await open_tenant(shared, None, running)
    tenants = Tenants(shared, running)
    for work, interval in (
        (shared.live.refresh, settings.reload_interval),
        (shared.live.follow_catalog, FOLLOW_INTERVAL),
        (_report, COUNT_INTERVAL),
    ):
        await running.enter_async_context(repeated(work, interval))
    if keys is not None:
        await tenants.open(keys.tenants)

        async def follow_keys() -> None:
            await keys.refresh()
            await tenants.open(keys.tenants)

        await running.enter_async_context(repeated(follow_keys, settings.reload_interval))
    await _until_known(shared.live)
    item_search = ItemSearch(shared.live)
    running.push_async_callback(item_search.close)
    return {
        **own,
        "live": shared.live,
        "catalog": shared.catalog,
        "item_search": item_search,
        "releases": shared.releases,
        "jobs": shared.jobs,
        "audit_file": settings.audit_log,
        "worker_metrics": WorkerMetrics(),
        "tenants": tenants.parts,
        "keys": keys,
        "store_check": await _open_store_check(shared, running),
    }


def _open_shared(settings: Settings, running: AsyncExitStack) -> SharedParts:
    ids = BundleIds(settings.bundles_folder, kept=settings.answer_ttl)
    url = settings.redis_url.get_secret_value() if settings.redis_url else IN_MEMORY
    connector = None if url == IN_MEMORY else open_connector(url)
    if connector is not None:
        running.push_async_callback(connector.aclose)
    catalog = open_live_catalog(None if connector is None else connector.client(LIVE_TIMEOUT))
    running.push_async_callback(catalog.close)
    folder = os.environ.get(COPIES_FOLDER)
    jobs = Jobs(None if connector is None else connector.client(LIVE_TIMEOUT))
    running.push_async_callback(jobs.close)
    releases = open_releases(
        settings.bundles_folder, None if connector is None else connector.client(LIVE_TIMEOUT), jobs
    )
    running.push_async_callback(releases.close)
    copies = PrivateCopies(Path(folder), copying=settings.copy_bundles) if folder else None
    live = LiveBundle(settings.bundles_folder, catalog, ids, copies, releases)
    return SharedParts(settings, connector, live, catalog, ids, releases, jobs)


async def _open_store_check(shared: SharedParts, running: AsyncExitStack) -> StoreCheck | None:
    if shared.connector is None:
        return None
    redis = shared.connector.client()
    running.push_async_callback(redis.aclose)
    check = StoreCheck(redis)
    await running.enter_async_context(repeated(check.run, CHECK_INTERVAL))
    return check


async def _until_known(live: LiveBundle) -> None:
    """Wait for the bundle, so that a worker takes no request before it can answer; not for ever, so that it can say so.

    A worker that replaces another would otherwise refuse the requests that the rest could answer.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_START_S):
            await live.is_known.wait()


async def _report() -> None:
    telemetry.count_answers()
    telemetry.end_faults()


def _report_last() -> None:
    telemetry.count_answers()
    telemetry.end_faults(quiet_s=0)
