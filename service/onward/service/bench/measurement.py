"""A load and what it cost the server."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from onward.service.bench.generator import Generator
from onward.service.bench.load import Load
from onward.service.bench.outcome import Outcome
from onward.service.bench.processes import Memory, Usage, cpu_seconds, memory
from onward.service.bench.server import Server

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the service's processes without the store; None where it runs elsewhere or the system does not tell."""

    cpu_us_per_request: float | None = None
    store_cpu_us_per_request: float | None = None
    rss_mib: float | None = None
    pss_mib: float | None = None


class Measurement(NamedTuple):
    """What became of a load, and what it cost."""

    outcome: Outcome
    cost: Cost

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        return {**self.outcome.figures(), **asdict(self.cost)}


def measure(generator: Generator, server: Server, load: Load) -> Measurement:
    """Send a load to a server. Raises OSError where nothing answers."""
    if server.pid is None:
        return Measurement(generator.ask(load), Cost())
    before = cpu_seconds(server.pid)
    outcome = generator.ask(load)
    return Measurement(outcome, _cost(before, cpu_seconds(server.pid), memory(server.pid), outcome.requests))


def _cost(before: Usage | None, after: Usage | None, held: Memory | None, requests: int) -> Cost:
    if before is None or after is None or held is None or not requests:
        return Cost()
    of_store = None if before.store_s is None or after.store_s is None else after.store_s - before.store_s
    return Cost(
        cpu_us_per_request=_us(after.workers_s - before.workers_s, requests),
        store_cpu_us_per_request=None if of_store is None else _us(of_store, requests),
        rss_mib=round(held.rss_bytes / MIB, 1),
        pss_mib=round(held.pss_bytes / MIB, 1),
    )


def _us(seconds: float, requests: int) -> float:
    return round(1e6 * seconds / requests, 1)
