"""What the training sessions tell an encoder before its first step.

Dimension key: N items, U users.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onward.training.data.dataset import Dataset, Sessions


@dataclass(frozen=True, eq=False)
class Corpus:
    """The sessions that a fit may learn from, and the sizes of the tables over them."""

    items: int
    """N: item rows are 1..N, row 0 pads."""
    users: int
    """U: user rows are 1..U, row 0 is any user unknown to training; 0 where sessions have no lasting user."""
    sessions: tuple[Sessions, ...]

    @classmethod
    def of(cls, dataset: Dataset, sessions: Sequence[Sessions]) -> Self:
        """The corpus of some sessions of a data set."""
        return cls(len(dataset.item_ids()), len(dataset.users()), tuple(sessions))

    def popularity(self) -> NDArray[np.int64]:
        """Number of events by row (N + 1,); that of row 0 is 0."""
        counts = np.zeros(self.items + 1, dtype=np.int64)
        for part in self.sessions:
            counts += np.bincount(part.rows, minlength=self.items + 1)
        counts[0] = 0
        return counts
