"""The fused softmax against torch's own cross-entropy."""

import pytest
import torch
from torch import Tensor

from onward.training.losses.softmax import full_softmax

ITEMS, DIMENSION, BATCH = 50, 12, 9


def problem(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    sessions_BD = (scale * torch.randn(BATCH, DIMENSION, generator=generator)).requires_grad_()
    items_ND = torch.randn(ITEMS + 1, DIMENSION, generator=generator)
    items_ND[0] = 0
    targets_B = torch.randint(1, ITEMS + 1, (BATCH,), generator=generator)
    return sessions_BD, items_ND.requires_grad_(), targets_B


def plain(sessions_BD: Tensor, items_ND: Tensor, targets_B: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(sessions_BD @ items_ND[1:].T, targets_B - 1)


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
