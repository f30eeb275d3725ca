"""The report of a capacity measurement, as text and as JSON."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from onward.service.bench.capacity import LOAD_SHARE, Capacity, LoadStep
from onward.service.bench.measurement import Cost
from onward.service.bench.progress import latencies


@dataclass(frozen=True, slots=True)
class CapacityReport:
    """The capacity of a server, and what it was measured on."""

    capacity: Capacity
    recall: float
    """Share of exact search's first `k` items that the answers contain."""
    recall_sessions: int
    k: int
    items: int
    workers: int | None
    """None if the server was running already."""
    wanted_rate_per_s: float | None
    """The rate to count replicas for, if any."""

    @property
    def replicas(self) -> int | None:
        """The number of such servers for the wanted rate; None without such a rate, or if no number suffices."""
        return None if self.wanted_rate_per_s is None else self.capacity.replicas(self.wanted_rate_per_s)

    def figures(self) -> dict[str, Any]:
        """Return the report as JSON."""
        best, limited_by = self.capacity.best, self.capacity.limited_by
        return {
            "benchmark": "capacity",
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "items": self.items,
            "workers": self.workers,
            "slo": str(self.capacity.slo),
            "highest_rate_per_s": None if best is None else round(best.rate_per_s, 1),
            "generator_limited": limited_by is not None,
            "limited_by": limited_by,
            "recall": {"k": self.k, "against": "exact search", "sessions": self.recall_sessions, "value": self.recall},
            "at_highest_rate": None if best is None else best.measurement.figures(),
            "wanted_rate_per_s": self.wanted_rate_per_s,
            "load_share": LOAD_SHARE,
            "replicas": self.replicas,
            "trials": [_step_figures(step) for step in self.capacity.steps],
        }

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text."""
        capacity, best = self.capacity, self.capacity.best
        if best is None:
            yield f"No rate that was tried meets {capacity.slo}, so more replicas do not help."
        else:
            workers = "" if self.workers is None else f", {self.workers} worker{'s' if self.workers > 1 else ''}"
            yield f"highest rate  {best.rate_per_s:,.0f} requests/s within {capacity.slo}{workers}"
            yield f"latency       {latencies(best.measurement.result)}"
            yield from _cost_lines(best.measurement.cost)
        yield f"recall@{self.k:<6} {self.recall:.3f} against exact search, over {self.recall_sessions} sessions"
        if self.wanted_rate_per_s is not None and self.replicas is not None:
            yield (
                f"replicas      {self.replicas} for {self.wanted_rate_per_s:,.0f} requests/s, each at up to "
                f"{LOAD_SHARE:.0%} of its highest rate"
            )
        if capacity.limited_by is not None:
            yield f"The service may handle more: at higher rates {capacity.limited_by}."
        if self.workers is not None:
            yield "The load generator, the store and the service shared this machine."


def _cost_lines(cost: Cost) -> Iterator[str]:
    if cost.rss_mib is not None and cost.pss_mib is not None:
        yield f"memory        {cost.pss_mib:,.0f} MiB (PSS; RSS {cost.rss_mib:,.0f} MiB), without the store"
    if cost.cpu_us_per_request is not None:
        store = cost.store_cpu_us_per_request
        of_store = "" if store is None else f", and {store:,.0f} us of the store"
        yield f"processor     {cost.cpu_us_per_request:,.0f} us per request{of_store}"


def _step_figures(step: LoadStep) -> dict[str, Any]:
    return {"seconds": step.seconds, "misses": list(step.misses), **step.measurement.figures()}
