"""Negatives of a user: items that none of the user's sessions has.

Dimension key: N items (rows 1..N), U users, C pairs of a user and an item.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Sessions


class UserNegativeSampler(nn.Module):
    """Draws items that a user never had, all alike and without a second try.

    A user's items, ascending, leave gaps: before the j-th of them (from 0) lie its row - 1 - j other items. The r-th
    item of all gaps (from 0) is therefore row 1 + r + the number of the user's items with at most r others before.
    """

    keys_C: Tensor
    """user * (N + 1) + others before the item, of every item that a user had; ascending."""
    firsts_U1: Tensor
    """Where the keys of each user begin."""
    counts_U1: Tensor
    """How many items each user had; none of user 0, who is unknown."""

    def __init__(self, corpus: Corpus) -> None:
        """Learn what each user of the corpus had."""
        super().__init__()
        self.items = corpus.items
        span = corpus.items + 1
        pairs_C = np.unique(np.concatenate([_pairs(part, span) for part in corpus.sessions]))
        users_C, rows_C = np.divmod(pairs_C, span)
        counts_U1 = np.bincount(users_C, minlength=corpus.users + 1)
        firsts_U1 = np.cumsum(counts_U1) - counts_U1
        before_C = rows_C - 1 - (np.arange(len(rows_C)) - firsts_U1[users_C])
        self.register_buffer("keys_C", torch.from_numpy(users_C * span + before_C), persistent=False)
        self.register_buffer("firsts_U1", torch.from_numpy(firsts_U1), persistent=False)
        self.register_buffer("counts_U1", torch.from_numpy(counts_U1), persistent=False)

    def forward(self, users: Tensor) -> Tensor:
        """A row for each of `users` (rows, any shape), by torch's global random state.

        Any item for an unknown user; the last one for a user who had all.
        """
        others = self.items - self.counts_U1[users]
        chance = torch.rand(users.shape, device=users.device, dtype=torch.float64)
        ranks = (chance * others).long()
        had = torch.searchsorted(self.keys_C, users * (self.items + 1) + ranks, right=True) - self.firsts_U1[users]
        return (1 + ranks + had).clamp(max=self.items)


def _pairs(part: Sessions, span: int) -> NDArray[np.int64]:
    """user * span + row of every event of a known user with a known item."""
    users = np.repeat(part.users, np.diff(part.offsets))
    return (users * span + part.rows)[(users > 0) & (part.rows > 0)]
