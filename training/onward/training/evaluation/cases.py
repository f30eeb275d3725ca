"""Evaluation cases: the items of a held-out session so far, and the items that came next."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from onward.training.data.dataset import Dataset, PartName, Sessions
from onward.training.errors import InputError


class EvaluationCase(NamedTuple):
    """The items of a session so far, oldest first, and the items that came next, each once."""

    inputs: Sequence[str]
    targets: Sequence[str]
    user_id: str | None = None
    """The user, if training knows the user."""


class RankedItem(Protocol):
    """An item of a ranking, with its score."""

    @property
    def item_id(self) -> str: ...  # noqa: D102  # described by the class
    @property
    def score(self) -> float: ...  # noqa: D102  # described by the class


CaseRanker = Callable[[EvaluationCase, int], Sequence[RankedItem]]
"""Maps a case and k to the k best items, best first."""


def cases_of(sessions: Sessions, *, together: bool, users: Sequence[str] = ()) -> Iterator[EvaluationCase]:
    """Yield one case for each target of `sessions` or, if `together`, one for all targets of each session.

    An item that is a target of a session several times is one target of the case with all of them.
    `users` holds the ids of user rows 1, 2, ...
    """
    ids = sessions.item_ids
    bounds = zip(sessions.offsets[:-1].tolist(), sessions.offsets[1:].tolist(), sessions.users.tolist(), strict=True)
    for start, end, user_row in bounds:
        user_id = users[user_row - 1] if user_row and users else None
        targets = [place for place in range(start + 1, end) if sessions.is_target[place]]
        if together and targets:
            different = dict.fromkeys(ids[place] for place in targets)
            yield EvaluationCase(ids[start : targets[0]], list(different), user_id)
        elif not together:
            for place in targets:
                yield EvaluationCase(ids[start:place], [ids[place]], user_id)


def session_of_cases(sessions: Sessions, *, together: bool) -> NDArray[np.int64]:
    """Return the number of the session of each case that `cases_of` yields, ascending."""
    is_target = sessions.is_target.copy()
    is_target[sessions.offsets[:-1]] = False
    session_of_event = np.repeat(np.arange(len(sessions)), np.diff(sessions.offsets))
    numbers = session_of_event[is_target]
    return np.unique(numbers) if together else numbers


def held_out_cases(dataset: Dataset, part: PartName) -> list[EvaluationCase]:
    """Return the evaluation cases of a part. Raises InputError if there are none."""
    together = dataset.info.targets == "together"
    cases = list(cases_of(dataset.sessions(part), together=together, users=dataset.users()))
    if not cases:
        raise InputError(f"{dataset.folder}: has no {part} part; prepare it with one")
    return cases
