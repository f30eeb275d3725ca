"""Search for the capacity of a server: the highest rate at which it meets a service level objective."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from onward.service.bench.measurement import Measurement
from onward.service.bench.slo import Slo

FIRST_RATE = 100.0
LOWEST_RATE, HIGHEST_RATE = 1.0, 50_000.0
RATE_TOLERANCE = 1.05
"""The bisection ends when the lowest failing rate is at most this many times the highest passing one."""
BACK_OFF = 0.9
"""Factor by which the rate is lowered after a failed confirmation."""
CONFIRMATION_FACTOR = 2
"""Length of the confirmation, in lengths of a load step."""
LOAD_SHARE = 0.7
"""Share of its highest rate that a replica should carry; the rest is for peaks and for the failure of a replica."""


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One rate that was tried."""

    rate_per_s: float
    seconds: float
    measurement: Measurement
    misses: tuple[str, ...]
    """Which terms of the objective it failed, and by how much; empty if it passed."""


@dataclass(slots=True)
class Capacity:
    """The result of a search."""

    slo: Slo
    steps: list[LoadStep] = field(default_factory=list)
    """All load steps, in the order in which they ran."""
    best: LoadStep | None = None
    """The confirmation of the highest rate that met the objective; None if no rate does."""

    @property
    def limited_by(self) -> str | None:
        """What limited the generator at a failing rate, so that the capacity may be higher; None if nothing did."""
        best_rate = 0.0 if self.best is None else self.best.rate_per_s
        failed = [step.measurement.result for step in self.steps if step.misses and step.rate_per_s > best_rate]
        return next((result.limited_by for result in failed if result.limited_by), None)

    def replicas(self, rate_per_s: float) -> int | None:
        """Return how many such servers carry a rate, each at `LOAD_SHARE` of its capacity; None if no rate passed."""
        return None if self.best is None else math.ceil(rate_per_s / (LOAD_SHARE * self.best.rate_per_s))


class CapacitySearch:
    """Doubles the rate until it misses the objective, bisects in between, and confirms the result for longer."""

    def __init__(self, run_step: Callable[[float, float], Measurement], slo: Slo, seconds: float) -> None:
        """`run_step(rate, seconds)` measures one load step; `seconds` is the length of a step."""
        self._run_step, self._seconds = run_step, seconds
        self._capacity = Capacity(slo)

    def run(self, first_rate: float = FIRST_RATE) -> Capacity:
        """Search from `first_rate`, in requests/s, for the highest rate that meets the objective."""
        rate = self._highest_passing(first_rate)
        while rate >= LOWEST_RATE:
            if self._passes(rate, CONFIRMATION_FACTOR):
                self._capacity.best = self._capacity.steps[-1]
                break
            rate *= BACK_OFF
        return self._capacity

    def _highest_passing(self, rate: float) -> float:
        """Bisect with steps of normal length; 0 if none passes."""
        passed, failed = self._bracket(rate)
        while passed and failed / passed > RATE_TOLERANCE:
            middle = math.sqrt(passed * failed)
            passed, failed = (middle, failed) if self._passes(middle) else (passed, middle)
        return passed

    def _bracket(self, rate: float) -> tuple[float, float]:
        """Return a passing rate, 0 if there is none, and a failing one of at most twice that."""
        if self._passes(rate):
            while 2 * rate <= HIGHEST_RATE and self._passes(2 * rate):
                rate *= 2
            return rate, 2 * rate
        while rate > LOWEST_RATE:
            lower = max(LOWEST_RATE, rate / 2)
            if self._passes(lower):
                return lower, rate
            rate = lower
        return 0, rate

    def _passes(self, rate: float, length_factor: int = 1) -> bool:
        seconds = length_factor * self._seconds
        measurement = self._run_step(rate, seconds)
        misses = tuple(self._capacity.slo.misses(measurement.result))
        self._capacity.steps.append(LoadStep(rate, seconds, measurement, misses))
        return not misses
