"""What a capacity run found, for people and for programs."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from onward.service.bench.capacity import LOAD_SHARE, Capacity, Trial
from onward.service.bench.measurement import Cost
from onward.service.bench.progress import latencies


@dataclass(frozen=True, slots=True)
class Report:
    """The capacity of a server, and what it was measured on."""

    capacity: Capacity
    recall: float
    """The share of an exact search's first `k` items that the answers have."""
    recall_sessions: int
    k: int
    items: int
    workers: int | None
    """None where the server was not started for this."""
    wanted_rate_per_s: float | None

    @property
    def replicas(self) -> int | None:
        """How many such servers carry the wanted rate."""
        return None if self.wanted_rate_per_s is None else self.capacity.replicas(self.wanted_rate_per_s)

    def figures(self) -> dict[str, Any]:
        """As JSON."""
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
            "trials": [_trial(trial) for trial in self.capacity.trials],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        capacity, best = self.capacity, self.capacity.best
        if best is None:
            yield f"No rate that was tried meets {capacity.slo}: no number of replicas does."
        else:
            workers = "" if self.workers is None else f", {self.workers} worker{'s' if self.workers > 1 else ''}"
            yield f"highest rate  {best.rate_per_s:,.0f} requests/s within {capacity.slo}{workers}"
            yield f"latency       {latencies(best.measurement.outcome)}"
            yield from _cost_lines(best.measurement.cost)
        yield f"recall@{self.k:<6} {self.recall:.3f} against exact search, in {self.recall_sessions} such sessions"
        if self.wanted_rate_per_s is not None and self.replicas is not None:
            yield (
                f"replicas      {self.replicas} for {self.wanted_rate_per_s:,.0f} requests/s, each at up to "
                f"{LOAD_SHARE:.0%} of its highest rate"
            )
        if capacity.limited_by is not None:
            yield f"The service may stand more: at higher rates {capacity.limited_by}."
        if self.workers is not None:
            yield "Generator, store and service shared this machine."


def _cost_lines(cost: Cost) -> Iterator[str]:
    if cost.rss_mib is not None and cost.pss_mib is not None:
        yield f"memory        {cost.pss_mib:,.0f} MiB (PSS; RSS {cost.rss_mib:,.0f} MiB), without the store"
    if cost.cpu_us_per_request is not None:
        store = cost.store_cpu_us_per_request
        beside = "" if store is None else f", and {store:,.0f} us of the store"
        yield f"processor     {cost.cpu_us_per_request:,.0f} us a request{beside}"


def _trial(trial: Trial) -> dict[str, Any]:
    return {"seconds": trial.seconds, "misses": list(trial.misses), **trial.measurement.figures()}
