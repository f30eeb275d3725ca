"""Choose among candidates by a paired test over validation sessions; the simpler one where that cannot tell.

The rule is that of one standard error (Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees",
1984, section 3.4.3): the simplest candidate that is within one standard error of the best one. The error is that of the
paired difference, which is smaller than that of either metric.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.training.evaluation.paired_test import paired_difference
from onward.training.fitting.compared_examples import Values, means
from onward.training.fitting.records import METRIC, Choice, Compared


class Contender(NamedTuple):
    """A candidate, or several joined, with its metrics on the compared examples."""

    members: tuple[str, ...]
    session_weight: float | None
    complexity: tuple[int, ...]
    """Contenders are ordered by it: the number of members, then their models."""
    values: Values


def choose(contenders: Sequence[Contender], session_E: NDArray[np.int64]) -> Choice:
    """Return the choice among contenders; of equally complex ones within the error, the better one."""
    ordered = sorted(contenders, key=lambda contender: (contender.complexity, -_mean(contender)))
    best = max(range(len(ordered)), key=lambda place: _mean(ordered[place]))
    compared = tuple(_compared(contender, ordered[best], session_E) for contender in ordered)
    chosen = next(place for place, of in enumerate(compared) if of.difference <= of.error or place == best)
    return Choice(chosen=chosen, best=best, compared=compared)


def _compared(contender: Contender, best: Contender, session_E: NDArray[np.int64]) -> Compared:
    difference = paired_difference(best.values[METRIC], contender.values[METRIC], session_E)
    return Compared(
        members=contender.members,
        session_weight=contender.session_weight,
        metrics=means(contender.values),
        difference=difference.mean,
        error=difference.error,
    )


def _mean(contender: Contender) -> float:
    return float(contender.values[METRIC].mean())
