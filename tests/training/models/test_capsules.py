"""Capsules by hand, and against a routing that loops over items."""

import torch
from torch import Tensor

from onward.training.models.capsules import route, squash

B, K, L, D = 2, 3, 4, 5


def by_the_algorithm(votes_KLD: Tensor, logits_KL: Tensor, rounds: int) -> Tensor:
    """Algorithm 1 of ComiRec for one session without padding, with the votes of each interest."""
    logits_KL = logits_KL.clone()
    interests, places, _ = votes_KLD.shape
    for number in range(rounds):
        shares_KL = torch.stack([logits_KL[:, place].exp() for place in range(places)], dim=1)
        shares_KL = shares_KL / shares_KL.sum(dim=0)
        sums = [sum(shares_KL[k, place] * votes_KLD[k, place] for place in range(places)) for k in range(interests)]
        capsules_KD = torch.stack([squash(total) for total in sums if isinstance(total, Tensor)])
        if number < rounds - 1:
            for k in range(interests):
                for place in range(places):
                    logits_KL[k, place] += votes_KLD[k, place] @ capsules_KD[k]
    return capsules_KD


def drawn() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(B, K, L, D), torch.randn(B, K, 1, L)


def test_a_length_n_becomes_n_squared_over_1_plus_n_squared() -> None:
    torch.testing.assert_close(squash(torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]) * 25 / 26)
    assert not squash(torch.zeros(2)).any()


def test_the_gradient_of_a_squashed_zero_is_finite() -> None:
    vector = torch.zeros(3, requires_grad=True)
    squash(vector).sum().backward()
    assert vector.grad is not None
    assert vector.grad.isfinite().all()


def test_routing_matches_the_algorithm() -> None:
    votes_BKLD, logits_BK1L = drawn()
    for rounds in (1, 2, 3):
        capsules_BKD = route(votes_BKLD, logits_BK1L, torch.ones(B, L, dtype=torch.bool), rounds)
        for capsules_KD, votes_KLD, logits_K1L in zip(capsules_BKD, votes_BKLD, logits_BK1L, strict=True):
            torch.testing.assert_close(capsules_KD, by_the_algorithm(votes_KLD, logits_K1L[:, 0], rounds))


def test_shared_votes_equal_the_same_votes_for_each_interest() -> None:
    votes_BKLD, logits_BK1L = drawn()
    shared_B1LD = votes_BKLD[:, :1]
    valid_BL = torch.ones(B, L, dtype=torch.bool)
    torch.testing.assert_close(
        route(shared_B1LD, logits_BK1L.transpose(1, 2), valid_BL, 3),
        route(shared_B1LD.expand(B, K, L, D), logits_BK1L, valid_BL, 3),
    )


def test_padding_has_no_weight() -> None:
    votes_BKLD, logits_BK1L = drawn()
    valid_BL = torch.tensor([[False, True, True, True]] * B)
    torch.testing.assert_close(
        route(votes_BKLD, logits_BK1L, valid_BL, 3),
        route(votes_BKLD[:, :, 1:], logits_BK1L[..., 1:], valid_BL[:, 1:], 3),
    )


def test_an_interest_with_a_logit_of_minus_infinity_has_no_weight() -> None:
    votes_BKLD, logits_BK1L = drawn()
    valid_BL = torch.ones(B, L, dtype=torch.bool)
    without = logits_BK1L.clone()
    without[:, 2] = -torch.inf
    capsules_BKD = route(votes_BKLD, without, valid_BL, 3)
    torch.testing.assert_close(capsules_BKD[:, :2], route(votes_BKLD[:, :2], logits_BK1L[:, :2], valid_BL, 3))
    assert not capsules_BKD[:, 2].any()


def test_the_gradient_flows_through_the_last_round_only() -> None:
    votes_BKLD, _ = drawn()
    valid_BL = torch.ones(B, L, dtype=torch.bool)
    votes_BKLD.requires_grad_()
    route(votes_BKLD, torch.zeros(B, K, 1, L), valid_BL, 3).sum().backward()
    routed, votes_BKLD.grad = votes_BKLD.grad, None

    fixed_BKLD = votes_BKLD.detach()
    logits_BK1L = torch.zeros(B, K, 1, L)
    for _ in range(2):
        shares_BK1L = logits_BK1L.softmax(dim=1)
        logits_BK1L = logits_BK1L + squash(shares_BK1L @ fixed_BKLD) @ fixed_BKLD.mT
    squash(logits_BK1L.softmax(dim=1) @ votes_BKLD).sum().backward()
    torch.testing.assert_close(routed, votes_BKLD.grad)


def test_long_votes_give_finite_capsules_and_gradients() -> None:
    votes_BKLD, logits_BK1L = drawn()
    votes_BKLD = (1e4 * votes_BKLD).requires_grad_()
    capsules_BKD = route(votes_BKLD, logits_BK1L, torch.ones(B, L, dtype=torch.bool), 3)
    capsules_BKD.sum().backward()
    assert capsules_BKD.isfinite().all()
    assert votes_BKLD.grad is not None
    assert votes_BKLD.grad.isfinite().all()
