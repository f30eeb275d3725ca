"""Sessions to examples: a stretch of a session as the input, what comes after it as the targets.

Dimension key: E examples, B examples of a batch, L positions of the input, T targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onward.training.data.dataset import Sessions
from onward.training.data.padding import PADDING

WINDOW_BATCHES = 40
"""Batches are cut from shuffled windows of this many, sorted by length: little padding, still well mixed."""


class Batch(NamedTuple):
    """Examples side by side."""

    items_BL: Tensor
    """Rows of the inputs, oldest first, left-padded to the longest (at least 2)."""
    targets_BT: Tensor
    """Rows of the next T items, padded behind the session's end; with `every_position` T is L, and each place holds
    the item that follows the input's item there, or padding where that is no target."""
    users_B: Tensor
    """Rows of the users; 0 is an unknown one."""

    @property
    def next_items_B(self) -> Tensor:
        """Rows of the next items."""
        return self.targets_BT[:, 0]


@dataclass(frozen=True)
class Examples:
    """Examples as places in one long list of rows: nothing of a session is copied until a batch is gathered."""

    rows: Tensor
    is_target: Tensor
    """Of each place of `rows`, whether it is a target."""
    begins_E: Tensor
    """Where the session of an example begins."""
    starts_E: Tensor
    ends_E: Tensor
    """The input of an example is rows[start:end]."""
    targets_E: Tensor
    """The place of an example's target; the next T items are rows[target : target + T]."""
    closes_E: Tensor
    """Where the session of an example ends."""
    users_E: Tensor
    groups_E: Tensor
    """Examples of one group share their input and are evaluated as one, with several targets."""
    horizon: int = 1
    every_position: bool = False

    @classmethod
    def of(
        cls,
        parts: Sequence[Sessions],
        max_length: int,
        device: torch.device,
        *,
        together: bool = False,
        horizon: int = 1,
        every_position: bool = False,
    ) -> Self:
        """Every target with an item before it is an example; its input is the newest `max_length` items before it.

        Args:
            parts: the sessions.
            max_length: the longest input.
            device: where batches are gathered.
            together: inputs end before the first target of the session, for all its targets.
            horizon: T, how many of the next items each example has as targets.
            every_position: examples are instead stretches of at most `max_length` items, cut from the session's end
                on, with a target at every position.
        """
        places = [_windows(part, max_length) if every_position else _prefixes(part, together) for part in parts]
        shifts = np.cumsum([0, *(len(part.rows) for part in parts)])[:-1]
        begins, ends, targets, closes = (
            np.concatenate([getattr(place, name) + shift for place, shift in zip(places, shifts, strict=True)])
            for name in _Places._fields[:-1]
        )
        arrays = {
            "rows": np.concatenate([part.rows for part in parts]),
            "is_target": np.concatenate([part.is_target for part in parts]),
            "begins_E": begins,
            "starts_E": np.maximum(begins, ends - max_length),
            "ends_E": ends,
            "targets_E": targets,
            "closes_E": closes,
            "users_E": np.concatenate([part.users[place.sessions] for part, place in zip(parts, places, strict=True)]),
            "groups_E": np.unique(ends, return_inverse=True)[1],
        }
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return cls(**tensors, horizon=horizon, every_position=every_position)

    def __len__(self) -> int:
        return len(self.targets_E)

    def subset(self, chosen: Tensor) -> Self:
        """The chosen examples, in that order."""
        names = ("begins_E", "starts_E", "ends_E", "targets_E", "closes_E", "users_E", "groups_E")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def gather(self, examples_B: Tensor) -> Batch:
        """The chosen examples side by side."""
        length = max(int((self.ends_E[examples_B] - self.starts_E[examples_B]).max()), 2)
        places_BL, valid_BL = self._before_end(examples_B, self.starts_E[examples_B], length)
        items_BL = self.rows[places_BL].masked_fill(~valid_BL, PADDING)
        if self.every_position:
            following_BL = (places_BL + 1).clamp(max=len(self.rows) - 1)
            counts_BL = valid_BL & self.is_target[following_BL]
            targets_BT = self.rows[following_BL].masked_fill(~counts_BL, PADDING)
        else:
            ahead_BT = self.targets_E[examples_B, None] + torch.arange(self.horizon, device=self.rows.device)
            inside_BT = ahead_BT < self.closes_E[examples_B, None]
            targets_BT = self.rows[ahead_BT.clamp(max=len(self.rows) - 1)].masked_fill(~inside_BT, PADDING)
        return Batch(items_BL, targets_BT, self.users_E[examples_B])

    def seen(self, examples_B: Tensor) -> Tensor:
        """Rows of all items of the session before the targets, however long ago; padding elsewhere."""
        begins_B = self.begins_E[examples_B]
        places_BL, valid_BL = self._before_end(examples_B, begins_B, int((self.ends_E[examples_B] - begins_B).max()))
        return self.rows[places_BL].masked_fill(~valid_BL, PADDING)

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

    def _before_end(self, examples_B: Tensor, starts_B: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The `length` places before the ends of the inputs, and which of them do not lie before `starts_B`."""
        places_BL = self.ends_E[examples_B, None] + torch.arange(-length, 0, device=self.rows.device)
        return places_BL.clamp(min=0), places_BL >= starts_B[:, None]


class _Places(NamedTuple):
    """Of every example: where its session begins, its input ends, its target stands, its session ends; its session."""

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    targets: NDArray[np.int64]
    closes: NDArray[np.int64]
    sessions: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> "_Places":
        """Those of the chosen examples."""
        return _Places(*(places[chosen] for places in self))


def _prefixes(part: Sessions, together: bool) -> _Places:
    targets = np.flatnonzero(part.is_target)
    session = np.searchsorted(part.offsets, targets, side="right") - 1
    begins, closes = part.offsets[session], part.offsets[session + 1]
    ends = targets[np.searchsorted(session, session)] if together else targets
    return _Places(begins, ends, targets, closes, session).only(ends > begins)


def _windows(part: Sessions, max_length: int) -> _Places:
    """Inputs of at most `max_length` items; the newest ends before the session's last item, the next before that."""
    inputs = np.diff(part.offsets) - 1
    windows = -(-inputs // max_length)
    session = np.repeat(np.arange(len(part)), windows)
    number = np.arange(len(session)) - np.repeat(np.cumsum(windows) - windows, windows)
    ends = part.offsets[session + 1] - 1 - number * max_length
    begins = np.maximum(part.offsets[session], ends - max_length)
    return _Places(begins, ends, ends, part.offsets[session + 1], session)
