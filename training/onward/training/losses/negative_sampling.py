"""Negative samplers, and the expected count of each item among their samples.

Dimension key: N items (rows 1..N), S negatives, T draws.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Distribution = Literal["uniform", "log_uniform"]


class Negatives(NamedTuple):
    """Sampled items, shared by the whole batch."""

    rows_S: Tensor
    log_expected_count_S: Tensor
    """Log of the expected count of each negative in such a sample."""
    draws: float
    """Number of draws that the sample took: S, or more if the negatives are distinct."""


class NegativeSampler(nn.Module):
    """Samples items uniformly, or log-uniformly over their popularity ranks.

    The log-uniform distribution gives the item of rank r, from 0, the probability log((r + 2) / (r + 1)) / log(N + 1).
    It is close to Zipf's law and so to the popularity of most catalogs.

    Negatives are drawn with replacement, so that an item of probability q has the expected count S q; or, if distinct,
    until there are S different ones. After T draws the expected count of an item is then the probability that it was
    drawn at all, 1 - (1 - q)^T, as in TensorFlow's candidate samplers.
    """

    rows_N: Tensor
    """Item rows, the most popular first."""
    ranks_N1: Tensor
    """Popularity rank of each row, from 0; that of the padding has no meaning."""

    def __init__(self, popularity_N1: NDArray[np.int64], distribution: Distribution, *, distinct: bool = False) -> None:
        """Create a sampler of the items in rows 1..N; popularity_N1 holds their numbers of events."""
        super().__init__()
        order_N = torch.from_numpy(popularity_N1[1:]).argsort(descending=True, stable=True)
        self.register_buffer("rows_N", order_N + 1, persistent=False)
        ranks_N1 = torch.zeros(len(popularity_N1), dtype=torch.int64)
        ranks_N1[self.rows_N] = torch.arange(len(order_N))
        self.register_buffer("ranks_N1", ranks_N1, persistent=False)
        self.distribution, self.distinct = distribution, distinct

    def forward(self, count: int) -> Negatives:
        """Sample `count` items from torch's global random state; if distinct, all items when there are no more."""
        ranks_S, draws = self._distinct_ranks(count) if self.distinct else (self._ranks(count), count)
        rows_S = self.rows_N[ranks_S]
        return Negatives(rows_S, self.log_expected_count(rows_S, draws), draws)

    def log_expected_count(self, rows: Tensor, draws: float) -> Tensor:
        """Return the log of the expected count of item rows (any shape) in a sample that took this many draws."""
        q = self._probability(self.ranks_N1[rows])
        return (-torch.expm1(draws * torch.log1p(-q)) if self.distinct else draws * q).log().float()

    def _ranks(self, count: int) -> Tensor:
        """Draw `count` popularity ranks with replacement."""
        items = len(self.rows_N)
        chance_T = torch.rand(count, device=self.rows_N.device, dtype=torch.float64)
        if self.distribution == "uniform":
            return (chance_T * items).long()
        return ((chance_T * math.log(items + 1)).exp().long() - 1).clamp(0, items - 1)

    def _distinct_ranks(self, count: int) -> tuple[Tensor, float]:
        """Draw ranks until `count` are different; return them in the order drawn, and the number of draws."""
        if count >= len(self.rows_N):
            return torch.arange(len(self.rows_N), device=self.rows_N.device), math.inf
        ranks_T = self._ranks(count)
        while len(first_S := _first_occurrences(ranks_T)) < count:
            ranks_T = torch.cat([ranks_T, self._ranks(count)])
        first_S = first_S[:count]
        return ranks_T[first_S], int(first_S[-1]) + 1

    def _probability(self, ranks: Tensor) -> Tensor:
        if self.distribution == "uniform":
            return torch.full_like(ranks, 1 / len(self.rows_N), dtype=torch.float64)
        return (1 / (ranks.double() + 1)).log1p() / math.log(len(self.rows_N) + 1)


def _first_occurrences(values_T: Tensor) -> Tensor:
    """Return the index of the first occurrence of each value, ascending."""
    places_T = torch.arange(len(values_T), device=values_T.device)
    different, number_T = values_T.unique(return_inverse=True)
    first = torch.full_like(different, len(values_T)).scatter_reduce(0, number_T, places_T, "amin")
    return first.sort().values
