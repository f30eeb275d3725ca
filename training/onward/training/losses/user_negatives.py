"""Negatives for a user: items that the user never interacted with.

Dimension key: N items (rows 1..N), U users, C distinct pairs of a user and an item.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Sessions


class UserNegativeSampler(nn.Module):
    """Samples uniformly from the items that a user never had, without rejection.

    Here such items are called free. Before the j-th item of a user (from 0, ascending rows) there are
    row - 1 - j free items. The r-th free item (from 0) is therefore in row 1 + r + the number of the user's items that
    have at most r free items before them, which a binary search finds.
    """

    keys_C: Tensor
    """user * (N + 1) + number of free items before the item, for every item that a user had; ascending."""
    firsts_U1: Tensor
    """Index of the first key of each user."""
    counts_U1: Tensor
    """Number of items that each user had; 0 for user 0, who is unknown."""

    def __init__(self, corpus: Corpus) -> None:
        """Index the items of each user of the corpus."""
        super().__init__()
        self.items = corpus.items
        span = corpus.items + 1
        pairs_C = np.unique(np.concatenate([_pairs(part, span) for part in corpus.sessions]))
        users_C, rows_C = np.divmod(pairs_C, span)
        counts_U1 = np.bincount(users_C, minlength=corpus.users + 1)
        firsts_U1 = np.cumsum(counts_U1) - counts_U1
        free_before_C = rows_C - 1 - (np.arange(len(rows_C)) - firsts_U1[users_C])
        self.register_buffer("keys_C", torch.from_numpy(users_C * span + free_before_C), persistent=False)
        self.register_buffer("firsts_U1", torch.from_numpy(firsts_U1), persistent=False)
        self.register_buffer("counts_U1", torch.from_numpy(counts_U1), persistent=False)

    def forward(self, users: Tensor) -> Tensor:
        """Sample an item row for each of `users` (user rows, any shape) from torch's global random state.

        An unknown user gets any item; a user who had all items gets the last one.
        """
        free = self.items - self.counts_U1[users]
        chance = torch.rand(users.shape, device=users.device, dtype=torch.float64)
        ranks = (chance * free).long()
        taken = torch.searchsorted(self.keys_C, users * (self.items + 1) + ranks, right=True) - self.firsts_U1[users]
        return (1 + ranks + taken).clamp(max=self.items)


def _pairs(part: Sessions, span: int) -> NDArray[np.int64]:
    """Return user * span + row of every event of a known user with a known item."""
    users = np.repeat(part.users, np.diff(part.offsets))
    return (users * span + part.rows)[(users > 0) & (part.rows > 0)]
