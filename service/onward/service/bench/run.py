"""Run a capacity measurement from start to end."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from onward.service.bench.capacity import CapacitySearch
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.workload import draw_sessions
from onward.service.bench.load_steps import LoadSteps
from onward.service.bench.options import BenchOptions
from onward.service.bench.progress import Progress
from onward.service.bench.recall import served_recall
from onward.service.bench.server import Server, started, wait_until_ready
from onward.service.bench.summary import CapacityReport

RECALL_SESSIONS = 200


def run(
    options: BenchOptions, *, workers: int, redis_url: str | None, rate_per_s: float | None, seconds: float
) -> CapacityReport:
    """Measure recall and capacity, with progress on stderr. Raises MeasurementError.

    Args:
        workers: processes of the service, if it is started here.
        redis_url: the session store of a service that is started here; None for a private one.
        rate_per_s: the rate to count replicas for.
        seconds: length of a load step.
    """
    progress = Progress()
    sessions = draw_sessions(options.bundle)
    with _server(options, workers, redis_url, progress) as server, LoadGenerator() as generator:
        with progress.activity("recall of the answers"):
            recall = served_recall(server.url, options.api, sessions[:RECALL_SESSIONS])
        run_step = LoadSteps(generator, server, options.api, sessions, options.slo, progress)
        capacity = CapacitySearch(run_step, options.slo, seconds).run()
    return CapacityReport(
        capacity=capacity,
        recall=recall,
        recall_sessions=RECALL_SESSIONS,
        k=options.api.k,
        items=options.bundle.manifest.items,
        workers=None if server.pid is None else workers,
        wanted_rate_per_s=rate_per_s,
    )


@contextmanager
def _server(options: BenchOptions, workers: int, redis_url: str | None, progress: Progress) -> Iterator[Server]:
    """Yield the server at the given URL, or start one."""
    if options.url is not None:
        wait_until_ready(options.url, timeout_s=0)
        yield Server(options.url)
        return
    with ExitStack() as running:
        with progress.activity("starting the service"):
            server = running.enter_context(started(options.bundles, workers=workers, redis_url=redis_url))
        yield server
