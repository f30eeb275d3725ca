"""The sessions before a held-out part, from which baselines take their statistics."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.training.data.dataset import Dataset, PartName


class PastSessions(NamedTuple):
    """Sessions in order of time, in one flat array: session s is rows[offsets[s]:offsets[s + 1]]; no row is 0."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def before(cls, dataset: Dataset, part: PartName) -> "PastSessions":
        """Return the sessions before `part`: training, and validation unless it is the part to be evaluated on."""
        known = [dataset.sessions("train")] if part == "validation" else dataset.training_and_validation()
        lengths = np.concatenate([np.diff(sessions.offsets) for sessions in known])
        rows = np.concatenate([sessions.rows for sessions in known])
        return cls(rows, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))

    def session_of_event(self) -> NDArray[np.int64]:
        """Return the number of each event's session."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
