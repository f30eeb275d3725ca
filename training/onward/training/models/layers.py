"""Blocks that models share.

Dimension key: B sessions, L positions, D embedding, N rows (row 0 pads).
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor, nn

from onward.training.data.padding import PADDING

MAX_TABLE_BYTES = 256 * 2**20
"""Of what an encoder's serving form holds of all items beforehand; a larger catalog's is computed for each session."""


class InnerProduct(BaseModel):
    """Score by the inner product of interest and item, whatever their lengths."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["inner_product"]


class Cosine(BaseModel):
    """Score by the cosine of interest and item, times `scale`: popular items gain nothing by long vectors.

    Source: Gupta et al., "NISER: Normalized Item and Session Representations", 2019.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["cosine"]
    scale: PositiveFloat


Similarity = Annotated[InnerProduct | Cosine, Field(discriminator="kind")]


class ItemTable(nn.Module):
    """The item embeddings, and the space in which interests are compared with them."""

    def __init__(self, items: int, dimension: int, similarity: Similarity) -> None:
        super().__init__()
        self.embedding = nn.Embedding(items + 1, dimension, padding_idx=PADDING)
        self.scale = similarity.scale if isinstance(similarity, Cosine) else None

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of some rows: the embeddings, of length 1 where the cosine is the score."""
        return self.to_score_space(self.embedding(rows))

    def vectors(self) -> Tensor:
        """vectors_ND of all rows."""
        return self.to_score_space(self.embedding.weight)

    def interest(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) as interests, whose inner products with item vectors are the scores."""
        return vectors if self.scale is None else self.scale * self.to_score_space(vectors)

    def to_score_space(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) with length 1 where the cosine is the score, else as they are."""
        return vectors if self.scale is None else F.normalize(vectors, dim=-1)


def places_from_end(items_BL: Tensor, max_length: int) -> Tensor:
    """places_L of the positions in a table of `max_length` places, whose last is that of a session's newest item.

    Padding that goes further back than the table has its first place.
    """
    length = items_BL.shape[1]
    return torch.arange(max_length - length, max_length, device=items_BL.device).clamp(min=0)
