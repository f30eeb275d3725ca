"""A proportion and its confidence interval."""

import math
from typing import NamedTuple

Z = 1.959964
"""Of a 95 % interval."""


class Proportion(NamedTuple):
    """An estimate, and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def proportion(successes: float, trials: float, *, samples: int) -> Proportion:
    """Return successes / trials with Wilson's score interval.

    Trials within a sample depend on each other, as the items of one answer do, so the interval counts samples: the
    variance of a mean of numbers from 0 to 1 is at most that of a proportion, so it is rather too wide.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    if not trials or not samples:
        return Proportion(math.nan, 0.0, 1.0)
    value, square = successes / trials, Z**2 / samples
    centre = (value + square / 2) / (1 + square)
    half = math.sqrt(square * (value * (1 - value) + square / 4)) / (1 + square)
    return Proportion(value, max(0.0, centre - half), min(1.0, centre + half))
