"""The highest rate at which a server meets an objective."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from onward.service.bench.measurement import Measurement
from onward.service.bench.slo import Slo

FIRST_RATE = 100.0
LOWEST_RATE, HIGHEST_RATE = 1.0, 50_000.0
CLOSE_ENOUGH = 1.05
"""The ratio of a rate that misses the objective to one that meets it, where the search ends."""
STEP_DOWN = 0.9
"""To the next rate, where the one that was found does not hold up."""
CONFIRMED_FOR = 2
"""Times as long as a trial: how long the rate that is reported was held."""
LOAD_SHARE = 0.7
"""Of its highest rate that a replica should carry: the rest is for peaks, and for a replica that fails."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate that was tried."""

    rate_per_s: float
    seconds: float
    measurement: Measurement
    misses: tuple[str, ...]
    """What it fails the objective by."""


@dataclass(slots=True)
class Capacity:
    """What the search found."""

    slo: Slo
    trials: list[Trial] = field(default_factory=list)
    """All, in the order they were made."""
    best: Trial | None = None
    """Of the highest rate that met the objective, also when it was held for longer; None where none does."""

    @property
    def limited_by(self) -> str | None:
        """Why the server may stand more: what held the generator back at the rates that failed; None where nothing."""
        held = 0.0 if self.best is None else self.best.rate_per_s
        failed = [trial.measurement.outcome for trial in self.trials if trial.misses and trial.rate_per_s > held]
        return next((outcome.limited_by for outcome in failed if outcome.limited_by), None)

    def replicas(self, rate_per_s: float) -> int | None:
        """How many such servers carry a rate, each at `LOAD_SHARE` of its highest; None where no number does."""
        return None if self.best is None else math.ceil(rate_per_s / (LOAD_SHARE * self.best.rate_per_s))


class Search:
    """Doubles the rate until it misses the objective, halves what lies between, and holds what it found for longer."""

    def __init__(self, load: Callable[[float, float], Measurement], slo: Slo, seconds: float) -> None:
        """Each trial is a load of a rate for some seconds."""
        self._load, self._seconds = load, seconds
        self._capacity = Capacity(slo)

    def run(self, first_rate: float = FIRST_RATE) -> Capacity:
        """Find the highest rate."""
        rate = self._highest(first_rate)
        while rate >= LOWEST_RATE:
            if self._meets(rate, CONFIRMED_FOR):
                self._capacity.best = self._capacity.trials[-1]
                break
            rate *= STEP_DOWN
        return self._capacity

    def _highest(self, rate: float) -> float:
        """What short trials meet; 0 where they meet nothing."""
        met, missed = self._around(rate)
        while met and missed / met > CLOSE_ENOUGH:
            middle = math.sqrt(met * missed)
            met, missed = (middle, missed) if self._meets(middle) else (met, middle)
        return met

    def _around(self, rate: float) -> tuple[float, float]:
        """A rate that is met, 0 where none is, and one up to its double, which is not."""
        if self._meets(rate):
            while 2 * rate <= HIGHEST_RATE and self._meets(2 * rate):
                rate *= 2
            return rate, 2 * rate
        while rate > LOWEST_RATE:
            lower = max(LOWEST_RATE, rate / 2)
            if self._meets(lower):
                return lower, rate
            rate = lower
        return 0, rate

    def _meets(self, rate: float, times_as_long: int = 1) -> bool:
        seconds = times_as_long * self._seconds
        measurement = self._load(rate, seconds)
        misses = tuple(self._capacity.slo.misses(measurement.outcome))
        self._capacity.trials.append(Trial(rate, seconds, measurement, misses))
        return not misses
