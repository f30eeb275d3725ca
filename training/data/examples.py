"""Sessions to training examples: every prefix of a session with the item that follows it.

Dimension key: E examples, B examples of a batch, L positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.dataset import Sessions
from training.padding import PADDING

WINDOW_BATCHES = 40
"""Batches are cut from shuffled windows of this many, sorted by length: little padding, still well mixed."""


@dataclass(frozen=True)
class Examples:
    """Examples as places in one long list of rows: nothing of a session is copied until a batch is gathered."""

    rows: Tensor
    starts_E: Tensor
    ends_E: Tensor
    """The input of an example is rows[start:end]."""
    targets_E: Tensor
    """The row of each example's target."""
    groups_E: Tensor
    """Examples of one group share their input and are evaluated as one, with several targets."""

    @classmethod
    def of(cls, parts: Sequence[Sessions], max_length: int, device: torch.device, *, together: bool = False) -> Self:
        """Every target with an item before it is an example; its input is the newest `max_length` items before it.

        With `together`, the input ends before the first target of the session, for all its targets.
        """
        pieces = [_places(part, together=together) for part in parts]
        shifts = np.cumsum([0, *(len(part.rows) for part in parts)])
        starts, ends, targets = (
            np.concatenate([piece[i] + shift for piece, shift in zip(pieces, shifts, strict=False)]) for i in range(3)
        )
        rows = np.concatenate([part.rows for part in parts])
        groups = np.unique(ends, return_inverse=True)[1]
        starts = np.maximum(starts, ends - max_length)
        return cls(*(torch.from_numpy(array).to(device) for array in (rows, starts, ends, rows[targets], groups)))

    def __len__(self) -> int:
        return len(self.targets_E)

    def subset(self, chosen: Tensor) -> Self:
        """The chosen examples, in that order."""
        return replace(
            self,
            starts_E=self.starts_E[chosen],
            ends_E=self.ends_E[chosen],
            targets_E=self.targets_E[chosen],
            groups_E=self.groups_E[chosen],
        )

    def gather(self, examples_B: Tensor) -> tuple[Tensor, Tensor]:
        """items_BL, left-padded to the longest of the batch (at least 2), and targets_B, both as rows."""
        ends_B1, starts_B1 = self.ends_E[examples_B].unsqueeze(1), self.starts_E[examples_B].unsqueeze(1)
        length = max(int((ends_B1 - starts_B1).max()), 2)
        places_BL = ends_B1 + torch.arange(-length, 0, device=self.rows.device)
        items_BL = self.rows[places_BL.clamp(min=0)].masked_fill(places_BL < starts_B1, PADDING)
        return items_BL, self.targets_E[examples_B]

    def in_order(self, batch_size: int) -> list[Tensor]:
        """All examples once, by length, for evaluation."""
        return list(self._by_length(torch.arange(len(self), device=self.rows.device)).split(batch_size))

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
        """All examples once, in batches of about one length and in an order that `seed` and `epoch` determine."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        windows = torch.randperm(len(self), generator=generator).to(self.rows.device).split(batch_size * WINDOW_BATCHES)
        batches = [batch for window in windows for batch in self._by_length(window).split(batch_size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _by_length(self, examples: Tensor) -> Tensor:
        lengths = self.ends_E[examples] - self.starts_E[examples]
        return examples[torch.argsort(lengths, stable=True)]


def _places(part: Sessions, *, together: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where the input of each example starts and ends, and where its target stands."""
    targets = np.flatnonzero(part.is_target)
    session = np.searchsorted(part.offsets, targets, side="right") - 1
    starts = part.offsets[session]
    ends = targets[np.searchsorted(session, session)] if together else targets
    usable = ends > starts
    return starts[usable], ends[usable], targets[usable]
