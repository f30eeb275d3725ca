"""What became of a load: how many answers, how fast, what went wrong, and whether the generator kept up."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onward.service.bench.arrivals import Arrivals

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9, "max_ms": 100.0}
BUSIEST_SHARE = 0.85
"""Of a core, or of the time: a generator that needs more falls behind by itself."""
PARTS = 10
"""Of a ramp."""
LATEST_SHARE = 0.25
"""Of the latency at p90: a generator that is later than that tells of itself, not of the server."""


@dataclass(slots=True)
class Record:
    """What a generator notes while it asks. Times in seconds."""

    latencies_s: list[float] = field(default_factory=list)
    """Of good answers, and of requests without an answer in time as long as they waited."""
    due_s: list[float] = field(default_factory=list)
    """When each of these was due, from the start; nothing in a closed loop."""
    lateness_s: list[float] = field(default_factory=list)
    """How long after they were due the generator took up requests; nothing in a closed loop."""
    errors: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    """With a good answer."""
    seconds: float = 0.0
    """From the start to the last answer, and at least as long as was planned."""
    cpu_s: float = 0.0
    """Of the generator."""
    busy_s: float = 0.0
    """Time in which the generator dealt with requests and answers, on a core or waiting for one."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a ramp: the latencies of what was due at about the same rate."""

    rate_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of a load. Latencies in milliseconds, None without any answer."""

    requests: int
    answered: int
    """With a good answer."""
    errors: Mapping[str, int]
    rate_per_s: float | None
    """What was asked for; None in a closed loop."""
    achieved_per_s: float
    """Good answers."""
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    lateness_p50_ms: float | None
    lateness_p90_ms: float | None
    lateness_p99_ms: float | None
    generator_cpu_share: float
    """Of one core."""
    limited_by: str | None
    """Why the figures tell of the generator, not of the server; None where they do not."""
    parts: tuple[Part, ...] = ()
    """Of a ramp, in order of time."""

    @classmethod
    def of(cls, record: Record, arrivals: Arrivals | None = None) -> Self:
        """Sum a record up, that of a closed loop where nothing arrives by itself."""
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
            limited_by=_limit(cpu_share, record.busy_s / record.seconds, lateness_ms["p90_ms"], latencies_ms["p90_ms"]),
            parts=() if arrivals is None or arrivals.until_rate is None else tuple(_parts(record, arrivals)),
        )

    @property
    def generator_limited(self) -> bool:
        """Whether the figures tell of the generator, not of the server."""
        return self.limited_by is not None

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "generator_limited": self.generator_limited}


def _percentiles_ms(durations_s: Sequence[float] | NDArray[np.float64]) -> dict[str, float | None]:
    if not len(durations_s):
        return dict.fromkeys(PERCENTILES)
    cuts = np.percentile(durations_s, list(PERCENTILES.values())) * 1000
    return {name: round(float(cut), 3) for name, cut in zip(PERCENTILES, cuts, strict=True)}


def _parts(record: Record, arrivals: Arrivals) -> Iterator[Part]:
    due_s, latencies_s = np.array(record.due_s), np.array(record.latencies_s)
    edges_s = np.linspace(0, arrivals.seconds, PARTS + 1)
    for begin_s, end_s in pairwise(edges_s.tolist()):
        cuts = _percentiles_ms(latencies_s[(due_s >= begin_s) & (due_s < end_s)])
        rate = round(arrivals.rate_at((begin_s + end_s) / 2), 1)
        yield Part(rate, cuts["p50_ms"], cuts["p90_ms"], cuts["p99_ms"])


def _limit(cpu_share: float, busy_share: float, lateness_ms: float | None, latency_ms: float | None) -> str | None:
    if cpu_share > BUSIEST_SHARE:
        return f"the generator used {cpu_share:.0%} of a core"
    if busy_share > BUSIEST_SHARE:
        return f"the generator was busy for {busy_share:.0%} of the time"
    if lateness_ms is not None and latency_ms is not None and lateness_ms > LATEST_SHARE * latency_ms:
        return f"the generator was {lateness_ms:.2f} ms late at p90, where the latency is {latency_ms:.2f} ms"
    return None
