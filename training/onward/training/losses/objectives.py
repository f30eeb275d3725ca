"""The objectives a recipe can name: cross-entropy of the next item among all items, or against sampled negatives.

To add one, write its options model, add it to `Objective`, and return its `NextItemLoss` from `NextItemLoss.of`.

Dimension key: B examples, K interests, D embedding, S negatives.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from onward.training.data.examples import Feedback
from onward.training.data.padding import PADDING
from onward.training.losses.impressions import impression_loss
from onward.training.losses.negative_sampling import Distribution, NegativeSampler
from onward.training.losses.sharded_softmax import sharded_full_softmax
from onward.training.losses.softmax import full_softmax, plain_softmax, sampled_softmax
from onward.training.ranks.ranks import Ranks


class FullSoftmax(BaseModel):
    """Cross-entropy among all items; suitable up to about fifty thousand items."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["full_softmax"]


class SampledSoftmax(BaseModel):
    """Cross-entropy among the target and sampled negatives that the batch shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["sampled_softmax"]
    negatives: PositiveInt
    """Number of negatives, sampled anew for each batch."""
    distribution: Distribution
    log_q: bool
    """Subtract the log of a negative's expected count from its score, so that popular items are not penalised: the
    negatives then stand for all other items, and the loss estimates that of the full softmax."""
    distinct: bool = False
    """Sample without replacement."""
    log_q_of_target: bool = False
    """Correct the score of the target as those of the negatives: the loss is then that of telling the target from the
    sampled items, as in TensorFlow's `sampled_softmax_loss`. With replacement the expected count of a popular target
    exceeds the one time that it takes part, so it needs distinct negatives."""
    hardness: NonNegativeFloat = 0.0
    """How much more a negative counts that scores high: exp(hardness * score) times, relative to the mean of that. REMI
    takes 1 to 10 for inner products; recipes of earlier versions lack the key and mean 0."""

    @model_validator(mode="after")
    def _the_target_is_corrected_as_the_negatives(self) -> Self:
        if self.log_q_of_target and not (self.log_q and self.distinct):
            raise ValueError("log_q_of_target needs log_q and distinct negatives")
        return self


NegativeInterest = Literal["of_target", "nearest"]
"""Which of a session's interests scores an item that is not the target: the target's interest, as the papers train, or
the interest nearest to that item, as serving scores every item."""

Objective = Annotated[FullSoftmax | SampledSoftmax, Field(discriminator="kind")]


class ItemVectors(Protocol):
    """Item vectors whose inner products with interests are the scores, such as an ItemTable.

    If ranks own the rows, its attribute `ranks` are these, and `vectors` returns those of the own rows alone.
    """

    def __call__(self, rows: Tensor, /) -> Tensor: ...  # noqa: D102  # vectors of some rows

    def vectors(self) -> Tensor: ...  # noqa: D102  # vectors_ND of all rows


class NextItemLoss(nn.Module, ABC):
    """The loss of a recipe's objective, with its sampler if it needs one."""

    @abstractmethod
    def forward(
        self, interests_BD: Tensor, targets_B: Tensor, items: ItemVectors, feedback_B: Feedback | None = None
    ) -> Tensor:
        """Return the batch mean of the cross-entropy of targets_B (item rows), in nats, weighed by the feedback.

        Only the full softmax learns from soft targets; the mixture of them and the targets takes their place.
        """

    def multi_interest(
        self,
        interests_BKD: Tensor,
        targets_B: Tensor,
        items: ItemVectors,
        negative_interest: NegativeInterest,
        feedback_B: Feedback | None = None,
    ) -> Tensor:
        """Return the loss of sessions with K interests; the interest nearest to the target scores it."""
        if negative_interest == "nearest":
            return self._nearest_interest_loss(interests_BKD, targets_B, items, feedback_B)
        loss: Tensor = self(_nearest_interest(interests_BKD, items(targets_B)), targets_B, items, feedback_B)
        return loss

    @abstractmethod
    def _nearest_interest_loss(
        self, interests_BKD: Tensor, targets_B: Tensor, items: ItemVectors, feedback_B: Feedback | None
    ) -> Tensor: ...

    @staticmethod
    def of(objective: Objective, popularity_N1: NDArray[np.int64]) -> "NextItemLoss":
        """Create the loss of a recipe's objective; popularity_N1 holds the items' numbers of events."""
        if isinstance(objective, SampledSoftmax):
            sampler = NegativeSampler(popularity_N1, objective.distribution, distinct=objective.distinct)
            return _SampledSoftmaxLoss(objective, sampler)
        return _FullSoftmaxLoss()


class _FullSoftmaxLoss(NextItemLoss):
    def forward(
        self, interests_BD: Tensor, targets_B: Tensor, items: ItemVectors, feedback_B: Feedback | None = None
    ) -> Tensor:
        feedback_B = feedback_B or Feedback()
        ranks: Ranks | None = getattr(items, "ranks", None)
        if ranks is not None:
            loss = sharded_full_softmax(interests_BD, items.vectors(), targets_B, ranks, weights_B=feedback_B.weights)
            return _with_impressions(loss, interests_BD[:, None], targets_B, items, feedback_B)
        loss = full_softmax(
            interests_BD,
            items.vectors(),
            targets_B,
            weights_B=feedback_B.weights,
            soft_targets=feedback_B.soft_targets,
        )
        return _with_impressions(loss, interests_BD[:, None], targets_B, items, feedback_B)

    def _nearest_interest_loss(
        self, interests_BKD: Tensor, targets_B: Tensor, items: ItemVectors, feedback_B: Feedback | None
    ) -> Tensor:
        feedback_B = feedback_B or Feedback()
        scores_BN = (interests_BKD @ items.vectors().T).amax(dim=1)
        loss = plain_softmax(scores_BN, targets_B, weights_B=feedback_B.weights, soft_targets=feedback_B.soft_targets)
        return _with_impressions(loss, interests_BKD, targets_B, items, feedback_B)


class _SampledSoftmaxLoss(NextItemLoss):
    def __init__(self, objective: SampledSoftmax, sampler: NegativeSampler) -> None:
        super().__init__()
        self.objective, self.sampler = objective, sampler

    def forward(
        self, interests_BD: Tensor, targets_B: Tensor, items: ItemVectors, feedback_B: Feedback | None = None
    ) -> Tensor:
        return self._nearest_interest_loss(interests_BD[:, None], targets_B, items, feedback_B)

    def _nearest_interest_loss(
        self, interests_BKD: Tensor, targets_B: Tensor, items: ItemVectors, feedback_B: Feedback | None
    ) -> Tensor:
        feedback_B = feedback_B or Feedback()
        if feedback_B.soft_targets is not None:
            raise TypeError("the sampled softmax has no soft targets")
        rows_S, log_expected_count_S, draws = self.sampler(self.objective.negatives)
        target_BD, negative_SD = items(torch.cat([targets_B, rows_S])).split([len(targets_B), len(rows_S)])
        correction_S = log_expected_count_S if self.objective.log_q else torch.zeros_like(log_expected_count_S)
        target_B = (interests_BKD @ target_BD[:, :, None]).squeeze(2).amax(dim=1)
        if self.objective.log_q_of_target:
            target_B = target_B - self.sampler.log_expected_count(targets_B, draws)
        loss = sampled_softmax(
            target_B,
            (interests_BKD @ negative_SD.T).amax(dim=1),
            log_expected_count_S=correction_S,
            accidental_hit_BS=targets_B[:, None] == rows_S,
            hardness=self.objective.hardness,
            weights_B=feedback_B.weights,
        )
        return _with_impressions(loss, interests_BKD, targets_B, items, feedback_B)


def _with_impressions(
    loss: Tensor, interests_BKD: Tensor, targets_B: Tensor, items: ItemVectors, feedback_B: Feedback
) -> Tensor:
    """Add the loss of items that were shown and not taken, if the log has any; the nearest interest scores an item."""
    if feedback_B.shown is None or not feedback_B.shown.numel():
        return loss
    rows_BS = torch.cat([targets_B[:, None], feedback_B.shown], dim=1)
    vectors_BSD = items(rows_BS.flatten()).unflatten(0, rows_BS.shape)
    scores_BS = (interests_BKD @ vectors_BSD.mT).amax(dim=1)
    return loss + feedback_B.shown_weight * impression_loss(
        scores_BS[:, 0],
        scores_BS[:, 1:],
        counts_BS=feedback_B.shown != PADDING,
        weights_B=feedback_B.weights,
    )


def _nearest_interest(interests_BKD: Tensor, targets_BD: Tensor) -> Tensor:
    """Return as interests_BD the interest of each session that scores its target highest."""
    with torch.no_grad():
        best_B = torch.einsum("bkd,bd->bk", interests_BKD, targets_BD).argmax(dim=1)
    return interests_BKD[torch.arange(len(best_B), device=best_B.device), best_B]
