"""Layers that several models share.

Dimension key: B sessions, L positions, D embedding, N rows (row 0 pads).
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor, nn

from onward.training.data.padding import PADDING

MAX_TABLE_BYTES = 256 * 2**20
"""Size limit of an item table precomputed for serving; larger ones are computed per session instead."""


class InnerProduct(BaseModel):
    """Score by the inner product of interest and item vector."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["inner_product"]


class Cosine(BaseModel):
    """Score by the cosine of interest and item vector, times `scale`, so that popular items gain nothing by length.

    Source: Gupta et al., "NISER: Normalized Item and Session Representations", 2019.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["cosine"]
    scale: PositiveFloat


Similarity = Annotated[InnerProduct | Cosine, Field(discriminator="kind")]


class ItemTable(nn.Module):
    """The item embeddings, and the mapping of items and interests to vectors whose inner products are the scores."""

    def __init__(self, items: int, dimension: int, similarity: Similarity) -> None:
        super().__init__()
        self.embedding = nn.Embedding(items + 1, dimension, padding_idx=PADDING)
        self.scale = similarity.scale if isinstance(similarity, Cosine) else None

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors of item rows: the embeddings, of length 1 if the score is the cosine."""
        return self.to_score_space(self.embedding(rows))

    def vectors(self) -> Tensor:
        """Return vectors_ND of all rows."""
        return self.to_score_space(self.embedding.weight)

    def interest(self, vectors: Tensor) -> Tensor:
        """Scale vectors (..., D) to interests, whose inner products with item vectors are the scores."""
        return vectors if self.scale is None else self.scale * self.to_score_space(vectors)

    def to_score_space(self, vectors: Tensor) -> Tensor:
        """Normalise vectors (..., D) to length 1 if the score is the cosine, else return them unchanged."""
        return vectors if self.scale is None else F.normalize(vectors, dim=-1)


def places_from_end(items_BL: Tensor, max_length: int) -> Tensor:
    """Return places_L, the indices of positions in a table of `max_length` places; the newest item has the last place.

    Padding further from the end than `max_length` has the first place.
    """
    length = items_BL.shape[1]
    return torch.arange(max_length - length, max_length, device=items_BL.device).clamp(min=0)
