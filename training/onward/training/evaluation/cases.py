"""Evaluation cases: the items of a held-out session so far, and the items that came next."""

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple, Protocol, Self

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
BatchRanker = Callable[[Sequence[EvaluationCase], int], Sequence[Sequence[RankedItem]]]
"""Maps cases and k to the k best items of each case, best first."""


def one_by_one(ranker: CaseRanker) -> BatchRanker:
    """Return a ranker of several cases that asks about each alone."""
    return lambda cases, k: [ranker(case, k) for case in cases]


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


EXACT_UP_TO = 100_000
"""Examples of a part that are all evaluated by default; of more, so many are drawn."""
SAMPLE_SEED = 0
"""Seed of the sample of examples: bundles and baselines are asked about the same ones."""


class CaseSample(NamedTuple):
    """The cases that are evaluated: all of a part, or some of them drawn at random."""

    cases: Sequence[EvaluationCase]
    session_E: NDArray[np.int64]
    """The number of the session of each case, ascending."""
    examples: int
    """Number of cases of the part."""

    @classmethod
    def of(cls, dataset: Dataset, part: PartName, size: int | None = None) -> Self:
        """Draw cases of a part uniformly, without replacement, in order of time.

        Args:
            dataset: the dataset.
            part: its part.
            size: number of cases to draw; 0 for all; None for all up to `EXACT_UP_TO`, else so many.

        Raises:
            InputError: there are no cases, or cases of one session only are drawn.
        """
        sessions, together = dataset.sessions(part), dataset.info.targets == "together"
        session_E = session_of_cases(sessions, together=together)
        total = len(session_E)
        if not total:
            raise InputError(f"{dataset.folder}: has no {part} part; prepare it with one")
        size = EXACT_UP_TO if size is None else size or total
        cases = cases_of(sessions, together=together, users=dataset.users())
        if size >= total:
            return cls(list(cases), session_E, total)
        is_drawn_E = np.zeros(total, dtype=np.bool_)
        is_drawn_E[np.random.default_rng(SAMPLE_SEED).choice(total, size, replace=False, shuffle=False)] = True
        session_E = session_E[is_drawn_E]
        if session_E[0] == session_E[-1]:
            raise InputError(f"--sample {size}: draws from one session only, which has no standard error; draw more")
        return cls(list(compress(cases, is_drawn_E)), session_E, total)

    @property
    def is_drawn(self) -> bool:
        """Whether these are some of the cases only."""
        return len(self.cases) < self.examples

    def facts(self) -> dict[str, Any]:
        """Return what a report says of a sample; nothing if all cases are evaluated."""
        if not self.is_drawn:
            return {}
        text = f"{len(self.cases):,} of {self.examples:,} examples, drawn at random (seed {SAMPLE_SEED})"
        return {"sample": text, "examples_of_part": self.examples}


def held_out_cases(dataset: Dataset, part: PartName) -> list[EvaluationCase]:
    """Return all evaluation cases of a part. Raises InputError if there are none."""
    return [*CaseSample.of(dataset, part, 0).cases]
