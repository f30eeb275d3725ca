"""Small corpora of given or generated sessions, to check encoders on without a data set."""

import numpy as np

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Sessions


def sessions(*rows: list[int], users: list[int] | None = None) -> Sessions:
    """Make sessions of these item rows and, if given, user rows, in which every item after the first is a target."""
    lengths = [len(session) for session in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    is_target = np.ones(sum(lengths), dtype=np.bool_)
    is_target[offsets[:-1]] = False
    return Sessions(
        rows=np.array([row for session in rows for row in session], dtype=np.int64),
        offsets=offsets,
        is_target=is_target,
        users=np.array(users if users is not None else [0] * len(rows), dtype=np.int64),
    )


def corpus(items: int, *, users: int = 0) -> Corpus:
    """Make sessions in which every item occurs beside the next one, and the first items more often."""
    walks = [[row, row % items + 1, (row + 1) % items + 1] for row in range(1, items + 1)]
    return Corpus(items, users, (sessions(*walks, *[[1, 2, 3]] * 3),))
