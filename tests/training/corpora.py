"""Corpora for encoders that are not trained."""

import numpy as np
import torch

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Sessions
from onward.training.data.examples import Batch


def sessions(*rows: list[int], users: list[int] | None = None) -> Sessions:
    """Sessions of these item rows, in which every item after the first is a target."""
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
    """Sessions in which every item occurs beside the next one, and the first items more often."""
    walks = [[row, row % items + 1, (row + 1) % items + 1] for row in range(1, items + 1)]
    return Corpus(items, users, (sessions(*walks, *[[1, 2, 3]] * 3),))


def batch(inputs: list[list[int]], targets: list[int], users: list[int] | None = None) -> Batch:
    """A batch of these inputs and next items."""
    length = max(2, *map(len, inputs))
    return Batch(
        items_BL=torch.tensor([[0] * (length - len(items)) + items for items in inputs]),
        targets_BT=torch.tensor(targets)[:, None],
        users_B=torch.tensor(users if users is not None else [0] * len(inputs)),
    )
