"""Training examples from sessions: a slice of a session as the input, the items after it as the targets.

Dimension key: E examples, B examples of a batch, L positions of the input, T targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onward.training.data.dataset import Sessions
from onward.training.data.padding import PADDING
from onward.training.data.soft_targets import SoftTargets, SoftTargetTable
from onward.training.errors import InputError

Index: TypeAlias = Tensor | tuple[slice | Tensor | int, ...]
"""Which elements of a tensor."""

WINDOW_BATCHES = 40
"""Shuffled examples are sorted by length in windows of this many batches: little padding, still well shuffled."""


class Feedback(NamedTuple):
    """What log and teachers say about targets, beside that they came next."""

    weights: Tensor | None = None
    """The weight of each target, 1 on average; None if all are equal."""
    shown: Tensor | None = None
    """Item rows that were shown before each target and not taken, in one more dimension; padded."""
    shown_weight: float = 0.0
    """Weight of their loss."""
    soft_targets: SoftTargets | None = None
    """What teachers think would come in the place of each target."""

    def at(self, targets: Index) -> "Feedback":
        """Return the feedback on some of the targets."""
        weights = None if self.weights is None else self.weights[targets]
        shown = None if self.shown is None else self.shown[targets]
        soft_targets = None if self.soft_targets is None else self.soft_targets.at(targets)
        return Feedback(weights, shown, self.shown_weight, soft_targets)


class Batch(NamedTuple):
    """A batch of examples."""

    items_BL: Tensor
    """Item rows of the inputs, oldest first, left-padded to the longest one (at least 2)."""
    targets_BT: Tensor
    """Item rows of the next T items, padded after the session's end. With `every_position` T is L, and position l
    holds the item after input item l, or padding if that is not a target."""
    users_B: Tensor
    """User rows; 0 is an unknown user."""
    feedback_BT: Feedback | None = None
    """On the targets; None if the log says nothing, or the recipe does not ask for it, and there are no teachers."""

    @property
    def next_items_B(self) -> Tensor:
        """Rows of the next items."""
        return self.targets_BT[:, 0]

    @property
    def next_feedback_B(self) -> Feedback | None:
        """Feedback on the next items."""
        return self.feedback_at((slice(None), 0))

    def feedback_at(self, targets: Index) -> Feedback | None:
        """Return the feedback on some of the targets."""
        return None if self.feedback_BT is None else self.feedback_BT.at(targets)


class _Shown(NamedTuple):
    """Items that were shown before each element of `Examples.rows`: rows[offsets[e]:offsets[e + 1]]."""

    rows: Tensor
    offsets: Tensor

    def before(self, indices: Tensor) -> Tensor:
        """Return the item rows shown before events (any shape) in one more dimension, padded."""
        starts, ends = self.offsets[indices], self.offsets[indices + 1]
        places = starts.unsqueeze(-1) + torch.arange(int((ends - starts).max()), device=indices.device)
        return self.rows[places.clamp(max=len(self.rows) - 1)].masked_fill(places >= ends.unsqueeze(-1), PADDING)


@dataclass(frozen=True)
class Examples:
    """Examples as index ranges of one flat array of item rows: sessions are copied only when a batch is gathered."""

    rows: Tensor
    is_target: Tensor
    """Whether each element of `rows` is a target."""
    begins_E: Tensor
    """Index at which the session of each example begins."""
    starts_E: Tensor
    ends_E: Tensor
    """The input of an example is rows[start:end]."""
    targets_E: Tensor
    """Index of each example's first target; the next T items are rows[target : target + T]."""
    closes_E: Tensor
    """Index at which the session of each example ends."""
    users_E: Tensor
    groups_E: Tensor
    """Examples of one group have the same input and are evaluated as one example with several targets."""
    weights: Tensor | None = None
    """The weight of each element of `rows` as a target, 1 on average; None if all are equal."""
    shown: _Shown | None = None
    shown_weight: float = 0.0
    horizon: int = 1
    every_position: bool = False
    soft_targets: SoftTargetTable | None = None
    """What teachers think of the targets, if there are any."""

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
        weigh_targets: bool = False,
        impression_weight: float = 0.0,
    ) -> Self:
        """Make an example of every target that has an item before it; its input is the newest `max_length` of them.

        Args:
            parts: the sessions.
            max_length: the longest input.
            device: the device of the tensors.
            together: all targets of a session share the input that ends before its first target; an item that is a
                target of the session several times makes one example, of its first occurrence.
            horizon: T, the number of next items that are targets of an example.
            every_position: make examples of windows of at most `max_length` items instead, cut from the session's end
                backwards, with a target at every position.
            weigh_targets: keep the weights of the targets' events.
            impression_weight: weight of the loss of items that were shown and not taken; 0 leaves them out.
        """
        all_bounds = [_windows(part, max_length) if every_position else _prefixes(part, together) for part in parts]
        shifts = np.cumsum([0, *(len(part.rows) for part in parts)])[:-1]
        begins, ends, targets, closes = (
            np.concatenate([getattr(bounds, name) + shift for bounds, shift in zip(all_bounds, shifts, strict=True)])
            for name in _ExampleBounds._fields[:-1]
        )
        arrays = {
            "rows": np.concatenate([part.rows for part in parts]),
            "is_target": np.concatenate([part.is_target for part in parts]),
            "begins_E": begins,
            "starts_E": np.maximum(begins, ends - max_length),
            "ends_E": ends,
            "targets_E": targets,
            "closes_E": closes,
            "users_E": np.concatenate(
                [part.users[bounds.sessions] for part, bounds in zip(parts, all_bounds, strict=True)]
            ),
            "groups_E": np.unique(ends, return_inverse=True)[1],
        }
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        weights = _target_weights(parts, device) if weigh_targets else None
        shown = _shown_items(parts, device) if impression_weight else None
        return cls(
            **tensors,
            weights=weights,
            shown=shown,
            shown_weight=impression_weight,
            soft_targets=None,
            horizon=horizon,
            every_position=every_position,
        )

    def __len__(self) -> int:
        return len(self.targets_E)

    def subset(self, chosen: Tensor) -> Self:
        """Return the examples with the indices `chosen`, in that order."""
        names = ("begins_E", "starts_E", "ends_E", "targets_E", "closes_E", "users_E", "groups_E")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def gather(self, examples_B: Tensor) -> Batch:
        """Gather the batch of the examples with these indices."""
        length = max(int((self.ends_E[examples_B] - self.starts_E[examples_B]).max()), 2)
        indices_BL, valid_BL = self._before_end(examples_B, self.starts_E[examples_B], length)
        items_BL = self.rows[indices_BL].masked_fill(~valid_BL, PADDING)
        if self.every_position:
            following_BL = (indices_BL + 1).clamp(max=len(self.rows) - 1)
            counts_BT = valid_BL & self.is_target[following_BL]
            indices_BT = following_BL
        else:
            future_BT = self.targets_E[examples_B, None] + torch.arange(self.horizon, device=self.rows.device)
            counts_BT = future_BT < self.closes_E[examples_B, None]
            indices_BT = future_BT.clamp(max=len(self.rows) - 1)
        targets_BT = self.rows[indices_BT].masked_fill(~counts_BT, PADDING)
        return Batch(items_BL, targets_BT, self.users_E[examples_B], self._feedback(indices_BT))

    def count_targets(self, examples_B: Tensor) -> int:
        """Return the number of targets of the examples, over which the loss of a batch is a mean."""
        if self.every_position:
            length = max(int((self.ends_E[examples_B] - self.starts_E[examples_B]).max()), 1)
            indices_BL, valid_BL = self._before_end(examples_B, self.starts_E[examples_B], length)
            following_BL = (indices_BL + 1).clamp(max=len(self.rows) - 1)
            return int((valid_BL & self.is_target[following_BL] & (self.rows[following_BL] != PADDING)).sum())
        if self.horizon > 1:
            future_BT = self.targets_E[examples_B, None] + torch.arange(self.horizon, device=self.rows.device)
            counts_BT = future_BT < self.closes_E[examples_B, None]
            return int((counts_BT & (self.rows[future_BT.clamp(max=len(self.rows) - 1)] != PADDING)).sum())
        return len(examples_B)

    def seen(self, examples_B: Tensor) -> Tensor:
        """Return the item rows of the whole session before each example's targets, left-padded, beyond `max_length`."""
        begins_B = self.begins_E[examples_B]
        indices_BL, valid_BL = self._before_end(examples_B, begins_B, int((self.ends_E[examples_B] - begins_B).max()))
        return self.rows[indices_BL].masked_fill(~valid_BL, PADDING)

    def sorted_batches(self, batch_size: int) -> list[Tensor]:
        """Return batches of all examples, sorted by length, for evaluation."""
        return list(self._by_length(torch.arange(len(self), device=self.rows.device)).split(batch_size))

    def shuffled_batches(self, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
        """Return batches of all examples, each of similar lengths, in an order that `seed` and `epoch` determine."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        windows = torch.randperm(len(self), generator=generator).to(self.rows.device).split(batch_size * WINDOW_BATCHES)
        batches = [batch for window in windows for batch in self._by_length(window).split(batch_size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def random_cuts(self, batch_size: int, batches: int, fewest_items: int, seed: int, epoch: int) -> list[Tensor]:
        """Return batches of one random example each of different sessions, as `seed` and `epoch` determine.

        Sessions are sampled uniformly, anew for each batch, and then an example of each.

        Args:
            batch_size: number of sessions of a batch; all of them if there are fewer.
            batches: number of batches.
            fewest_items: an example has at least this many items before its target, also beyond `max_length`.
            seed: seed of a run.
            epoch: number of the epoch.

        Raises:
            InputError: no session has so many items before a target.
        """
        long_enough = torch.nonzero(self.ends_E - self.begins_E >= fewest_items).squeeze(1)
        _, cuts = self.begins_E[long_enough].unique_consecutive(return_counts=True)
        if not len(cuts):
            raise InputError(f"training.examples.fewest_items: no session has {fewest_items} items before a target")
        first, count = (cuts.cumsum(0) - cuts).cpu().numpy(), cuts.cpu().numpy()
        generator = np.random.default_rng([seed, epoch])
        drawn = []
        for _ in range(batches):
            sessions = generator.choice(len(count), min(batch_size, len(count)), replace=False)
            drawn.append(first[sessions] + generator.integers(count[sessions]))
        return [long_enough[torch.from_numpy(batch).to(long_enough.device)] for batch in drawn]

    def _feedback(self, indices_BT: Tensor) -> Feedback | None:
        """Return the feedback on the targets with these indices in `rows`, None if there is none."""
        if self.weights is None and self.shown is None and self.soft_targets is None:
            return None
        return Feedback(
            None if self.weights is None else self.weights[indices_BT],
            None if self.shown is None else self.shown.before(indices_BT),
            self.shown_weight,
            None if self.soft_targets is None else self.soft_targets.of_events(indices_BT),
        )

    def _by_length(self, examples: Tensor) -> Tensor:
        lengths = self.ends_E[examples] - self.starts_E[examples]
        return examples[torch.argsort(lengths, stable=True)]

    def _before_end(self, examples_B: Tensor, starts_B: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return the `length` indices before the end of each input, and a mask of those not before `starts_B`."""
        indices_BL = self.ends_E[examples_B, None] + torch.arange(-length, 0, device=self.rows.device)
        return indices_BL.clamp(min=0), indices_BL >= starts_B[:, None]


def _target_weights(parts: Sequence[Sessions], device: torch.device) -> Tensor | None:
    """Return the weights of all events, scaled so that those of targets are 1 on average; None if all are equal.

    With a mean of 1, a learning rate means the same with weights and without.
    """
    given = [part.weights for part in parts if part.weights is not None]
    if len(given) < len(parts):
        return None
    weights = np.concatenate(given)
    of_targets = weights[np.concatenate([part.is_target for part in parts])]
    if not len(of_targets) or (of_targets == of_targets[0]).all():
        return None
    return torch.from_numpy(weights / of_targets.mean(dtype=np.float64).astype(np.float32)).to(device)


def _shown_items(parts: Sequence[Sessions], device: torch.device) -> _Shown | None:
    """Join the shown items of all parts; None if there are none."""
    counts = [
        np.zeros(len(part.rows), np.int64) if part.shown is None else np.diff(part.shown.offsets) for part in parts
    ]
    rows = [part.shown.rows for part in parts if part.shown is not None]
    if not sum(map(len, rows)):
        return None
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return _Shown(torch.from_numpy(np.concatenate(rows)).to(device), torch.from_numpy(offsets).to(device))


class _ExampleBounds(NamedTuple):
    """Indices of every example: where its session begins, its input ends, its target is and its session ends.

    `sessions` holds the number of its session.
    """

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    targets: NDArray[np.int64]
    closes: NDArray[np.int64]
    sessions: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> "_ExampleBounds":
        """Keep the examples where `chosen` is True."""
        return _ExampleBounds(*(indices[chosen] for indices in self))


def _prefixes(part: Sessions, together: bool) -> _ExampleBounds:
    targets = np.flatnonzero(part.is_target)
    session = np.searchsorted(part.offsets, targets, side="right") - 1
    if together:
        items_and_sessions = np.stack([part.rows[targets], session])
        first = np.sort(np.unique(items_and_sessions, axis=1, return_index=True)[1])
        targets, session = targets[first], session[first]
    begins, closes = part.offsets[session], part.offsets[session + 1]
    ends = targets[np.searchsorted(session, session)] if together else targets
    return _ExampleBounds(begins, ends, targets, closes, session).only(ends > begins)


def _windows(part: Sessions, max_length: int) -> _ExampleBounds:
    """Cut sessions into windows of at most `max_length` input items, backwards from the item before the last."""
    inputs = np.diff(part.offsets) - 1
    windows = -(-inputs // max_length)
    session = np.repeat(np.arange(len(part)), windows)
    number = np.arange(len(session)) - np.repeat(np.cumsum(windows) - windows, windows)
    ends = part.offsets[session + 1] - 1 - number * max_length
    begins = np.maximum(part.offsets[session], ends - max_length)
    return _ExampleBounds(begins, ends, ends, part.offsets[session + 1], session)
