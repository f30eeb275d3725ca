"""The content network: from the features of an item to its vector.

Each feature has an embedding; their weighted sum goes through a linear map and, beside it, a layer of rectified units.

Dimension key: B items, E features of all of them, T features of one, H embedding of a feature, D item vector, N rows of
the item table (row 0 pads), M items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from onward.bundle.content.features import ItemFeatures

FEATURE_DIMENSION = 128
HIDDEN = 256
FEATURE_DROPOUT = 0.3
"""Share of an item's features that a training step leaves out."""
DROPOUT = 0.1


class FeatureTable(NamedTuple):
    """The features of M items one after the other: item m has those from offsets[m] to offsets[m + 1]."""

    rows: Tensor
    weights: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, items: Sequence[ItemFeatures]) -> "FeatureTable":
        """Join the features of items."""
        counts = [len(features.rows_T) for features in items]
        return cls(
            torch.from_numpy(np.concatenate([features.rows_T for features in items])),
            torch.from_numpy(np.concatenate([features.weights_T for features in items])),
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        )

    def gather(self, items_B: Tensor) -> "FeatureTable":
        """Return the features of some items."""
        counts_B = self.offsets[items_B + 1] - self.offsets[items_B]
        offsets = F.pad(counts_B.cumsum(0), (1, 0))
        places = torch.arange(int(offsets[-1])) + (self.offsets[items_B] - offsets[:-1]).repeat_interleave(counts_B)
        return FeatureTable(self.rows[places], self.weights[places], offsets)


class ContentNetwork(nn.Module):
    """Turns features into item vectors. It begins as a linear map of the sum of embeddings."""

    def __init__(self, features: int, dimension: int) -> None:
        """Initialise an untrained network for rows 1..features from torch's global random state."""
        super().__init__()
        self.table = nn.Parameter(torch.empty(features + 1, FEATURE_DIMENSION))
        self.linear = nn.Linear(FEATURE_DIMENSION, dimension)
        self.hidden = nn.Linear(FEATURE_DIMENSION, HIDDEN)
        self.output = nn.Linear(HIDDEN, dimension)
        nn.init.normal_(self.table, std=0.1)
        with torch.no_grad():
            self.table[0] = 0
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: FeatureTable) -> Tensor:
        """Return vectors_BD of the items of a table."""
        weights = F.dropout(features.weights, FEATURE_DROPOUT, self.training)
        sums_BH = F.embedding_bag(
            features.rows, self.table, features.offsets[:-1], mode="sum", per_sample_weights=weights, padding_idx=0
        )
        return self.vectors(F.dropout(sums_BH, DROPOUT, self.training))

    def vectors(self, sums_BH: Tensor) -> Tensor:
        """Return vectors_BD, given the weighted sum of each item's embeddings."""
        vectors_BD: Tensor = self.linear(sums_BH) + self.output(F.relu(self.hidden(sums_BH)))
        return vectors_BD


class ServingForm(nn.Module):
    """The network for one item, as it is exported: rows_T and weights_T give vector_D.

    With a length, all vectors get it.
    """

    def __init__(self, network: ContentNetwork, length: float | None) -> None:
        super().__init__()
        self.network = network.eval()
        self.length = length

    def forward(self, rows_T: Tensor, weights_T: Tensor) -> Tensor:
        """Return vector_D of the item with these features."""
        vector_D = self.network.vectors(weights_T @ self.network.table[rows_T])
        return vector_D if self.length is None else with_length(vector_D, self.length)


def with_length(vectors_BD: Tensor, length: float) -> Tensor:
    """Scale vectors to a length."""
    return F.normalize(vectors_BD, dim=-1) * length


@torch.inference_mode()
def content_vectors(network: ContentNetwork, features: FeatureTable, length: float | None) -> NDArray[np.float32]:
    """Return vectors_MD of all items of a table."""
    network.eval()
    batches = [network(features.gather(items_B)) for items_B in torch.arange(len(features.offsets) - 1).split(4096)]
    vectors_MD = torch.cat(batches)
    scaled: NDArray[np.float32] = (vectors_MD if length is None else with_length(vectors_MD, length)).numpy()
    return scaled
