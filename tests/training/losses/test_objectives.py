"""The objectives: full softmax and sampled softmax."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from onward.training.losses.negative_sampling import Distribution
from onward.training.losses.objectives import FullSoftmax, NextItemLoss, SampledSoftmax
from onward.training.losses.softmax import sampled_softmax
from onward.training.models.layers import Cosine, InnerProduct, ItemTable

ITEMS, DIMENSION, BATCH = 20, 6, 5
POPULARITY = np.arange(ITEMS, -1, -1) + 1
SCORES = Tensor([2.0, -1.0])


def table(similarity: InnerProduct | Cosine) -> ItemTable:
    torch.manual_seed(2)
    return ItemTable(ITEMS, DIMENSION, similarity)


def problem() -> tuple[Tensor, Tensor]:
    """interests_BD and targets_B."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(BATCH, DIMENSION, generator=generator).requires_grad_(), torch.tensor([1, 4, 4, 9, 20])


def drawn(negatives: int, distribution: Distribution, *, log_q: bool) -> NextItemLoss:
    objective = SampledSoftmax(kind="sampled_softmax", negatives=negatives, distribution=distribution, log_q=log_q)
    return NextItemLoss.of(objective, POPULARITY)


def test_sampled_softmax_by_hand() -> None:
    negative_BS = torch.tensor([[1.0, 0.5, -2.0], [0.0, 3.0, 1.0]])
    loss = sampled_softmax(
        SCORES,
        negative_BS,
        log_expected_count_S=torch.tensor([math.log(2), 0.0, math.log(0.5)]),
        accidental_hit_BS=torch.tensor([[False, False, True], [False, False, False]]),
    )
    first = math.log(math.exp(2) + math.exp(1) / 2 + math.exp(0.5)) - 2
    second = math.log(math.exp(-1) + 1 / 2 + math.exp(3) + 2 * math.exp(1)) + 1
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_if_all_negatives_hit_the_target_the_loss_is_zero() -> None:
    hit_BS = torch.ones(2, 3, dtype=torch.bool)
    scores_B = SCORES.clone().requires_grad_()
    loss = sampled_softmax(scores_B, torch.zeros(2, 3), log_expected_count_S=torch.zeros(3), accidental_hit_BS=hit_BS)
    loss.backward()
    assert loss.item() == 0
    assert scores_B.grad is not None
    assert not scores_B.grad.any()


@pytest.mark.parametrize("score", [-1e4, 1e4])
def test_extreme_scores_have_finite_losses_and_gradients(score: float) -> None:
    positive_B, negative_BS = torch.tensor([score]).requires_grad_(), torch.tensor([[-score, 0.0]]).requires_grad_()
    loss = sampled_softmax(
        positive_B,
        negative_BS,
        log_expected_count_S=torch.zeros(2),
        accidental_hit_BS=torch.tensor([[False, False]]),
    )
    loss.backward()
    assert loss.isfinite()
    for scores in (positive_B, negative_BS):
        assert scores.grad is not None
        assert scores.grad.isfinite().all()


@pytest.mark.parametrize("similarity", [InnerProduct(kind="inner_product"), Cosine(kind="cosine", scale=8)])
def test_full_softmax_is_the_cross_entropy_over_the_table(similarity: InnerProduct | Cosine) -> None:
    items, (interests_BD, targets_B) = table(similarity), problem()
    loss = NextItemLoss.of(FullSoftmax(kind="full_softmax"), POPULARITY)(interests_BD, targets_B, items)
    plain = torch.nn.functional.cross_entropy(interests_BD @ items.vectors()[1:].T, targets_B - 1)
    assert loss.item() == pytest.approx(plain.item(), rel=2e-2)  # bfloat16 products


@pytest.mark.parametrize("distribution", ["uniform", "log_uniform"])
def test_with_log_q_many_negatives_approximate_the_full_softmax(distribution: Distribution) -> None:
    items, (interests_BD, targets_B) = table(InnerProduct(kind="inner_product")), problem()
    torch.manual_seed(1)
    with torch.no_grad():
        loss = drawn(200_000, distribution, log_q=True)(interests_BD, targets_B, items)
        plain = torch.nn.functional.cross_entropy(interests_BD @ items.vectors()[1:].T, targets_B - 1)
    assert loss.item() == pytest.approx(plain.item(), abs=0.01)


def test_without_log_q_the_scores_are_not_corrected() -> None:
    items, (interests_BD, targets_B) = table(InnerProduct(kind="inner_product")), problem()
    torch.manual_seed(1)
    with torch.no_grad():
        loss = drawn(3, "uniform", log_q=False)(interests_BD, targets_B, items)
        torch.manual_seed(1)
        corrected = drawn(3, "uniform", log_q=True)(interests_BD, targets_B, items)
    assert loss.item() != pytest.approx(corrected.item())


def test_a_sampled_loss_has_gradients_only_for_targets_and_negatives() -> None:
    items, (interests_BD, targets_B) = table(Cosine(kind="cosine", scale=8)), problem()
    items.embedding.sparse = True
    torch.manual_seed(1)
    drawn(4, "uniform", log_q=True)(interests_BD, targets_B, items).backward()
    torch.manual_seed(1)
    gradient = items.embedding.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    reached = set(gradient.coalesce().indices()[0].tolist())
    assert set(targets_B.tolist()) <= reached
    assert len(reached) <= len(set(targets_B.tolist())) + 4


@pytest.mark.parametrize("kind", ["full", "drawn"])
def test_with_several_interests_each_item_may_be_scored_by_its_nearest(kind: str) -> None:
    torch.manual_seed(1)
    items = ItemTable(len(POPULARITY) - 1, 4, InnerProduct(kind="inner_product"))
    interests_BKD, targets_B = torch.randn(3, 2, 4), torch.tensor([1, 3, 2])
    loss = NextItemLoss.of(FullSoftmax(kind="full_softmax"), POPULARITY)
    if kind == "drawn":
        loss = drawn(200_000, "uniform", log_q=True)  # so many that their sum is nearly that of all items
    scores_BN = (interests_BKD @ items.vectors()[1:].T).amax(dim=1)
    expected = torch.nn.functional.cross_entropy(scores_BN, targets_B - 1)
    actual = loss.multi_interest(interests_BKD, targets_B, items, "nearest")
    torch.testing.assert_close(actual, expected, atol=0.02 if kind == "drawn" else 1e-5, rtol=0)


def test_with_several_interests_the_targets_interest_may_score_all_items() -> None:
    items = ItemTable(len(POPULARITY) - 1, 2, InnerProduct(kind="inner_product"))
    with torch.no_grad():
        items.embedding.weight[2] = torch.tensor([0.0, 3.0])
    interests_BKD = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    loss = NextItemLoss.of(FullSoftmax(kind="full_softmax"), POPULARITY)
    actual = loss.multi_interest(interests_BKD, torch.tensor([2]), items, "of_target")
    expected = torch.nn.functional.cross_entropy(interests_BKD[:, 1] @ items.vectors()[1:].T, torch.tensor([1]))
    torch.testing.assert_close(actual, expected, atol=0.02, rtol=0)
