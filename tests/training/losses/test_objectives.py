"""The objectives: full softmax and sampled softmax."""

import math
from functools import partial
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from onward.training.data.examples import Feedback
from onward.training.losses.negative_sampling import Distribution
from onward.training.losses.objectives import FullSoftmax, NegativeInterest, NextItemLoss, SampledSoftmax
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


def test_weights_are_factors_of_the_losses_of_every_objective() -> None:
    items, (interests_BD, targets_B) = table(Cosine(kind="cosine", scale=8)), problem()
    interests_BKD = torch.stack([interests_BD, -interests_BD], dim=1)
    weights_B = torch.tensor([0.5, 3.0, 0.1, 1.0, 0.4])
    feedback_B = Feedback(weights_B)

    def losses(loss: NextItemLoss, kind: NegativeInterest | None, of: slice, feedback: Feedback | None) -> Tensor:
        torch.manual_seed(1)  # equal negatives
        if kind is not None:
            return loss.multi_interest(interests_BKD[of], targets_B[of], items, kind, feedback)
        value: Tensor = loss(interests_BD[of], targets_B[of], items, feedback)
        return value

    full, sampled = NextItemLoss.of(FullSoftmax(kind="full_softmax"), POPULARITY), drawn(7, "uniform", log_q=True)
    for loss, kind in product((full, sampled), (None, *get_args(NegativeInterest))):
        together = losses(loss, kind, slice(None), feedback_B)
        alone = [losses(loss, kind, slice(example, example + 1), None) for example in range(BATCH)]
        expected = (weights_B * torch.stack(alone)).mean()
        torch.testing.assert_close(together, expected, rtol=2e-2, atol=1e-3)  # bfloat16 products


def test_an_item_that_was_shown_and_not_taken_should_score_below_the_target_in_every_objective() -> None:
    items, (interests_BD, targets_B) = table(Cosine(kind="cosine", scale=8)), problem()
    shown_BS = torch.tensor([[2, 3], [5, 0], [0, 0], [1, 4], [6, 7]])
    weights_B = torch.tensor([0.5, 3.0, 0.1, 1.0, 0.4])
    scores_BN = (interests_BD @ items.vectors().T).tolist()
    pairs = [
        [math.log1p(math.exp(scores_BN[b][shown] - scores_BN[b][target])) for shown in shown_BS[b].tolist() if shown]
        for b, target in enumerate(targets_B.tolist())
    ]
    of_targets_B = torch.tensor([sum(of) / max(len(of), 1) for of in pairs])
    for weights, added in ((None, of_targets_B.mean()), (weights_B, (weights_B * of_targets_B).mean())):
        for loss in (NextItemLoss.of(FullSoftmax(kind="full_softmax"), POPULARITY), drawn(7, "uniform", log_q=True)):
            for forward in (
                partial(loss, interests_BD, targets_B, items),
                partial(loss.multi_interest, interests_BD[:, None], targets_B, items, "nearest"),
                partial(loss.multi_interest, interests_BD[:, None], targets_B, items, "of_target"),
            ):
                torch.manual_seed(1)
                without = forward(Feedback(weights))
                torch.manual_seed(1)
                actual = forward(Feedback(weights, shown_BS, 0.3))
                torch.testing.assert_close(actual - without, 0.3 * added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hardness", [0.0, 2.0])
def test_if_all_negatives_hit_the_target_the_loss_is_zero(hardness: float) -> None:
    hit_BS = torch.ones(2, 3, dtype=torch.bool)
    scores_B = SCORES.clone().requires_grad_()
    loss = sampled_softmax(
        scores_B,
        torch.zeros(2, 3),
        log_expected_count_S=torch.zeros(3),
        accidental_hit_BS=hit_BS,
        hardness=hardness,
    )
    loss.backward()
    assert loss.item() == 0
    assert scores_B.grad is not None
    assert not scores_B.grad.any()


def test_hard_negatives_count_by_their_scores() -> None:
    """The mean of exp(s) over negatives is that weighed by exp(h s): formula 8 of REMI, section 3.2."""
    positive_B, negative_BS = torch.tensor([0.5, -1.0]), torch.tensor([[0.2, 1.5, -0.7], [2.0, 0.0, 1.0]])
    hit_BS = torch.tensor([[False, False, False], [True, False, False]])
    for hardness in (0.0, 0.5, 3.0):
        losses = []
        for target, scores_S, hit_S in zip(positive_B, negative_BS, hit_BS, strict=True):
            kept_S = scores_S[~hit_S]
            importance_S = (hardness * kept_S).exp()
            total = len(kept_S) * (importance_S * kept_S.exp()).sum() / importance_S.sum()
            losses.append(-(target.exp() / (target.exp() + total)).log())
        loss = sampled_softmax(
            positive_B,
            negative_BS,
            log_expected_count_S=torch.zeros(3),
            accidental_hit_BS=hit_BS,
            hardness=hardness,
        )
        torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("hardness", [0.0, 2.0])
@pytest.mark.parametrize("score", [-1e4, 1e4])
def test_extreme_scores_have_finite_losses_and_gradients(score: float, hardness: float) -> None:
    positive_B, negative_BS = torch.tensor([score]).requires_grad_(), torch.tensor([[-score, 0.0]]).requires_grad_()
    loss = sampled_softmax(
        positive_B,
        negative_BS,
        log_expected_count_S=torch.zeros(2),
        accidental_hit_BS=torch.tensor([[False, False]]),
        hardness=hardness,
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


def tensorflows_sampled_softmax_loss(
    target_B: NDArray[np.float64],
    sampled_BS: NDArray[np.float64],
    *,
    target_class_B: list[int],
    sampled_class_S: list[int],
    classes: int,
    num_tries: int,
) -> float:
    """TensorFlow's documented formula, with its log-uniform sampler of unique classes, in float64.

    log_uniform_candidate_sampler: P(class) = log((class + 2) / (class + 1)) / log(range_max + 1); unique samples have
    the expected count -expm1(num_tries * log1p(-p)). sampled_softmax_loss: subtract_log_q takes the logs of the
    expected counts from the logits of samples and targets alike, remove_accidental_hits takes out targets among the
    samples, and the loss is the cross-entropy of the target.
    """

    def log_expected_count(k: int) -> float:
        p = np.log((k + 2) / (k + 1)) / np.log(classes + 1)
        return float(np.log(-np.expm1(num_tries * np.log1p(-p))))

    losses = []
    for target, sampled_S, target_class in zip(target_B, sampled_BS, target_class_B, strict=True):
        logits = [target - log_expected_count(target_class)]
        logits += [
            logit - log_expected_count(k)
            for logit, k in zip(sampled_S, sampled_class_S, strict=True)
            if k != target_class
        ]
        losses.append(np.log(np.sum(np.exp(logits))) - logits[0])
    return float(np.mean(losses))


def test_with_the_target_corrected_it_is_tensorflows_sampled_softmax_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 items ranked 3, 1, 5, 2, 6, 4 the ranks 0, 0, 2 and 1 are drawn: 4 draws for 3 distinct negatives."""
    draws = iter([[0, 0, 2], [1, 4, 4]])
    centre = [math.log(rank + 1.5) / math.log(7) for rank in range(6)]  # of the range of chances that draw a rank

    def drawn_chances(count: int, **_: object) -> Tensor:
        return torch.tensor([centre[rank] for rank in next(draws)], dtype=torch.float64)

    items = ItemTable(6, 2, InnerProduct(kind="inner_product"))
    vectors = np.array([[0, 0], [1.0, 0.5], [-0.5, 2], [0.25, -1], [1.5, 1], [-1, -0.75], [0.5, 0.125]])
    interests_BD = np.array([[1.0, -0.5], [0.5, 2]])
    with torch.no_grad():
        items.embedding.weight.copy_(torch.tensor(vectors))
    objective = SampledSoftmax(
        kind="sampled_softmax",
        negatives=3,
        distribution="log_uniform",
        log_q=True,
        distinct=True,
        log_q_of_target=True,
    )
    loss = NextItemLoss.of(objective, np.array([0, 50, 30, 60, 10, 40, 20]))
    monkeypatch.setattr(torch, "rand", drawn_chances)
    actual = loss(torch.tensor(interests_BD, dtype=torch.float32), torch.tensor([5, 6]), items)

    expected = tensorflows_sampled_softmax_loss(
        (interests_BD * vectors[[5, 6]]).sum(axis=1),
        interests_BD @ vectors[[3, 5, 1]].T,  # of ranks 0, 2 and 1; row 5 is the first target
        target_class_B=[2, 4],
        sampled_class_S=[0, 2, 1],
        classes=6,
        num_tries=4,
    )
    assert expected == pytest.approx(1.3909889, abs=1e-7)  # by a calculator
    assert actual.item() == pytest.approx(expected, rel=1e-6)


def test_the_target_is_corrected_only_if_it_counts_as_one_of_distinct_negatives() -> None:
    given = {"kind": "sampled_softmax", "negatives": 3, "distribution": "uniform", "log_q_of_target": True}
    for wrong in ({"log_q": True}, {"log_q": False, "distinct": True}):
        with pytest.raises(ValidationError, match="log_q_of_target needs log_q and distinct negatives"):
            SampledSoftmax.model_validate({**given, **wrong})


@pytest.mark.parametrize("log_q_of_target", [False, True])
def test_with_all_items_as_distinct_negatives_the_loss_is_that_of_the_full_softmax(log_q_of_target: bool) -> None:
    items, (interests_BD, targets_B) = table(InnerProduct(kind="inner_product")), problem()
    objective = SampledSoftmax(
        kind="sampled_softmax",
        negatives=ITEMS,
        distribution="log_uniform",
        log_q=True,
        distinct=True,
        log_q_of_target=log_q_of_target,
    )
    loss = NextItemLoss.of(objective, POPULARITY)(interests_BD, targets_B, items)
    plain = torch.nn.functional.cross_entropy(interests_BD @ items.vectors()[1:].T, targets_B - 1)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)


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
