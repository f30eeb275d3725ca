"""MIND: several interests of one session, by dynamic routing from behaviour to interest (B2I).

Source: Li et al., "Multi-Interest Network with Dynamic Routing for Recommendation at Tmall", CIKM 2019, sections 3.3
to 3.6.
Dimension key: B sessions, L positions, D embedding, K interests, N rows of the item table (row 0 pads).

The paper draws routing logits from a normal distribution without saying when; public implementations draw them at each
call, so that equal requests get different answers. Here they are drawn once, per interest and place from the session's
end, and stored with the weights. The paper's label-aware attention raises an interest's agreement with the target to a
power p before its softmax; as p grows it becomes the choice of the nearest interest, the best form in the paper's
experiments and the one here. There is no user profile to join to the capsules before the rectified layer.

Options of a recipe that the paper does not have: cosine similarity with a scale, dropout of the item embeddings, the
full softmax, interests that start as means of items.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from onward.bundle import InputLength
from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.losses.objectives import NegativeInterest, NextItemLoss, Objective
from onward.training.models.capsules import route
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import ItemTable, Similarity, places_from_end


class MINDOptions(BaseModel):
    """The `[encoder]` table of a recipe for MIND."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    interests: PositiveInt
    """K, the maximum number of interests of a session."""
    adaptive_interests: bool
    """A session of n items has max(1, min(K, log2 n)) interests, rounded down; else every session has K."""
    rounds: PositiveInt
    """Number of routing rounds."""
    projection: bool
    """Pass the capsules through a linear layer with ReLU."""
    max_length: InputLength
    """Only the newest items of a session are read, at most this many."""
    initial: Literal["glorot", "item_means"]
    """Initial value of the vote matrix: uniform by Glorot and Bengio's rule, as all other weights; or the identity, so
    that items vote for themselves and interests begin as means of items."""
    similarity: Similarity
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of the item embeddings."""
    objective: Objective
    negative_interest: NegativeInterest


class MIND(SessionEncoder):
    """Encodes a session as at most K capsules; all items vote through one shared matrix.

    A session with fewer interests repeats its first one, which changes neither the best score of an item nor a loss.
    """

    routing_KL: Tensor
    """Routing logits of the first round, by place; the newest item has the last place."""
    fewest_items_K: Tensor
    """Number of items that a session needs to have each interest."""

    takes_soft_targets = True

    def __init__(self, corpus: Corpus, options: MINDOptions) -> None:
        """Initialise an untrained encoder for the corpus's items from torch's global random state.

        Weights start uniform by Glorot and Bengio's rule, biases at 0.
        """
        super().__init__()
        self.max_length, self.rounds = options.max_length, options.rounds
        self.dropout = nn.Dropout(options.dropout)
        self.items = ItemTable(corpus.items, options.dimension, options.similarity)
        self.vote = nn.Linear(options.dimension, options.dimension, bias=False)
        self.projection = nn.Linear(options.dimension, options.dimension) if options.projection else None
        for name, weight in self.named_parameters():
            nn.init.zeros_(weight) if name.endswith("bias") else nn.init.xavier_uniform_(weight)
        if options.initial == "item_means":
            nn.init.eye_(self.vote.weight)
        with torch.no_grad():
            self.items.embedding.weight[PADDING] = 0
        self.register_buffer("routing_KL", torch.randn(options.interests, options.max_length))
        self.register_buffer("fewest_items_K", fewest_items(options.interests, adaptive=options.adaptive_interests))
        self.negative_interest = options.negative_interest
        self.next_item_loss = NextItemLoss.of(options.objective, corpus.popularity())

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_BKD; see `SessionEncoder.forward`."""
        valid_BL = items_BL != PADDING
        has_BK1 = (valid_BL.sum(dim=1, keepdim=True) >= self.fewest_items_K).unsqueeze(2)
        logits_KL = self.routing_KL[:, places_from_end(items_BL, self.max_length)]
        logits_BKL = torch.where(has_BK1, logits_KL, -torch.inf)
        votes_BLD = self.vote(self.dropout(self.items(items_BL)))
        capsules_BKD = route(votes_BLD.unsqueeze(1), logits_BKL.unsqueeze(1), valid_BL, self.rounds)
        if self.projection is not None:
            capsules_BKD = torch.relu(self.projection(capsules_BKD))
        return self.items.interest(torch.where(has_BK1, capsules_BKD, capsules_BKD[:, :1]))

    def item_vectors(self) -> Tensor:
        """Return vectors_ND; see `SessionEncoder.item_vectors`."""
        return self.items.vectors()

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of the next item for the interest nearest to it, by the recipe's objective."""
        interests_BKD = self(batch.items_BL)
        return self.next_item_loss.multi_interest(
            interests_BKD, batch.next_items_B, self.items, self.negative_interest, batch.next_feedback_B
        )


def fewest_items(interests: int, *, adaptive: bool) -> Tensor:
    """Return the number of items that each of K interests needs: 0, or adaptively 2^k for the k-th from 2 on."""
    counts_K = torch.zeros(interests, dtype=torch.int64)
    if adaptive:
        counts_K[1:] = 2 ** torch.arange(2, interests + 1)
    return counts_K
