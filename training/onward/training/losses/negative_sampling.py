"""Negative samplers, and the expected count of each item among their samples.

Dimension key: N items (rows 1..N), S negatives.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Distribution = Literal["uniform", "log_uniform"]


class Negatives(NamedTuple):
    """Items sampled with replacement, shared by the whole batch."""

    rows_S: Tensor
    log_expected_count_S: Tensor
    """log(S q(item)) of each negative."""


class NegativeSampler(nn.Module):
    """Samples items uniformly, or log-uniformly over their popularity ranks.

    The log-uniform distribution gives the item of rank r, from 0, the probability log((r + 2) / (r + 1)) / log(N + 1).
    It is close to Zipf's law and so to the popularity of most catalogs.
    """

    rows_N: Tensor
    """Item rows, the most popular first."""

    def __init__(self, popularity_N1: NDArray[np.int64], distribution: Distribution) -> None:
        """Create a sampler of the items in rows 1..N; popularity_N1 holds their numbers of events."""
        super().__init__()
        order_N = torch.from_numpy(popularity_N1[1:]).argsort(descending=True, stable=True)
        self.register_buffer("rows_N", order_N + 1, persistent=False)
        self.distribution = distribution

    def forward(self, count: int) -> Negatives:
        """Sample `count` items from torch's global random state."""
        items = len(self.rows_N)
        chance_S = torch.rand(count, device=self.rows_N.device, dtype=torch.float64)
        if self.distribution == "uniform":
            ranks_S = (chance_S * items).long()
            log_q_S = torch.full_like(chance_S, -math.log(items))
        else:
            ranks_S = ((chance_S * math.log(items + 1)).exp().long() - 1).clamp(0, items - 1)
            log_q_S = ((ranks_S + 2.0) / (ranks_S + 1.0)).log().log() - math.log(math.log(items + 1))
        return Negatives(self.rows_N[ranks_S], (log_q_S + math.log(count)).float())
