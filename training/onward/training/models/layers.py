"""Layers that several models share.

Dimension key: B sessions, L positions, D embedding, N rows (row 0 pads).
"""

from copy import deepcopy
from typing import Annotated, Literal, Protocol, TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from onward.training.data.corpus import Corpus
from onward.training.data.item_graph import NeighbourGraph
from onward.training.data.padding import PADDING
from onward.training.ranks.ranks import Ranks
from onward.training.ranks.sharded_table import ShardedEmbedding

MAX_TABLE_BYTES = 256 * 2**20
"""Size limit of an item table precomputed for serving; larger ones are computed per session instead."""


INITIAL_GATE = 0.5
"""Initial factor of the mean of an item's neighbours."""


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


_InnerProduct = InnerProduct(kind="inner_product")
Similarity = Annotated[InnerProduct | Cosine, Field(discriminator="kind")]


class ItemGraphOptions(BaseModel):
    """Which items lend each item part of their embeddings: those that are most often near it in sessions."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    neighbours: PositiveInt
    """At most so many for each item."""
    reach: PositiveInt
    """An item is near another if it is at most this many steps away in a session."""


def neighbour_graph(corpus: Corpus, options: ItemGraphOptions | None) -> NeighbourGraph | None:
    """Count the neighbours of a corpus's items, if a recipe asks for them."""
    return None if options is None else NeighbourGraph(corpus, options.neighbours, options.reach)


class ItemTable(nn.Module):
    """The item embeddings, and the mapping of items and interests to vectors whose inner products are the scores.

    With an item graph, the vector of an item is its embedding plus a learnt factor, one for each dimension, times the
    mean of its neighbours' embeddings, so that rare items learn from the events of others.
    """

    def __init__(self, items: int, dimension: int, similarity: Similarity, graph: NeighbourGraph | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(items + 1, dimension, padding_idx=PADDING)
        self.scale = similarity.scale if isinstance(similarity, Cosine) else None
        self.graph = graph
        self.gate_D = None if graph is None else nn.Parameter(torch.empty(dimension))
        self.reset_special_weights()

    def reset_special_weights(self) -> None:
        """Set the embedding of the padding to 0, and the factor of the neighbours to its initial value."""
        with torch.no_grad():
            self.embedding.weight[PADDING] = 0
            if self.gate_D is not None:
                self.gate_D.fill_(INITIAL_GATE)

    @property
    def ranks(self) -> Ranks | None:
        """The ranks that own the rows; None if this process has all of them."""
        return self.embedding.ranks if isinstance(self.embedding, ShardedEmbedding) else None

    def shard(self, ranks: Ranks) -> None:
        """Keep the rows that this rank owns, of a table that all ranks have alike."""
        self.embedding = ShardedEmbedding(self.embedding.weight, ranks)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors of item rows: the embeddings, of length 1 if the score is the cosine."""
        vectors: Tensor = self.embedding(rows)
        if self.graph is not None and self.gate_D is not None:
            vectors = vectors + self.gate_D * self.graph.of_rows(rows, self.embedding)
        return self.to_score_space(vectors)

    def vectors(self) -> Tensor:
        """Return vectors_ND of all rows, or of those that this rank owns."""
        return self.to_score_space(self._mixed())

    def folded(self) -> "ItemTable":
        """Return a table of the same vectors without a graph; its weights must not change afterwards."""
        folded = ItemTable(self.embedding.num_embeddings - 1, self.embedding.embedding_dim, _InnerProduct)
        folded.scale = self.scale
        with torch.no_grad():
            folded.embedding.weight.copy_(self._mixed())
        return folded

    def _mixed(self) -> Tensor:
        """Return the embeddings of all rows with the parts of their neighbours."""
        if self.graph is None or self.gate_D is None:
            return self.embedding.weight
        mixed_ND: Tensor = self.embedding.weight + self.gate_D * self.graph.of_all(self.embedding.weight)
        return mixed_ND

    def interest(self, vectors: Tensor) -> Tensor:
        """Scale vectors (..., D) to interests, whose inner products with item vectors are the scores."""
        return vectors if self.scale is None else self.scale * self.to_score_space(vectors)

    def to_score_space(self, vectors: Tensor) -> Tensor:
        """Normalise vectors (..., D) to length 1 if the score is the cosine, else return them unchanged."""
        return vectors if self.scale is None else F.normalize(vectors, dim=-1)


class HasItemTable(Protocol):
    """An encoder with an item table."""

    items: ItemTable


Encoder = TypeVar("Encoder", bound=HasItemTable)


def with_folded_items(encoder: Encoder) -> Encoder:
    """Return an encoder that needs no item graph: a copy with a folded item table, itself if it has no graph."""
    if encoder.items.graph is None:
        return encoder
    folded = deepcopy(encoder)
    folded.items = encoder.items.folded()
    return folded


def places_from_end(items_BL: Tensor, max_length: int) -> Tensor:
    """Return places_L, the indices of positions in a table of `max_length` places; the newest item has the last place.

    Padding further from the end than `max_length` has the first place.
    """
    length = items_BL.shape[1]
    return torch.arange(max_length - length, max_length, device=items_BL.device).clamp(min=0)
