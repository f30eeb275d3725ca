"""Open-loop arrival times: a Poisson process, independent of the responses."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A Poisson process of `rate` requests/s; with `until_rate`, a linear ramp from one rate to the other."""

    rate: float
    seconds: float
    until_rate: float | None = None

    @property
    def last_rate(self) -> float:
        """The rate at the end, in requests/s."""
        return self.rate if self.until_rate is None else self.until_rate

    @property
    def mean_rate(self) -> float:
        """The mean rate, in requests/s."""
        return (self.rate + self.last_rate) / 2

    def rate_at(self, time_s: float) -> float:
        """Return the rate at a time since the start, in requests/s."""
        return self.rate + (self.last_rate - self.rate) * time_s / self.seconds

    def times(self, seed: int) -> NDArray[np.float64]:
        """Draw arrival times, ascending, in seconds since the start."""
        expected = self.mean_rate * self.seconds
        gaps = np.random.default_rng(seed).exponential(size=round(expected + 6 * expected**0.5 + 10))
        counts = np.cumsum(gaps)
        return self._times_of(counts[counts < expected])

    def _times_of(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map cumulative counts of a unit-rate process to times: solve rate * t + growth / 2 * t**2 = count for t."""
        growth = (self.last_rate - self.rate) / self.seconds
        root = np.sqrt(self.rate**2 + 2 * growth * counts)
        times: NDArray[np.float64] = 2 * counts / (self.rate + root)
        return times
