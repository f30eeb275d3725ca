"""Run a load and measure what it costs the server."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.load_result import LoadResult
from onward.service.bench.load_generator.loads import Load
from onward.service.bench.processes import CpuTime, Memory, cpu_seconds, memory
from onward.service.bench.server import Server

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """What the service's processes used, the session store counted apart; None if it cannot be read from /proc."""

    cpu_us_per_request: float | None = None
    store_cpu_us_per_request: float | None = None
    rss_mib: float | None = None
    pss_mib: float | None = None


class Measurement(NamedTuple):
    """The result of a load, and its cost."""

    result: LoadResult
    cost: Cost

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON."""
        return {**self.result.figures(), **asdict(self.cost)}


def measure(generator: LoadGenerator, server: Server, load: Load) -> Measurement:
    """Run a load against a server. Raises OSError if nothing listens there."""
    if server.pid is None:
        return Measurement(generator.run(load), Cost())
    before = cpu_seconds(server.pid)
    result = generator.run(load)
    return Measurement(result, _cost(before, cpu_seconds(server.pid), memory(server.pid), result.requests))


def _cost(before: CpuTime | None, after: CpuTime | None, memory_now: Memory | None, requests: int) -> Cost:
    if before is None or after is None or memory_now is None or not requests:
        return Cost()
    store_s = None if before.store_s is None or after.store_s is None else after.store_s - before.store_s
    return Cost(
        cpu_us_per_request=_us_per_request(after.workers_s - before.workers_s, requests),
        store_cpu_us_per_request=None if store_s is None else _us_per_request(store_s, requests),
        rss_mib=round(memory_now.rss_bytes / MIB, 1),
        pss_mib=round(memory_now.pss_bytes / MIB, 1),
    )


def _us_per_request(seconds: float, requests: int) -> float:
    return round(1e6 * seconds / requests, 1)
