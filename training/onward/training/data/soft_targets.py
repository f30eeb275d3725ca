"""Soft targets: what teachers think of the next item of each example, its best items and their shares.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; kept to the best items as in
Tang and Wang, "Ranking Distillation", KDD 2018.
Dimension key: E examples, S items kept of each.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class SoftTargets(NamedTuple):
    """The soft targets of some examples, of any shape."""

    rows_S: Tensor
    """Item rows (..., S)."""
    shares_S: Tensor
    """The probability of each, (..., S); they sum to 1."""
    weight: float
    """Weight of the cross-entropy with these, beside 1 for that with the next item."""

    def at(self, targets: Tensor | tuple[slice | Tensor | int, ...]) -> "SoftTargets":
        """Return those of some of the targets."""
        return SoftTargets(self.rows_S[targets], self.shares_S[targets], self.weight)


class SoftTargetTable:
    """The soft targets of all examples of a fit, in two arrays that may be memory-mapped."""

    def __init__(
        self,
        rows_ES: NDArray[np.integer],
        shares_ES: NDArray[np.float16],
        targets_E: NDArray[np.int64],
        events: int,
        weight: float,
    ) -> None:
        """Take the arrays; targets_E are the indices of the examples' targets among `events` events."""
        self._rows_ES, self._shares_ES, self._weight = rows_ES, shares_ES, weight
        self._example_of_event = np.zeros(events, dtype=np.int64)
        self._example_of_event[targets_E] = np.arange(len(targets_E))

    def of_events(self, events: Tensor) -> SoftTargets:
        """Return the soft targets of the examples whose targets are these events (indices, any shape).

        Those of an event that is no target have no meaning.
        """
        examples = self._example_of_event[events.cpu().numpy()]
        return SoftTargets(
            torch.from_numpy(self._rows_ES[examples].astype(np.int64)).to(events.device),
            torch.from_numpy(self._shares_ES[examples].astype(np.float32)).to(events.device),
            self._weight,
        )
