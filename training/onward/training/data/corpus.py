"""The training sessions that an encoder is built for: popularity, co-occurrence and table sizes come from them.

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
    """The sessions that a fit may learn from, and the sizes of item and user tables."""

    items: int
    """N: item rows are 1..N, row 0 pads."""
    users: int
    """U: user rows are 1..U, row 0 is an unknown user; U is 0 if the dataset has no users."""
    sessions: tuple[Sessions, ...]

    @classmethod
    def of(cls, dataset: Dataset, sessions: Sequence[Sessions]) -> Self:
        """Build the corpus of `sessions`, which are part of `dataset`."""
        return cls(len(dataset.item_ids()), len(dataset.users()), tuple(sessions))

    def popularity(self) -> NDArray[np.int64]:
        """Return the number of events by item row, (N + 1,); 0 for row 0."""
        counts = np.zeros(self.items + 1, dtype=np.int64)
        for part in self.sessions:
            counts += np.bincount(part.rows, minlength=self.items + 1)
        counts[0] = 0
        return counts
