"""How often visitors come back to an item of their session, and what a bundle therefore leaves out of its answers.

Dimension key: E events, T targets.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle.search.retrieval import DefaultExcludeSeen
from onward.training.data.dataset import Dataset, PartName, Sessions

LAST_IS_NEXT = 0.5
"""From this share of targets on that are the item at hand, it is recommended again: songs on repeat, not pages."""
EARLIER_IS_NEXT = 0.02
"""From this share of targets on that are an earlier item of the session, such items are recommended again."""


class Repeats(NamedTuple):
    """How many targets of held-out sessions are items of the session so far."""

    part: PartName
    targets: int
    last: float
    """Share of targets that are the item at hand: the last one before the target."""
    earlier: float
    """Share of targets that are another item of the session so far."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Repeats":
        """Count them in the validation part, or in the training part if there is none."""
        part: PartName = "validation" if "validation" in dataset.info.parts else "train"
        is_last_T, is_seen_T = _repeats(dataset.sessions(part), together=dataset.info.targets == "together")
        targets = len(is_last_T)
        last = float(is_last_T.sum() / max(targets, 1))
        return cls(part, targets, last, float((is_seen_T & ~is_last_T).sum() / max(targets, 1)))

    @property
    def exclude_seen(self) -> DefaultExcludeSeen:
        """What to leave out by default: nothing, the item at hand, or all items of the session."""
        if self.last >= LAST_IS_NEXT:
            return False
        return "last" if self.earlier >= EARLIER_IS_NEXT else True

    def __str__(self) -> str:
        left_out = {False: "nothing", "last": "the item at hand", True: "all items of the session"}[self.exclude_seen]
        return (
            f"left out of answers by default: {left_out} (of {self.targets:,} {self.part} targets {self.last:.1%} "
            f"are the item at hand, {self.earlier:.1%} an earlier one)"
        )


def _repeats(sessions: Sessions, *, together: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each target is the last item before it, and whether it is any; unknown items are no repeats.

    If `together`, the items before a session's first target are before all its targets.
    """
    starts, rows_E = sessions.offsets[:-1], sessions.rows
    is_target_E = sessions.is_target.copy()
    is_target_E[starts] = False
    session_E = np.repeat(np.arange(len(sessions)), np.diff(sessions.offsets))
    targets_T = np.flatnonzero(is_target_E)
    ends_T = targets_T
    if together and len(targets_T):
        _, first, inverse = np.unique(session_E[targets_T], return_index=True, return_inverse=True)
        ends_T = targets_T[first][inverse]
    key_E = session_E * (int(rows_E.max(initial=0)) + 1) + rows_E
    _, first_place, inverse = np.unique(key_E, return_index=True, return_inverse=True)
    is_known_T = rows_E[targets_T] > 0
    is_last_T = is_known_T & (rows_E[targets_T] == rows_E[ends_T - 1])
    is_seen_T = is_known_T & (first_place[inverse][targets_T] < ends_T)
    return is_last_T, is_seen_T
