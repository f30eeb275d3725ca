"""A service level objective: how fast answers must be."""

import re
from typing import NamedTuple, Self

from onward.service.bench.outcome import Outcome

_PERCENTILES = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "p99.9": "p999_ms", "max": "max_ms"}
_UNITS_MS = {"ms": 1.0, "s": 1000.0}
_TERM = re.compile(r"(?P<name>[a-z0-9.]+)=(?P<amount>\d+(\.\d+)?)(?P<unit>ms|s)")
_GRAMMAR = f"as in p90=50ms,p99=0.1s; percentiles are {', '.join(_PERCENTILES)}"


class Limit(NamedTuple):
    """The longest that a share of the answers may take."""

    name: str
    """As it was written: p90."""
    ms: float

    def of(self, outcome: Outcome) -> float | None:
        """What it limits, in milliseconds."""
        value: float | None = getattr(outcome, _PERCENTILES[self.name])
        return value


class Slo(NamedTuple):
    """Limits that hold together; and every answer must be a good one."""

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `p90=50ms,p99=100ms`. Raises ValueError, in one line."""
        limits = tuple(_limit(term.strip()) for term in text.split(","))
        if len({limit.name for limit in limits}) < len(limits):
            raise ValueError(f"{text!r} limits a percentile twice")
        return cls(limits)

    def misses(self, outcome: Outcome) -> list[str]:
        """What an outcome fails by; nothing where it meets the objective."""
        failed = [f"{count} x {fault}" for fault, count in sorted(outcome.errors.items())]
        measured = [(limit, limit.of(outcome)) for limit in self.limits]
        slow = [
            f"{limit.name}: no answer" if ms is None else f"{limit.name} {ms:.1f} ms"
            for limit, ms in measured
            if ms is None or ms > limit.ms
        ]
        return failed + slow

    def __str__(self) -> str:
        return ",".join(f"{limit.name}={limit.ms:g}ms" for limit in self.limits)


def _limit(term: str) -> Limit:
    found = _TERM.fullmatch(term)
    if found is None or found["name"] not in _PERCENTILES:
        raise ValueError(f"{term!r} is no objective: {_GRAMMAR}")
    ms = float(found["amount"]) * _UNITS_MS[found["unit"]]
    if not ms:
        raise ValueError(f"{term!r} allows no time at all")
    return Limit(found["name"], ms)
