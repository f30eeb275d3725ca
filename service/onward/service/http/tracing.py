"""Tracing: an OpenTelemetry span for each request, with the seconds of its stages.

A span is made when its request has been answered, from what is known then, so that tracing costs nothing where it is
off, and a request waits for nothing where it is on: a thread exports spans in batches. Names of attributes are those of
OpenTelemetry's semantic conventions for HTTP servers.
"""

import asyncio
import os
import re
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.types import Scope

from onward.service import telemetry
from onward.service.http.connection import Responder

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP_PROTOCOL = "http/protobuf"
LAST_EXPORT_S = 2.0
"""Time for the last spans to be exported when the service stops."""
NOT_TRACED = ("/health/", "/metrics")
_STAGE = re.compile(r"(\w+);dur=([\d.]+)")
_NS = 1_000_000_000


class TracingError(Exception):
    """The variables for tracing cannot be followed; the message is one line."""


def is_asked_for(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the variables of OpenTelemetry name an exporter of traces, or where to send them."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get(EXPORTER) == "none":
        return False
    return EXPORTER in environment or any(name in environment for name in ENDPOINTS)


def require_traceable(environment: Mapping[str, str] = os.environ) -> None:
    """Check what the variables of OpenTelemetry ask for. Raises TracingError."""
    if not is_asked_for(environment):
        return
    exporter = environment.get(EXPORTER, "otlp")
    if exporter not in ("otlp", "console"):
        raise TracingError(f"{EXPORTER}: {exporter!r} is none of otlp, console, none")
    for name in PROTOCOLS:
        if environment.get(name, HTTP_PROTOCOL) != HTTP_PROTOCOL:
            raise TracingError(f"{name}: only {HTTP_PROTOCOL} is supported; port 4318 of a collector takes it")
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed, and variables OTEL_* ask for traces"
        raise TracingError(f"{reason}: pip install 'onward[service,otel]'") from None


def tracer_provider() -> "TracerProvider | None":
    """Return what makes and exports spans as the variables of OpenTelemetry say; None if they ask for no traces.

    Raises TracingError.
    """
    require_traceable()
    if not is_asked_for():
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # What Resource.create is given would come before OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    named = dict(Resource.create().attributes)
    if str(named.get("service.name", "unknown_service")).startswith("unknown_service"):
        named["service.name"] = "onward"
    resource = Resource({"service.version": version("onward"), **named})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return provider


async def end_tracing(provider: "TracerProvider") -> None:
    """Export the last spans, and wait for it no longer than 2 s: a collector that hangs would hold up the stop."""
    export = threading.Thread(target=provider.shutdown, daemon=True)
    export.start()
    await asyncio.to_thread(export.join, LAST_EXPORT_S)


def _exporter() -> "SpanExporter":
    if os.environ.get(EXPORTER) == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class TracedResponder:
    """Answers requests as another responder does, and makes a span of each but those for health and metrics.

    The span continues the caller's trace if the request has a `traceparent` header.
    """

    def __init__(self, responder: Responder, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._responder = responder
        self._tracer = provider.get_tracer("onward.service", version("onward"))
        self._propagator = TraceContextTextMapPropagator()
        self._kind, self._error = SpanKind.SERVER, StatusCode.ERROR

    def admit(self, scope: Scope) -> Response | None:
        """Begin a request; return the response if it is refused because of load."""
        refusal = self._responder.admit(scope)
        if refusal is not None:
            self._trace(scope, refusal)
        return refusal

    async def respond(self, scope: Scope, body: bytes) -> Response:
        """Return the response to an admitted request."""
        response = await self._responder.respond(scope, body)
        self._trace(scope, response)
        return response

    def _trace(self, scope: Scope, response: Response) -> None:
        if scope["path"].startswith(NOT_TRACED):
            return
        ended_ns = time.time_ns()
        method, route = scope["method"], getattr(scope.get("route"), "path_format", None)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracer.start_span(
            method if route is None else f"{method} {route}",
            context=self._propagator.extract(headers),
            kind=self._kind,
            attributes=_attributes(scope, response, route),
            start_time=ended_ns - int(telemetry.elapsed_s(scope) * _NS),
        )
        if response.status_code >= 500:  # as the conventions have it for servers
            span.set_status(self._error)
        span.end(ended_ns)


def _attributes(scope: Scope, response: Response, route: str | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": scope["method"],
        "url.scheme": scope["scheme"],
        "http.response.status_code": response.status_code,
        "onward.request_id": telemetry.request_id(scope) or "",
    }
    if route is not None:
        attributes["http.route"] = route
    timing = response.headers.get("server-timing", "")
    stages = {name: float(milliseconds) / 1000 for name, milliseconds in _STAGE.findall(timing)}
    return attributes | {f"onward.{name}_s": seconds for name, seconds in stages.items() if name != "total"}
