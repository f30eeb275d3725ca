"""A capacity run from start to end."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from onward.service.bench.capacity import Search
from onward.service.bench.generator import Generator
from onward.service.bench.progress import Progress
from onward.service.bench.recall import served_recall
from onward.service.bench.report import Report
from onward.service.bench.server import Server, started, wait_until_ready
from onward.service.bench.trials import Trials
from onward.service.bench.wanted import Wanted
from onward.service.bench.workload import draw_sessions

RECALL_SESSIONS = 200


def run(wanted: Wanted, *, workers: int, redis_url: str | None, rate_per_s: float | None, seconds: float) -> Report:
    """Measure and tell how it goes. Raises MeasurementError."""
    progress = Progress()
    sessions = draw_sessions(wanted.bundle)
    with _server(wanted, workers, redis_url, progress) as server, Generator() as generator:
        with progress.doing("recall of the answers"):
            recall = served_recall(server.url, wanted.api, sessions[:RECALL_SESSIONS])
        trials = Trials(generator, server, wanted.api, sessions, wanted.slo, progress)
        capacity = Search(trials, wanted.slo, seconds).run()
    return Report(
        capacity=capacity,
        recall=recall,
        recall_sessions=RECALL_SESSIONS,
        k=wanted.api.k,
        items=wanted.bundle.manifest.items,
        workers=None if server.pid is None else workers,
        wanted_rate_per_s=rate_per_s,
    )


@contextmanager
def _server(wanted: Wanted, workers: int, redis_url: str | None, progress: Progress) -> Iterator[Server]:
    if wanted.url is not None:
        wait_until_ready(wanted.url, timeout_s=0)
        yield Server(wanted.url)
        return
    with ExitStack() as running:
        with progress.doing("starting the service"):
            server = running.enter_context(started(wanted.bundles, workers=workers, redis_url=redis_url))
        yield server
