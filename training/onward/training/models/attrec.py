"""AttRec: a user's long-term preferences, and the last items by self-attention, scored by one inner product.

Source: Zhang et al., "Next Item Recommendation with Self-Attention", 2018, sections 3.2 to 3.5.
Dimension key: B sessions, L positions, D embedding, H halves, F = H (D + 1) features with the distance, else H D,
T targets, S negatives of each target, P pairs of a target and a negative, N rows (row 0 pads), U users.

The score of an item is the sum of two halves, weighted w and 1 - w: the user's own vector U against a vector V of the
item, and the session's vector m against another vector X of the item. m is the mean over the session's positions of
their self-attention outputs, which are weighted means of the rows X. With the distance, the score
-(w |U - V|^2 + (1 - w) |m - X|^2) is, up to a constant that is the same for all items, the inner product of
[2 w U ; 2 (1 - w) m ; w ; 1 - w] with [V ; X ; -|V|^2 ; -|X|^2], so one search serves both halves. The query of an
unknown user is exactly that of w = 0, and that of a known user without a session that of w = 1. Training does not drop
users to prepare for unknown ones: m is learnt from items alone. If the dataset has no users, there is no first half.

Where the paper and the first author's code differ: the diagonal is masked before the softmax, as in the paper (the code
zeroes it afterwards); vectors are projected into the unit ball, as in the paper (the code never runs its clipping), at
every lookup, so that the exported vectors equal the trained ones; queries and keys share one matrix, as in the code.
A window at a history's start may be shorter than `max_length`.

Options of a recipe that the paper does not have: the cosine in both halves, softmax objectives, dropout of item
embeddings.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from onward.bundle import InputLength
from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.losses.objectives import FullSoftmax, NextItemLoss, SampledSoftmax
from onward.training.losses.user_negatives import UserNegativeSampler
from onward.training.models.encoder import UserEncoder
from onward.training.models.layers import Cosine, InnerProduct

TIME_BASE = 10_000.0


class Distance(BaseModel):
    """Score by the negative squared distance of vectors in the unit ball."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["distance"]


class Hinge(BaseModel):
    """Hinge loss: a target should score above each of its negatives by `margin`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["hinge"]
    margin: PositiveFloat
    negatives: PositiveInt
    """For each target, uniform over the items that its user never had."""
    reduction: Literal["mean", "sum"] = "mean"
    """Mean or sum over the pairs of a batch."""


class BPR(BaseModel):
    """BPR loss: a target should score above each of its negatives, by the logistic function of the difference.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["bpr"]
    negatives: PositiveInt
    """For each target, uniform over the items that its user never had."""


class AttRecOptions(BaseModel):
    """The `[encoder]` table of a recipe for AttRec."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    """Dimension of each half."""
    max_length: InputLength
    """Only the newest items of a session are read, at most this many."""
    horizon: PositiveInt
    """Number of next items that are targets."""
    score: Annotated[Distance | InnerProduct | Cosine, Field(discriminator="kind")]
    user_weight: Annotated[float, Field(gt=0, lt=1)]
    """w, the weight of the user's half."""
    mask_diagonal: bool
    """An item attends to the other items only, not to itself."""
    time_signal: bool
    """Add sinusoidal position encodings to queries and keys."""
    projection_dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of the projected queries and keys."""
    item_dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of the item embeddings of a session."""
    initial_deviation: PositiveFloat = 0.01
    """Standard deviation of the initial embeddings, normal and truncated at two deviations."""
    objective: Annotated[Hinge | BPR | FullSoftmax | SampledSoftmax, Field(discriminator="kind")]


class HalvesTable(nn.Module):
    """The concatenated item embeddings of both halves, and their mapping to vectors for one inner-product search."""

    def __init__(self, items: int, halves: int, dimension: int, score: Distance | InnerProduct | Cosine) -> None:
        super().__init__()
        self.embedding = nn.Embedding(items + 1, halves * dimension, padding_idx=PADDING)
        self.dimension, self.score = dimension, score

    def forward(self, rows: Tensor) -> Tensor:
        """Return vectors (..., F) of item rows."""
        return self._features(self.embedding(rows))

    def vectors(self) -> Tensor:
        """Return vectors_NF of all rows."""
        return self._features(self.embedding.weight)

    def last_half(self, rows: Tensor) -> Tensor:
        """Return X, the vectors (..., D) of item rows that encode sessions."""
        vectors: Tensor = self.embedding(rows)
        return self.as_scored(vectors[..., -self.dimension :])

    def as_scored(self, vectors: Tensor) -> Tensor:
        """Map vectors (..., D) of one half into the unit ball for the distance, to length 1 for the cosine."""
        if isinstance(self.score, Distance):
            lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
            return vectors / lengths.clamp(min=1)
        return F.normalize(vectors, dim=-1) if isinstance(self.score, Cosine) else vectors

    def queries(self, halves: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Build queries_BF, which score items by inner product, from a (vector_BD, weight_B1) of each half."""
        if isinstance(self.score, Distance):
            return torch.cat([2 * weight * vector for vector, weight in halves] + [weight for _, weight in halves], 1)
        scale = self.score.scale if isinstance(self.score, Cosine) else 1.0
        return torch.cat([scale * weight * self.as_scored(vector) for vector, weight in halves], dim=1)

    def _features(self, vectors: Tensor) -> Tensor:
        halves = [self.as_scored(half) for half in vectors.split(self.dimension, dim=-1)]
        squares = [-half.square().sum(dim=-1, keepdim=True) for half in halves]
        return torch.cat(halves + squares if isinstance(self.score, Distance) else halves, dim=-1)


class AttRec(UserEncoder):
    """Encodes a user and a session as one interest."""

    user_tables = ("user_table.weight",)

    def __init__(self, corpus: Corpus, options: AttRecOptions) -> None:
        """Initialise an untrained encoder for the corpus's items and users from torch's global random state."""
        super().__init__()
        dimension = options.dimension
        self.options = options
        self.max_length, self.horizon, self.users = options.max_length, options.horizon, corpus.users
        self.items = HalvesTable(corpus.items, 2 if corpus.users else 1, dimension, options.score)
        self.user_table = nn.Embedding(corpus.users + 1, dimension, padding_idx=0)
        self.projection = nn.Linear(dimension, dimension, bias=False)
        self.item_dropout = nn.Dropout(options.item_dropout)
        self.projection_dropout = nn.Dropout(options.projection_dropout)
        for table in (self.items.embedding, self.user_table):
            deviation = options.initial_deviation
            nn.init.trunc_normal_(table.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            nn.init.zeros_(table.weight[0])
        self.time_LD: Tensor
        self.register_buffer("time_LD", time_signal(self.max_length, dimension), persistent=False)
        if isinstance(options.objective, Hinge | BPR):
            self.user_negatives = UserNegativeSampler(corpus)
            self.sums_losses = isinstance(options.objective, Hinge) and options.objective.reduction == "sum"
        else:
            self.next_item_loss = NextItemLoss.of(options.objective, corpus.popularity())

    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        """Encode items_BL for users_B as interests_B1F; see `UserEncoder.forward`."""
        session_BD = self._session(items_BL)
        if not self.users:
            return self.items.queries([(session_BD, torch.ones_like(session_BD[:, :1]))]).unsqueeze(1)
        if users_B is None:
            users_B = torch.zeros_like(items_BL[:, 0])
        weight = self.options.user_weight
        user_B1 = weight * (users_B > 0).unsqueeze(1).float()
        other_B1 = (1 - weight) * (items_BL != PADDING).any(dim=1, keepdim=True).float()
        total_B1 = (user_B1 + other_B1).clamp(min=min(weight, 1 - weight))
        user_BD = self.items.as_scored(self.user_table(users_B))
        halves = [(user_BD, user_B1 / total_B1), (session_BD, other_B1 / total_B1)]
        return self.items.queries(halves).unsqueeze(1)

    def item_vectors(self) -> Tensor:
        """Return [V ; X], followed by -|V|^2 and -|X|^2 if the score is the distance."""
        return self.items.vectors()

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of the recipe's objective over all targets but padding."""
        queries_BF = self(*self.inputs(batch)).squeeze(1)
        objective = self.options.objective
        if isinstance(objective, FullSoftmax | SampledSoftmax):
            examples, places = targets = batch.targets_BT.nonzero(as_tuple=True)
            loss: Tensor = self.next_item_loss(
                queries_BF[examples], batch.targets_BT[examples, places], self.items, batch.feedback_at(targets)
            )
            return loss
        gaps_P, weights_P = self._gaps(queries_BF, batch, objective.negatives)
        if isinstance(objective, Hinge):
            return hinge(gaps_P, objective.margin, objective.reduction, weights_P)
        return bpr(gaps_P, weights_P)

    def _session(self, items_BL: Tensor) -> Tensor:
        """Return m: the mean of the attention outputs over the session's items; zero for an empty session.

        The attention weights are averaged first, so the rows are summed once.
        """
        rows_BLD: Tensor = self.item_dropout(self.items.last_half(items_BL))
        is_item_BL = items_BL != PADDING
        count_B1 = is_item_BL.sum(dim=1, keepdim=True)
        is_hidden_BLL = ~is_item_BL.unsqueeze(1)
        if self.options.mask_diagonal:
            places_L = torch.arange(items_BL.shape[1], device=items_BL.device)
            is_itself_LL = places_L.unsqueeze(1) == places_L
            is_hidden_BLL = is_hidden_BLL | (is_itself_LL & (count_B1 > 1).unsqueeze(2))
        matches_BLL = self._matches(rows_BLD).masked_fill(is_hidden_BLL, torch.finfo(torch.float32).min)
        shares_B1L = (is_item_BL / count_B1.clamp(min=1)).unsqueeze(1)
        return (shares_B1L @ matches_BLL.softmax(dim=2) @ rows_BLD).squeeze(1)

    def _matches(self, rows_BLD: Tensor) -> Tensor:
        query_BLD: Tensor = rows_BLD
        if self.options.time_signal:
            length = rows_BLD.shape[1]
            places_L = torch.arange(self.max_length - length, self.max_length, device=rows_BLD.device)
            query_BLD = rows_BLD + self.time_LD[places_L.clamp(min=0)]
        query_BLD = self.projection_dropout(self.projection(query_BLD).relu())
        return query_BLD @ query_BLD.mT / math.sqrt(rows_BLD.shape[2])

    def _gaps(self, queries_BF: Tensor, batch: Batch, negatives: int) -> tuple[Tensor, Tensor | None]:
        """Return gaps_P, the score of each negative minus that of its target, without negatives that are targets.

        With them come the weights of the pairs, if the batch has weights.
        """
        targets_BT1 = batch.targets_BT.unsqueeze(2)
        negatives_BTS = self.user_negatives(batch.users_B[:, None, None].expand(*batch.targets_BT.shape, negatives))
        rows_BTS = torch.cat([targets_BT1, negatives_BTS], dim=2)
        scores_BTS: Tensor = (self.items(rows_BTS.flatten(1)) @ queries_BF.unsqueeze(2)).view_as(rows_BTS)
        is_target_BTS = (negatives_BTS.unsqueeze(3) == batch.targets_BT[:, None, None, :]).any(dim=3)
        counts_BTS = (targets_BT1 != PADDING) & ~is_target_BTS
        gaps_P = (scores_BTS[:, :, 1:] - scores_BTS[:, :, :1])[counts_BTS]
        if batch.feedback_BT is None or batch.feedback_BT.weights is None:
            return gaps_P, None
        return gaps_P, batch.feedback_BT.weights.unsqueeze(2).expand_as(counts_BTS)[counts_BTS]


def hinge(
    gaps_P: Tensor, margin: float, reduction: Literal["mean", "sum"] = "mean", weights_P: Tensor | None = None
) -> Tensor:
    """Return the mean or the sum of weight * max(0, gap + margin); 0 if there is no pair."""
    total = _weighted(F.relu(gaps_P + margin), weights_P).sum()
    return total if reduction == "sum" else total / max(len(gaps_P), 1)


def bpr(gaps_P: Tensor, weights_P: Tensor | None = None) -> Tensor:
    """Return the mean of weight * log(1 + exp(gap)), in nats; 0 if there is no pair."""
    return _weighted(F.softplus(gaps_P), weights_P).sum() / max(len(gaps_P), 1)


def _weighted(losses_P: Tensor, weights_P: Tensor | None) -> Tensor:
    return losses_P if weights_P is None else weights_P * losses_P


def time_signal(length: int, dimension: int) -> Tensor:
    """Return signal_LD of places t = 0..L-1: sin(t / 10000^(2i/D)) in columns 2i, the cosine in columns 2i + 1."""
    places_L1 = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    angles_LE = places_L1 / TIME_BASE ** (torch.arange(0, dimension, 2) / dimension)
    return torch.stack([angles_LE.sin(), angles_LE.cos()], dim=2).flatten(1)[:, :dimension]
