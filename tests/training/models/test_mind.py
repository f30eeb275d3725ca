"""MIND against its equations, written out for one session, and the number of interests of a session."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onward.training.losses.objectives import FullSoftmax, SampledSoftmax
from onward.training.models.capsules import route
from onward.training.models.layers import Cosine, InnerProduct
from onward.training.models.mind import MIND, MINDOptions, fewest_items
from tests.training.corpora import batch, corpus

ITEMS, DIMENSION, INTERESTS, MAX_LENGTH = 20, 6, 3, 10
PAPER = MINDOptions(
    dimension=DIMENSION,
    interests=INTERESTS,
    adaptive_interests=True,
    rounds=3,
    projection=True,
    max_length=MAX_LENGTH,
    initial="glorot",
    similarity=InnerProduct(kind="inner_product"),
    dropout=0,
    objective=SampledSoftmax(kind="sampled_softmax", negatives=20, distribution="log_uniform", log_q=True),
    negative_interest="of_target",
)
SESSIONS = [[5], [1, 2], [1, 2, 1], [3, 4, 3, 4], [1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 8, 9, 10, 11, 12]]
HAS = [1, 1, 1, 2, 2, 3]
BATCH = batch(SESSIONS, [2, 3, 4, 5, 6, 7])


def mind(**changes: object) -> MIND:
    torch.manual_seed(3)
    return MIND(corpus(ITEMS), PAPER.model_copy(update=changes))


def by_the_equations(model: MIND, session: list[int], interests: int) -> Tensor:
    """The interests that a session has; one S for all of them, logits as they were drawn for the newest places."""
    votes_LD = torch.stack([model.vote.weight @ model.items.embedding.weight[item] for item in session])
    logits_KL = model.routing_KL[:interests, MAX_LENGTH - len(session) :]
    valid_BL = torch.ones(1, len(session), dtype=torch.bool)
    votes_BKLD = votes_LD.expand(1, interests, *votes_LD.shape)
    capsules_KD = route(votes_BKLD, logits_KL[None, :, None], valid_BL, model.rounds)[0]
    return capsules_KD if model.projection is None else torch.relu(model.projection(capsules_KD))


@torch.inference_mode()
@pytest.mark.parametrize("projection", [True, False])
def test_a_batch_matches_the_equations_for_each_session(projection: bool) -> None:
    model = mind(projection=projection).eval()
    for interests_KD, session, count in zip(model(BATCH.items_BL), SESSIONS, HAS, strict=True):
        expected_KD = by_the_equations(model, session, count)
        torch.testing.assert_close(interests_KD[:count], expected_KD)
        torch.testing.assert_close(interests_KD[count:], expected_KD[:1].expand(INTERESTS - count, DIMENSION))


@torch.inference_mode()
def test_without_adaptive_interests_every_session_has_all() -> None:
    model = mind(adaptive_interests=False).eval()
    for interests_KD, session in zip(model(BATCH.items_BL), SESSIONS, strict=True):
        torch.testing.assert_close(interests_KD, by_the_equations(model, session, INTERESTS))


def test_a_session_of_n_items_has_log2_n_interests_rounded_down_and_at_least_one() -> None:
    assert fewest_items(4, adaptive=True).tolist() == [0, 4, 8, 16]
    assert fewest_items(1, adaptive=True).tolist() == [0]
    assert fewest_items(3, adaptive=False).tolist() == [0, 0, 0]


def test_the_routing_logits_are_drawn_once_and_stored() -> None:
    model = mind()
    assert torch.equal(model(BATCH.items_BL), model(BATCH.items_BL))
    assert model.state_dict()["routing_KL"].shape == (INTERESTS, MAX_LENGTH)
    assert "routing_KL" not in dict(model.named_parameters())
    torch.manual_seed(99)
    loaded = MIND(corpus(ITEMS), PAPER)
    assert not torch.equal(loaded.routing_KL, model.routing_KL)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded(BATCH.items_BL), model(BATCH.items_BL))


@torch.no_grad()
def test_the_loss_is_that_of_the_interest_nearest_to_the_target() -> None:
    model = mind(objective=FullSoftmax(kind="full_softmax"))
    model.items.embedding.weight.mul_(4)  # so that it matters which interest it is
    vectors_ND = model.item_vectors()
    losses = []
    for interests_KD, target in zip(model(BATCH.items_BL), BATCH.next_items_B.tolist(), strict=True):
        all_KN = interests_KD @ vectors_ND[1:].T
        by_score_KN = all_KN[all_KN[:, target - 1].argsort(descending=True)]
        losses.append(F.cross_entropy(by_score_KN, torch.full((INTERESTS,), target - 1), reduction="none"))
    nearest, *_, farthest = torch.stack(losses).mean(dim=0)
    assert model.loss(BATCH).item() == pytest.approx(nearest.item(), rel=1e-2)
    assert farthest > 1.05 * nearest


@torch.inference_mode()
def test_interests_can_start_as_sums_of_the_items_themselves() -> None:
    model = mind(initial="item_means", projection=False)
    interest_D = model(torch.tensor([[0, 7]]))[0, 0]
    assert F.cosine_similarity(interest_D, model.items.embedding.weight[7], dim=0).item() == pytest.approx(1)


@torch.inference_mode()
def test_with_the_cosine_all_interests_have_the_same_length() -> None:
    model = mind(similarity=Cosine(kind="cosine", scale=12), projection=False)
    torch.testing.assert_close(model(BATCH.items_BL).norm(dim=2), torch.full((len(SESSIONS), INTERESTS), 12.0))


def test_long_vectors_give_finite_gradients_and_padding_is_not_updated() -> None:
    model = mind()
    with torch.no_grad():
        model.items.embedding.weight.mul_(1e3)
    model.loss(BATCH).backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    assert model.items.embedding.weight.grad is not None
    assert not model.items.embedding.weight.grad[0].any()
