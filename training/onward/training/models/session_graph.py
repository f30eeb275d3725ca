"""The graph of a session's items, from which SR-GNN and its serving form average the neighbours of each item.

Source: Wu et al., "Session-based Recommendation with Graph Neural Networks", AAAI 2019, section 3.2; an edge that
occurs twice in a session counts once, as in the authors' code.
Dimension key: B sessions, L positions.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class SessionGraph(NamedTuple):
    """Two row-normalised adjacency matrices over the positions of a session.

    Every position is a node. Positions of the same item must have the same state; they share the item's weight as a
    neighbour equally, so the result equals the graph over distinct items, without a gather operation. Padding is
    nobody's neighbour; rows of padding positions are finite, but without meaning.
    """

    before_BLL: Tensor
    """Weights of the items that come directly before each position's item anywhere in the session."""
    after_BLL: Tensor
    """Weights of the items that come directly after it."""
    is_item_B1L: Tensor
    """1 where a position holds an item, 0 where it is padding."""

    @classmethod
    def of(cls, items_BL: Tensor) -> "SessionGraph":
        """Build the graphs of a batch; two consecutive items are an edge, which counts once however often it occurs."""
        items_B1L = items_BL.unsqueeze(1)
        is_item_B1L = items_B1L.clamp(max=1).float()
        same_BLL = (items_BL.unsqueeze(2) == items_B1L).float()
        followed_by_BLL = F.pad(same_BLL[:, 1:], (0, 0, 0, 1))
        share_B1L = is_item_B1L / same_BLL.sum(dim=1, keepdim=True)
        edges_BLL = (same_BLL @ followed_by_BLL).clamp(max=1)
        return cls(_mean(edges_BLL.mT * share_B1L), _mean(edges_BLL * share_B1L), is_item_B1L)


def _mean(weights_BLL: Tensor) -> Tensor:
    means_BLL: Tensor = weights_BLL / weights_BLL.sum(dim=2, keepdim=True).clamp(min=1)
    return means_BLL
