"""What held-out sessions ask: the items so far, and those that came next; and what an answer is."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from onward.training.data.dataset import Dataset, PartName, Sessions
from onward.training.errors import InputError


class EvaluationCase(NamedTuple):
    """One example: the items of a session so far, oldest first, and those that came next."""

    inputs: Sequence[str]
    targets: Sequence[str]
    user_id: str | None = None
    """Of the user, where training saw one."""


class RankedItem(Protocol):
    """An item of an answer."""

    @property
    def item_id(self) -> str: ...  # noqa: D102  # said by the class
    @property
    def score(self) -> float: ...  # noqa: D102  # said by the class


CaseRanker = Callable[[EvaluationCase, int], Sequence[RankedItem]]
"""A question, and how many items are wanted -> the best of them, best first."""


def questions(sessions: Sessions, *, together: bool, users: Sequence[str] = ()) -> Iterator[EvaluationCase]:
    """Every example of `sessions`: one for each target, or one for all targets of a session together.

    `users` has the id of each user row from 1 on.
    """
    ids = sessions.item_ids
    bounds = zip(sessions.offsets[:-1].tolist(), sessions.offsets[1:].tolist(), sessions.users.tolist(), strict=True)
    for start, end, user_row in bounds:
        user_id = users[user_row - 1] if user_row and users else None
        targets = [place for place in range(start + 1, end) if sessions.is_target[place]]
        if together and targets:
            yield EvaluationCase(ids[start : targets[0]], [ids[place] for place in targets], user_id)
        elif not together:
            for place in targets:
                yield EvaluationCase(ids[start:place], [ids[place]], user_id)


def held_out_cases(dataset: Dataset, part: PartName) -> list[EvaluationCase]:
    """The examples of a part. Raises InputError when there are none."""
    together = dataset.info.targets == "together"
    asked = list(questions(dataset.sessions(part), together=together, users=dataset.users()))
    if not asked:
        raise InputError(f"{dataset.folder}: has no {part} part; prepare it with one")
    return asked
