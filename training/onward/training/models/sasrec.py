"""SASRec, a causal transformer: every position of a session predicts the item after it, in one pass.

Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section III. The loss is the recipe's
objective instead of the paper's one negative for each target; Klenitskiy and Vasilev ("Turning Dross Into Gold Loss",
RecSys 2023) found that the single negative is what limits the paper's results.
Dimension key: B sessions, L positions, D embedding, P positions that have a target.

Positions are counted from the oldest item that is read, so that a session has the same encoding whether it is complete
or the beginning of a longer one: training at every position matches serving at the last position.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from onward.bundle import InputLength
from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.losses.objectives import NextItemLoss, Objective
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import ItemGraphOptions, ItemTable, Similarity, neighbour_graph, with_folded_items
from onward.training.models.transformer import TransformerEncoder

INITIAL_DEVIATION = 0.02


class SASRecOptions(BaseModel):
    """The `[encoder]` table of a recipe for SASRec."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    feed_forward: PositiveInt
    """Width of the hidden layer of each feed-forward network."""
    max_length: InputLength
    """Only the newest items of a session are read, at most this many."""
    similarity: Similarity
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of the embeddings and of the output of each sublayer."""
    objective: Objective
    item_graph: ItemGraphOptions | None = None
    """Vectors of items from those of their neighbours too. Recipes of earlier versions lack the key and mean none."""

    @model_validator(mode="after")
    def _heads_share_the_dimension(self) -> Self:
        if self.dimension % self.heads:
            raise ValueError(f"dimension {self.dimension} is not a multiple of heads {self.heads}")
        return self


class SASRec(SessionEncoder):
    """Encodes a session as one interest: the state of its last position."""

    every_position = True
    takes_soft_targets = True

    def __init__(self, corpus: Corpus, options: SASRecOptions) -> None:
        """Initialise an untrained encoder for the corpus's items from torch's global random state."""
        super().__init__()
        self.max_length = options.max_length
        graph = neighbour_graph(corpus, options.item_graph)
        self.items = ItemTable(corpus.items, options.dimension, options.similarity, graph)
        self.places = nn.Embedding(options.max_length, options.dimension)
        self.dropout = nn.Dropout(options.dropout)
        self.transformer = TransformerEncoder(
            options.dimension,
            layers=options.layers,
            heads=options.heads,
            feed_forward=options.feed_forward,
            dropout=options.dropout,
            causal=True,
            pre_norm=True,
            activation="gelu",
            mixes_heads=True,
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=INITIAL_DEVIATION)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.items.reset_special_weights()
        self.next_item_loss = NextItemLoss.of(options.objective, corpus.popularity())

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1D; see `SessionEncoder.forward`."""
        return self._interests(items_BL, last_only=True)

    def item_vectors(self) -> Tensor:
        """Return vectors_ND: the same embeddings that encode sessions."""
        return self.items.vectors()

    def serving_form(self) -> nn.Module:
        """Return the encoder with a folded item table."""
        return with_folded_items(self)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean of the objective over all positions that have a target."""
        has_target_BL = batch.targets_BT != PADDING
        interests_PD = self._interests(batch.items_BL, last_only=False)[has_target_BL]
        loss: Tensor = self.next_item_loss(
            interests_PD, batch.targets_BT[has_target_BL], self.items, batch.feedback_at(has_target_BL)
        )
        return loss

    def _interests(self, items_BL: Tensor, *, last_only: bool) -> Tensor:
        """Return interests_BLD of all positions, or interests_B1D of the last."""
        valid_BL = items_BL != PADDING
        places_BL = (valid_BL.long().cumsum(dim=1) - 1).clamp(min=0, max=self.max_length - 1)
        embedded_BLD = self.dropout(self._to_unit_variance(self.items(items_BL)) + self.places(places_BL))
        states_BTD: Tensor = self.transformer(embedded_BLD, valid_BL, last_only=last_only)
        return self.items.interest(states_BTD)

    def _to_unit_variance(self, embedded_BLD: Tensor) -> Tensor:
        """Scale embeddings by sqrt(D), to the initial scale of the position embeddings; not with the cosine."""
        return embedded_BLD if self.items.scale else embedded_BLD * embedded_BLD.shape[2] ** 0.5
