"""The fused softmax against torch's own cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onward.training.data.soft_targets import SoftTargets
from onward.training.losses.softmax import full_softmax, plain_softmax

ITEMS, DIMENSION, BATCH = 50, 12, 9


def problem(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    sessions_BD = (scale * torch.randn(BATCH, DIMENSION, generator=generator)).requires_grad_()
    items_ND = torch.randn(ITEMS + 1, DIMENSION, generator=generator)
    items_ND[0] = 0
    targets_B = torch.randint(1, ITEMS + 1, (BATCH,), generator=generator)
    return sessions_BD, items_ND.requires_grad_(), targets_B


def learnt_problem(
    cosine: float, scale: float, batch: int = 64, items: int = 1000, seed: int = 7
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sessions of norm `scale` at this cosine to their targets, among items of norm 1 in random directions."""
    generator = torch.Generator().manual_seed(seed)
    items_ND = F.normalize(torch.randn(items + 1, 64, generator=generator), dim=1)
    items_ND[0] = 0
    targets_B = torch.randint(1, items + 1, (batch,), generator=generator)
    target_BD = items_ND[targets_B]
    other_BD = torch.randn(batch, 64, generator=generator)
    across_BD = F.normalize(other_BD - (other_BD * target_BD).sum(dim=1, keepdim=True) * target_BD, dim=1)
    sessions_BD = scale * (cosine * target_BD + math.sqrt(1 - cosine**2) * across_BD)
    return sessions_BD.requires_grad_(), items_ND.requires_grad_(), targets_B


def errors(sessions_BD: Tensor, items_ND: Tensor, targets_B: Tensor, dtype: torch.dtype) -> tuple[float, float, float]:
    """Return the relative errors of loss, sessions' gradient and items' gradient against float64 cross-entropy."""
    loss = full_softmax(sessions_BD, items_ND, targets_B, product_dtype=dtype)
    gradients = torch.autograd.grad(loss, [sessions_BD, items_ND])
    precise = sessions_BD.detach().double().requires_grad_(), items_ND.detach().double().requires_grad_()
    expected = plain(*precise, targets_B)
    session_error, item_error = (
        ((gradient - reference).norm() / reference.norm()).item()
        for gradient, reference in zip(gradients, torch.autograd.grad(expected, precise), strict=True)
    )
    return abs(loss.item() / expected.item() - 1), session_error, item_error


def plain(sessions_BD: Tensor, items_ND: Tensor, targets_B: Tensor) -> Tensor:
    return F.cross_entropy(sessions_BD @ items_ND[1:].T, targets_B - 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("scale", [1.0, 30.0])  # 30: scores beyond the range of exp without a shift
def test_loss_and_both_gradients_are_those_of_cross_entropy(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    sessions_BD, items_ND, targets_B = problem(scale)
    expected = torch.autograd.grad(2 * plain(sessions_BD, items_ND, targets_B), [sessions_BD, items_ND])
    loss = 2 * full_softmax(sessions_BD, items_ND, targets_B, product_dtype=dtype)
    actual = torch.autograd.grad(loss, [sessions_BD, items_ND])

    assert loss.item() == pytest.approx(2 * plain(sessions_BD, items_ND, targets_B).item(), rel=tolerance)
    for gradient, reference in zip(actual, expected, strict=True):
        assert (gradient - reference).norm() <= 2 * tolerance * reference.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("cosine", [0.6, 0.97, 1.0])
@pytest.mark.parametrize("scale", [8.0, 16.0, 24.0])
@pytest.mark.parametrize(("batch", "items"), [(1, 1000), (64, 50), (64, 1000), (200, 5000)])
def test_small_losses_and_their_gradients_keep_their_relative_precision(
    dtype: torch.dtype, tolerance: float, cosine: float, scale: float, batch: int, items: int
) -> None:
    assert max(errors(*learnt_problem(cosine, scale, batch, items), dtype)) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_weights_are_factors_of_the_sessions_losses(dtype: torch.dtype, tolerance: float) -> None:
    sessions_BD, items_ND, targets_B = problem()
    weights_B = torch.tensor([1.0, 3, 0.2, 1, 5, 1, 0, 0.1, 2])
    losses_B = F.cross_entropy(sessions_BD @ items_ND[1:].T, targets_B - 1, reduction="none")
    expected = (weights_B * losses_B).sum() / BATCH
    loss = full_softmax(sessions_BD, items_ND, targets_B, weights_B=weights_B, product_dtype=dtype)
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    actual = torch.autograd.grad(loss, [sessions_BD, items_ND])
    for gradient, reference in zip(actual, torch.autograd.grad(expected, [sessions_BD, items_ND]), strict=True):
        assert (gradient - reference).norm() <= 2 * tolerance * reference.norm()


def test_weights_of_one_change_nothing() -> None:
    sessions_BD, items_ND, targets_B = problem()
    weighted = full_softmax(sessions_BD, items_ND, targets_B, weights_B=torch.ones(BATCH))
    assert torch.equal(weighted, full_softmax(sessions_BD, items_ND, targets_B))


def test_on_learnt_examples_bfloat16_costs_a_quarter_of_a_percent() -> None:
    runs = [errors(*learnt_problem(0.97, 16.0, seed=seed), torch.bfloat16) for seed in range(8)]
    loss_error, session_error, item_error = (sum(error) / len(runs) for error in zip(*runs, strict=True))
    assert loss_error < 1e-3
    assert session_error < 3.5e-3
    assert item_error < 3e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_small_losses_are_precise_where_the_bound_is_far_above_all_scores(dtype: torch.dtype, tolerance: float) -> None:
    sessions_BD, items_ND, targets_B = learnt_problem(0.97, 16.0)
    sessions_BE, items_NE = F.pad(sessions_BD.detach(), (0, 1)), F.pad(items_ND.detach(), (0, 1))
    items_NE[3, -1] = 40  # long, at a right angle to all sessions
    assert 3 not in targets_B
    assert max(errors(sessions_BE.requires_grad_(), items_NE.requires_grad_(), targets_B, dtype)) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cosine", [0.9, 0.97, 1.0])
@pytest.mark.parametrize("scale", [16.0, 64.0, 120.0, 400.0, 5000.0])
@pytest.mark.parametrize("items", [1, 2, 1000])
def test_no_loss_is_negative_and_no_gradient_infinite(
    dtype: torch.dtype, cosine: float, scale: float, items: int
) -> None:
    sessions_BD, items_ND, targets_B = learnt_problem(cosine, scale, items=items)
    loss = full_softmax(sessions_BD, items_ND, targets_B, product_dtype=dtype)
    assert 0 <= loss.item() < 1
    for gradient in torch.autograd.grad(loss, [sessions_BD, items_ND]):
        assert gradient.isfinite().all()


def test_gradients_agree_with_finite_differences() -> None:
    sessions_BD, items_ND, targets_B = problem()
    direction_ND = torch.randn(items_ND.shape, generator=torch.Generator().manual_seed(1))
    direction_ND[0] = 0
    (gradient_ND,) = torch.autograd.grad(
        full_softmax(sessions_BD, items_ND, targets_B, product_dtype=torch.float32), [items_ND]
    )
    step = 1e-2
    with torch.no_grad():
        after = full_softmax(sessions_BD, items_ND + step * direction_ND, targets_B, product_dtype=torch.float32)
        before = full_softmax(sessions_BD, items_ND - step * direction_ND, targets_B, product_dtype=torch.float32)
    assert ((after - before) / (2 * step)).item() == pytest.approx((gradient_ND * direction_ND).sum().item(), abs=1e-3)


def test_padding_is_no_candidate_and_gets_no_gradient() -> None:
    sessions_BD, items_ND, targets_B = problem()
    full_softmax(sessions_BD, items_ND, targets_B).backward()
    assert items_ND.grad is not None
    assert not items_ND.grad[0].any()


def taught(targets_B: Tensor, items: int, weight: float) -> SoftTargets:
    """Five items of each example and their shares; the true next item is among those of the first example."""
    generator = torch.Generator().manual_seed(8)
    rows_BS = torch.stack([torch.randperm(items, generator=generator)[:5] + 1 for _ in targets_B])
    rows_BS[0, 0] = targets_B[0] if targets_B[0] not in rows_BS[0] else rows_BS[0, 0]
    return SoftTargets(rows_BS, torch.rand(rows_BS.shape, generator=generator).softmax(dim=1), weight)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_with_soft_targets_loss_and_gradients_are_those_of_the_mixed_cross_entropy(
    dtype: torch.dtype, tolerance: float, weight: float, scale: float, *, weighted: bool
) -> None:
    sessions_BD, items_ND, targets_B = problem(scale)
    soft_targets = taught(targets_B, ITEMS, weight)
    mixed_BN = F.one_hot(targets_B - 1, ITEMS) / (1 + weight)
    mixed_BN = mixed_BN.scatter_add(1, soft_targets.rows_S - 1, weight / (1 + weight) * soft_targets.shares_S)
    weights_B = torch.linspace(0.5, 2, BATCH) if weighted else None
    losses_B = F.cross_entropy(sessions_BD @ items_ND[1:].T, mixed_BN, reduction="none")
    expected = (losses_B if weights_B is None else losses_B * weights_B).mean()
    references = torch.autograd.grad(expected, [sessions_BD, items_ND])
    loss = full_softmax(
        sessions_BD, items_ND, targets_B, weights_B=weights_B, soft_targets=soft_targets, product_dtype=dtype
    )
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    for gradient, reference in zip(torch.autograd.grad(loss, [sessions_BD, items_ND]), references, strict=True):
        assert (gradient - reference).norm() <= tolerance * reference.norm()
    by_scores = plain_softmax(sessions_BD @ items_ND.T, targets_B, weights_B=weights_B, soft_targets=soft_targets)
    assert by_scores.item() == pytest.approx(expected.item(), rel=1e-5)
