"""The softmax over the items of one rank that owns all of them is that of `full_softmax`.

More ranks: `tests.training.ranks`.
"""

import pytest
import torch
from torch import Tensor

from onward.training.losses.sharded_softmax import sharded_full_softmax
from onward.training.losses.softmax import full_softmax
from onward.training.ranks.ranks import Ranks


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_are_those_of_the_full_softmax(scale: float, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    sessions_BD = scale * torch.randn(9, 6, generator=generator)
    items_ND = torch.randn(31, 6, generator=generator)
    items_ND[7] *= 20  # the bound of scores is then far above the scores of sessions that do not point to it
    targets_B = torch.randint(1, 31, (9,), generator=generator)
    weights_B = torch.rand(9, generator=generator) + 0.5 if weighted else None

    def of(function: str) -> tuple[Tensor, Tensor, Tensor]:
        sessions, items = sessions_BD.clone().requires_grad_(), items_ND.clone().requires_grad_()
        options = {"weights_B": weights_B, "product_dtype": torch.float32}
        if function == "sharded":
            loss = sharded_full_softmax(sessions, items, targets_B, Ranks(), **options)  # type: ignore[arg-type]
        else:
            loss = full_softmax(sessions, items, targets_B, **options)  # type: ignore[arg-type]
        (2 * loss).backward()
        assert sessions.grad is not None
        assert items.grad is not None
        return loss.detach(), sessions.grad, items.grad

    for found, expected in zip(of("sharded"), of("full"), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_largest_scores_take_over_where_the_bound_is_far_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session at a right angle to the longest item, whose bound would make all exponentials vanish."""
    sessions_BD, items_ND = torch.tensor([[0.0, 40.0]]), torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 1.0], [0.0, 0.9]])
    targets_B = torch.tensor([3])
    loss = sharded_full_softmax(sessions_BD, items_ND, targets_B, Ranks(), product_dtype=torch.float32)
    expected = (sessions_BD @ items_ND[1:].T).log_softmax(dim=1)[0, 2]
    assert loss.item() == pytest.approx(-expected.item(), rel=1e-5)
