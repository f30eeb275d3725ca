"""The result of a load: throughput, latencies, errors, and whether the generator itself was the limit."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onward.service.bench.load_generator.arrivals import Arrivals

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9, "max_ms": 100.0}
MAX_BUSY_SHARE = 0.85
"""Share of a core, or of the time, above which a generator is too busy to keep its schedule."""
RAMP_INTERVALS = 10
MAX_LATENESS_SHARE = 0.25
"""p90 of the lateness, as a share of the p90 latency, above which a generator distorts the latencies it measures."""


@dataclass(slots=True)
class LoadRecord:
    """What a generator records while it runs. Times in seconds."""

    latencies_s: list[float] = field(default_factory=list)
    """Latencies of good answers; a request that timed out counts with the time it waited."""
    due_s: list[float] = field(default_factory=list)
    """When each of these requests was due, since the start; empty in a closed loop."""
    lateness_s: list[float] = field(default_factory=list)
    """How long after its due time the generator dispatched each request; empty in a closed loop."""
    errors: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    """Requests with a good answer."""
    seconds: float = 0.0
    """From the start to the last answer, at least the planned duration."""
    cpu_s: float = 0.0
    """Processor time of the generator."""
    busy_s: float = 0.0
    """Wall-clock time in which the generator handled requests and answers, including waits for a core."""


@dataclass(frozen=True, slots=True)
class RampInterval:
    """Latencies of the requests due in one interval of a ramp, at about the same rate."""

    rate_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Figures of a load. Latencies in milliseconds, None if there was no answer."""

    requests: int
    answered: int
    """Requests with a good answer."""
    errors: Mapping[str, int]
    rate_per_s: float | None
    """The planned rate; None in a closed loop."""
    achieved_per_s: float
    """The rate of good answers."""
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    lateness_p50_ms: float | None
    lateness_p90_ms: float | None
    lateness_p99_ms: float | None
    generator_cpu_share: float
    """Processor time of the generator, as a share of one core."""
    limited_by: str | None
    """Why the generator, not the server, limits these figures; None if it does not."""
    parts: tuple[RampInterval, ...] = ()
    """The intervals of a ramp, in order of time."""

    @classmethod
    def of(cls, record: LoadRecord, arrivals: Arrivals | None = None) -> Self:
        """Summarize a record; `arrivals` is None for a closed loop."""
        latencies_ms = _percentiles_ms(record.latencies_s)
        lateness_ms = _percentiles_ms(record.lateness_s)
        cpu_share = record.cpu_s / record.seconds
        return cls(
            requests=record.answered + record.errors.total(),
            answered=record.answered,
            errors=dict(record.errors),
            rate_per_s=None if arrivals is None else arrivals.mean_rate,
            achieved_per_s=round(record.answered / record.seconds, 1),
            **latencies_ms,
            lateness_p50_ms=lateness_ms["p50_ms"],
            lateness_p90_ms=lateness_ms["p90_ms"],
            lateness_p99_ms=lateness_ms["p99_ms"],
            generator_cpu_share=round(cpu_share, 3),
            limited_by=_generator_limit(
                cpu_share, record.busy_s / record.seconds, lateness_ms["p90_ms"], latencies_ms["p90_ms"]
            ),
            parts=() if arrivals is None or arrivals.until_rate is None else tuple(_ramp_intervals(record, arrivals)),
        )

    @property
    def generator_limited(self) -> bool:
        """Whether the generator, not the server, limits these figures."""
        return self.limited_by is not None

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON."""
        return {**asdict(self), "generator_limited": self.generator_limited}


def _percentiles_ms(durations_s: Sequence[float] | NDArray[np.float64]) -> dict[str, float | None]:
    if not len(durations_s):
        return dict.fromkeys(PERCENTILES)
    cuts = np.percentile(durations_s, list(PERCENTILES.values())) * 1000
    return {name: round(float(cut), 3) for name, cut in zip(PERCENTILES, cuts, strict=True)}


def _ramp_intervals(record: LoadRecord, arrivals: Arrivals) -> Iterator[RampInterval]:
    due_s, latencies_s = np.array(record.due_s), np.array(record.latencies_s)
    edges_s = np.linspace(0, arrivals.seconds, RAMP_INTERVALS + 1)
    for begin_s, end_s in pairwise(edges_s.tolist()):
        cuts = _percentiles_ms(latencies_s[(due_s >= begin_s) & (due_s < end_s)])
        rate = round(arrivals.rate_at((begin_s + end_s) / 2), 1)
        yield RampInterval(rate, cuts["p50_ms"], cuts["p90_ms"], cuts["p99_ms"])


def _generator_limit(
    cpu_share: float, busy_share: float, lateness_ms: float | None, latency_ms: float | None
) -> str | None:
    if cpu_share > MAX_BUSY_SHARE:
        return f"the generator used {cpu_share:.0%} of a core"
    if busy_share > MAX_BUSY_SHARE:
        return f"the generator was busy for {busy_share:.0%} of the time"
    if lateness_ms is not None and latency_ms is not None and lateness_ms > MAX_LATENESS_SHARE * latency_ms:
        return f"the generator was {lateness_ms:.2f} ms late at p90, where the latency is {latency_ms:.2f} ms"
    return None
