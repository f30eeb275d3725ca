"""When requests are due: independently of each other and of the answers, as visitors come."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A Poisson process of `rate` requests/s; with `until_rate`, one whose rate moves there in a straight line."""

    rate: float
    seconds: float
    until_rate: float | None = None

    @property
    def last_rate(self) -> float:
        """Requests/s at the end."""
        return self.rate if self.until_rate is None else self.until_rate

    @property
    def mean_rate(self) -> float:
        """Requests/s on average."""
        return (self.rate + self.last_rate) / 2

    def rate_at(self, time_s: float) -> float:
        """Requests/s at a time."""
        return self.rate + (self.last_rate - self.rate) * time_s / self.seconds

    def times(self, seed: int) -> NDArray[np.float64]:
        """Seconds from the start, in order."""
        expected = self.mean_rate * self.seconds
        gaps = np.random.default_rng(seed).exponential(size=round(expected + 6 * expected**0.5 + 10))
        counts = np.cumsum(gaps)
        return self._when_expected(counts[counts < expected])

    def _when_expected(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """When so many requests are expected: rate * t + growth / 2 * t**2 = count, solved for t."""
        growth = (self.last_rate - self.rate) / self.seconds
        root = np.sqrt(self.rate**2 + 2 * growth * counts)
        times: NDArray[np.float64] = 2 * counts / (self.rate + root)
        return times
