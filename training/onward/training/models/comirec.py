"""ComiRec: several interests of one session, by self-attention (SA) or by dynamic routing (DR).

Source: Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020, section 3.2.
Dimension key: B sessions, L positions, D embedding, K interests, H attention, N rows of the item table (row 0 pads).

Where the paper and its authors' code differ, this follows the code: SA's attention has biases, and the loss of the
paper's recipes is the sampled softmax with the logQ correction of target and negatives. Unlike the code, which pads on
the right, places are counted from the session's end, so that the newest item always has the same place.

The third part of the framework, controllable diversity, re-ranks what any model retrieves:
`onward.bundle.search.diversity`.

Options of a recipe that the paper does not have: cosine similarity with a scale, dropout of the item embeddings, the
full softmax; for DR, interests that start as means of items; for SA, the penalty of Xie et al., "Rethinking
Multi-Interest Learning for Candidate Matching in Recommender Systems" (REMI), RecSys 2023, section 3.3, on interests
that attend to a single item.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from onward.bundle import InputLength
from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.losses.objectives import NegativeInterest, NextItemLoss, Objective
from onward.training.models.capsules import route
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import MAX_TABLE_BYTES, ItemTable, Similarity, places_from_end


class ComiRecSAOptions(BaseModel):
    """The `[encoder]` table of a recipe for ComiRec-SA."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    interests: PositiveInt
    attention_dimension: PositiveInt
    """H, the width of the attention's hidden layer."""
    max_length: InputLength
    """Only the newest items of a session are read, at most this many."""
    similarity: Similarity
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of the item embeddings."""
    concentration_penalty: NonNegativeFloat
    """Weight of `concentration` in the loss."""
    objective: Objective
    negative_interest: NegativeInterest


class ComiRecDROptions(BaseModel):
    """The `[encoder]` table of a recipe for ComiRec-DR."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    interests: PositiveInt
    rounds: PositiveInt
    """Number of routing rounds."""
    max_length: InputLength
    """Only the newest items of a session are read, at most this many; each place has interests x dimension x dimension
    weights."""
    initial: Literal["standard_normal", "item_means"]
    """Initial value of the vote matrices: N(0, 1); or the identity plus N(0, 1 / 4D), so that items vote nearly for
    themselves and interests begin as means of items."""
    similarity: Similarity
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of the item embeddings."""
    objective: Objective
    negative_interest: NegativeInterest


def initial_votes(options: ComiRecDROptions) -> Tensor:
    """Return the initial vote_LDE; E is K times D."""
    drawn_LDKD = torch.randn(options.max_length, options.dimension, options.interests, options.dimension)
    if options.initial == "item_means":
        drawn_LDKD = torch.eye(options.dimension)[:, None] + drawn_LDKD / (2 * options.dimension**0.5)
    return drawn_LDKD.flatten(2)


def concentration(weights_BKL: Tensor, valid_BL: Tensor) -> Tensor:
    """Batch mean of the squared variance of each interest's attention over its session, added up over interests.

    The variance is the sum over valid positions of (weight - 1 / n)^2, with n of them and weights that sum to 1. The
    authors' code divides it by D and adds up over the batch, so that their weight of 100 is 100 B / D^2 here.
    """
    variance_BK = weights_BKL.square().sum(dim=2) - 1 / valid_BL.sum(dim=1, keepdim=True)
    return variance_BK.square().sum(dim=1).mean()


class ComiRecSA(SessionEncoder):
    """Encodes a session as K weighted means of its items, each with its own attention."""

    takes_soft_targets = True

    def __init__(self, corpus: Corpus, options: ComiRecSAOptions) -> None:
        """Initialise an untrained encoder for the corpus's items from torch's global random state.

        Weights start as in the authors' code: uniform by Glorot and Bengio's rule, biases at 0.
        """
        super().__init__()
        self.max_length = options.max_length
        self.concentration_penalty = options.concentration_penalty
        self.dropout = nn.Dropout(options.dropout)
        self.items = ItemTable(corpus.items, options.dimension, options.similarity)
        self.places_LD = nn.Parameter(torch.empty(options.max_length, options.dimension))
        self.attention_hidden = nn.Linear(options.dimension, options.attention_dimension)
        self.attention = nn.Linear(options.attention_dimension, options.interests)
        for name, weight in self.named_parameters():
            nn.init.zeros_(weight) if name.endswith("bias") else nn.init.xavier_uniform_(weight)
        with torch.no_grad():
            self.items.embedding.weight[PADDING] = 0
        self.negative_interest = options.negative_interest
        self.next_item_loss = NextItemLoss.of(options.objective, corpus.popularity())

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_BKD; see `SessionEncoder.forward`."""
        return self._interests(items_BL)[0]

    def item_vectors(self) -> Tensor:
        """Return vectors_ND; see `SessionEncoder.item_vectors`."""
        return self.items.vectors()

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of the next item for the interest nearest to it, by the recipe's objective."""
        interests_BKD, weights_BKL = self._interests(batch.items_BL)
        loss = self.next_item_loss.multi_interest(
            interests_BKD, batch.next_items_B, self.items, self.negative_interest, batch.next_feedback_B
        )
        return loss + self.concentration_penalty * concentration(weights_BKL, batch.items_BL != PADDING)

    def serving_form(self) -> nn.Module:
        """Return the folded form, with the attention's hidden layer precomputed per item and per place, if it fits."""
        row_bytes = (self.attention_hidden.in_features + self.attention_hidden.out_features) * 4
        fits = self.items.embedding.num_embeddings * row_bytes <= MAX_TABLE_BYTES
        return FoldedComiRecSA(self) if fits else self

    def _interests(self, items_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return interests_BKD and the weights_BKL of the items in them."""
        states_BLD = self.dropout(self.items(items_BL))
        placed_BLD = states_BLD + self.places_LD[places_from_end(items_BL, self.max_length)]
        logits_BLK = self.attention(torch.tanh(self.attention_hidden(placed_BLD)))
        padding_BL1 = (items_BL == PADDING).unsqueeze(2)
        weights_BKL = logits_BLK.masked_fill(padding_BL1, -torch.inf).softmax(dim=1).mT
        return self.items.interest(weights_BKL @ states_BLD), weights_BKL


class FoldedComiRecSA(nn.Module):
    """The serving form of a ComiRec-SA: its hidden layer is a sum of a precomputed item part and place part."""

    @torch.no_grad()
    def __init__(self, encoder: ComiRecSA) -> None:
        """Fold a trained encoder, whose weights must not change afterwards."""
        super().__init__()
        vectors_ND = encoder.item_vectors()
        self.max_length = encoder.max_length
        self.vectors_ND = nn.Embedding.from_pretrained(vectors_ND)
        self.hidden_NH = nn.Embedding.from_pretrained(F.linear(vectors_ND, encoder.attention_hidden.weight))
        self.places_LH = nn.Parameter(encoder.attention_hidden(encoder.places_LD), requires_grad=False)
        self.attention, self.items = encoder.attention, encoder.items

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_BKD; see `SessionEncoder.forward`."""
        hidden_BLH = self.hidden_NH(items_BL) + self.places_LH[places_from_end(items_BL, self.max_length)]
        logits_BLK = self.attention(torch.tanh(hidden_BLH))
        padding_BL1 = (items_BL == PADDING).unsqueeze(2)
        weights_BKL = logits_BLK.masked_fill(padding_BL1, -torch.inf).softmax(dim=1).mT
        interests_BKD: Tensor = self.items.interest(weights_BKL @ self.vectors_ND(items_BL))
        return interests_BKD


class ComiRecDR(SessionEncoder):
    """Encodes a session as K capsules; each item votes through a matrix per place and interest."""

    takes_soft_targets = True

    def __init__(self, corpus: Corpus, options: ComiRecDROptions) -> None:
        """Initialise an untrained encoder for the corpus's items from torch's global random state.

        Item embeddings start uniform by Glorot and Bengio's rule, as in the authors' code.
        """
        super().__init__()
        self.max_length = options.max_length
        self.interests, self.rounds = options.interests, options.rounds
        self.dropout = nn.Dropout(options.dropout)
        self.items = ItemTable(corpus.items, options.dimension, options.similarity)
        nn.init.xavier_uniform_(self.items.embedding.weight)
        self.vote_LDE = nn.Parameter(initial_votes(options))
        with torch.no_grad():
            self.items.embedding.weight[PADDING] = 0
        self.negative_interest = options.negative_interest
        self.next_item_loss = NextItemLoss.of(options.objective, corpus.popularity())

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_BKD; see `SessionEncoder.forward`."""
        states_BLD = self.dropout(self.items(items_BL))
        votes_LBE = states_BLD.transpose(0, 1) @ self.vote_LDE[places_from_end(items_BL, self.max_length)]
        votes_BKLD = votes_LBE.unflatten(2, (self.interests, -1)).permute(1, 2, 0, 3).contiguous()
        logits_BK1L = torch.zeros_like(votes_BKLD[..., 0]).unsqueeze(2)
        return self.items.interest(route(votes_BKLD, logits_BK1L, items_BL != PADDING, self.rounds))

    def item_vectors(self) -> Tensor:
        """Return vectors_ND; see `SessionEncoder.item_vectors`."""
        return self.items.vectors()

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of the next item for the interest nearest to it, by the recipe's objective."""
        interests_BKD = self(batch.items_BL)
        return self.next_item_loss.multi_interest(
            interests_BKD, batch.next_items_B, self.items, self.negative_interest, batch.next_feedback_B
        )
