"""Service level objectives: limits on latency percentiles."""

import re
from typing import NamedTuple, Self

from onward.service.bench.load_generator.load_result import LoadResult

_PERCENTILES = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "p99.9": "p999_ms", "max": "max_ms"}
_UNITS_MS = {"ms": 1.0, "s": 1000.0}
_TERM = re.compile(r"(?P<name>[a-z0-9.]+)=(?P<amount>\d+(\.\d+)?)(?P<unit>ms|s)")
_GRAMMAR = f"an example is p90=50ms,p99=0.1s; percentiles are {', '.join(_PERCENTILES)}"


class Limit(NamedTuple):
    """A limit on one percentile of the latency."""

    name: str
    """The percentile, as in p90."""
    ms: float

    def measured_ms(self, result: LoadResult) -> float | None:
        """Return the latency at this percentile; None if there was no answer."""
        value: float | None = getattr(result, _PERCENTILES[self.name])
        return value


class Slo(NamedTuple):
    """Limits that must all hold; also, every request must have a good answer."""

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `p90=50ms,p99=100ms`. Raises ValueError with a message of one line."""
        limits = tuple(_limit(term.strip()) for term in text.split(","))
        if len({limit.name for limit in limits}) < len(limits):
            raise ValueError(f"{text!r} limits a percentile twice")
        return cls(limits)

    def misses(self, result: LoadResult) -> list[str]:
        """Return each limit that a result misses and each kind of error; empty if it meets the objective."""
        failed = [f"{count} x {fault}" for fault, count in sorted(result.errors.items())]
        measured = [(limit, limit.measured_ms(result)) for limit in self.limits]
        slow = [
            f"{limit.name}: no answer" if ms is None else f"{limit.name} {ms:.1f} ms"
            for limit, ms in measured
            if ms is None or ms > limit.ms
        ]
        return failed + slow

    def __str__(self) -> str:
        return ",".join(f"{limit.name}={limit.ms:g}ms" for limit in self.limits)


def _limit(term: str) -> Limit:
    match = _TERM.fullmatch(term)
    if match is None or match["name"] not in _PERCENTILES:
        raise ValueError(f"{term!r} is not an objective: {_GRAMMAR}")
    ms = float(match["amount"]) * _UNITS_MS[match["unit"]]
    if not ms:
        raise ValueError(f"{term!r} allows no time at all")
    return Limit(match["name"], ms)
