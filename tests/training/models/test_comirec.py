"""ComiRec-SA and -DR against their equations, written out for one session, and their losses."""

from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onward.training.losses.objectives import FullSoftmax, SampledSoftmax
from onward.training.models.capsules import route
from onward.training.models.comirec import ComiRecDR, ComiRecDROptions, ComiRecSA, ComiRecSAOptions, concentration
from onward.training.models.layers import Cosine, InnerProduct
from tests.training.corpora import batch, corpus

ITEMS, DIMENSION, INTERESTS, MAX_LENGTH = 12, 6, 3, 5
SA_PAPER = ComiRecSAOptions(
    dimension=DIMENSION,
    interests=INTERESTS,
    attention_dimension=10,
    max_length=MAX_LENGTH,
    similarity=InnerProduct(kind="inner_product"),
    dropout=0,
    concentration_penalty=0,
    objective=SampledSoftmax(kind="sampled_softmax", negatives=20, distribution="log_uniform", log_q=True),
    negative_interest="of_target",
)
DR_PAPER = ComiRecDROptions(
    dimension=DIMENSION,
    interests=INTERESTS,
    rounds=3,
    max_length=MAX_LENGTH,
    initial="standard_normal",
    similarity=InnerProduct(kind="inner_product"),
    dropout=0,
    objective=SampledSoftmax(kind="sampled_softmax", negatives=20, distribution="log_uniform", log_q=True),
    negative_interest="of_target",
)
SESSIONS = [[5], [1, 2], [1, 1], [3, 4, 3, 4, 3], [7, 8, 9]]
BATCH = batch(SESSIONS, [2, 3, 4, 5, 6])
FULL = FullSoftmax(kind="full_softmax")


def sa(**changes: object) -> ComiRecSA:
    torch.manual_seed(3)
    return ComiRecSA(corpus(ITEMS), SA_PAPER.model_copy(update=changes))


def dr(**changes: object) -> ComiRecDR:
    torch.manual_seed(3)
    return ComiRecDR(corpus(ITEMS), DR_PAPER.model_copy(update=changes))


def sa_by_the_equations(model: ComiRecSA, session: list[int]) -> Tensor:
    """A = softmax(W_2 tanh(W_1 (H + P))), V = H A: positions weigh, they are not part of the interests."""
    vectors = [model.items.embedding.weight[item] for item in session]
    places = model.places_LD[MAX_LENGTH - len(session) :]
    logits = [
        model.attention(torch.tanh(model.attention_hidden(vector + place)))
        for vector, place in zip(vectors, places, strict=True)
    ]
    interests = []
    for k in range(INTERESTS):
        weights = [logit[k].exp() for logit in logits]
        weighted = [weight * vector for weight, vector in zip(weights, vectors, strict=True)]
        interests.append(torch.stack(weighted).sum(dim=0) / torch.stack(weights).sum())
    return torch.stack(interests)


def dr_by_the_equations(model: ComiRecDR, session: list[int]) -> Tensor:
    """e_kl = W_kl e_l with a matrix for each interest and place; the routing itself has its own test."""
    votes_KLD = torch.empty(INTERESTS, len(session), DIMENSION)
    for place, item in enumerate(session):
        matrices = model.vote_LDE[MAX_LENGTH - len(session) + place].split(DIMENSION, dim=1)
        for k, matrix_DD in enumerate(matrices):
            votes_KLD[k, place] = matrix_DD.T @ model.items.embedding.weight[item]
    logits_K1L = torch.zeros(INTERESTS, 1, len(session))
    return route(votes_KLD[None], logits_K1L[None], torch.ones(1, len(session), dtype=torch.bool), model.rounds)[0]


@torch.inference_mode()
def test_attention_matches_the_equations_for_each_session() -> None:
    model = sa().eval()
    for interests_KD, session in zip(model(BATCH.items_BL), SESSIONS, strict=True):
        torch.testing.assert_close(interests_KD, sa_by_the_equations(model, session))


@torch.inference_mode()
def test_routing_matches_the_equations_for_each_session() -> None:
    for rounds in (1, 3):
        model = dr(rounds=rounds).eval()
        for interests_KD, session in zip(model(BATCH.items_BL), SESSIONS, strict=True):
            torch.testing.assert_close(interests_KD, dr_by_the_equations(model, session))


@torch.inference_mode()
def test_the_order_of_a_session_matters() -> None:
    for model in (sa().eval(), dr().eval()):
        one, other = model(torch.tensor([[1, 2, 3], [2, 1, 3]]))
        assert (one - other).abs().max() > 1e-5


@torch.no_grad()
def test_the_loss_is_that_of_the_interest_nearest_to_the_target() -> None:
    for model in (sa(objective=FULL), dr(objective=FULL)):
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


def test_concentration_sums_the_squared_variance_of_each_interest() -> None:
    weights_BKL = torch.tensor([[[0, 1, 0, 0.0], [0.25, 0.25, 0.25, 0.25]], [[0, 0, 0.75, 0.25], [0, 0, 0.5, 0.5]]])
    valid_BL = torch.tensor([[True] * 4, [False, False, True, True]])
    one_of_four, three_to_one = (0.75**2 + 3 * 0.25**2) ** 2, (2 * 0.25**2) ** 2
    assert concentration(weights_BKL, valid_BL).item() == pytest.approx((one_of_four + three_to_one) / 2)


def test_the_penalty_is_added_to_the_loss_by_its_weight() -> None:
    losses = []
    for weight in (0, 2, 4):
        torch.manual_seed(5)
        losses.append(sa(concentration_penalty=weight, objective=FULL).loss(BATCH).item())
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-2)


@torch.inference_mode()
def test_interests_can_start_as_means_of_items() -> None:
    for interests_KD, session in zip(dr(initial="item_means", rounds=1)(BATCH.items_BL), SESSIONS, strict=True):
        mean_D = dr().items.embedding.weight[session].mean(dim=0)
        assert (F.cosine_similarity(interests_KD, mean_D[None]) > 0.6).all()


@torch.inference_mode()
def test_with_the_cosine_all_interests_have_the_same_length() -> None:
    similarity = Cosine(kind="cosine", scale=12)
    for model in (sa(similarity=similarity), dr(similarity=similarity, initial="item_means")):
        torch.testing.assert_close(model(BATCH.items_BL).norm(dim=2), torch.full((len(SESSIONS), INTERESTS), 12.0))


@torch.inference_mode()
def test_dropout_is_active_in_training_only() -> None:
    for model in (sa(dropout=0.5), dr(dropout=0.5)):
        assert not torch.equal(model.train()(BATCH.items_BL), model(BATCH.items_BL))
        assert torch.equal(model.eval()(BATCH.items_BL), model(BATCH.items_BL))


def test_with_one_interest_both_negative_interests_agree() -> None:
    for model in (sa(interests=1), dr(interests=1)):
        assert model(BATCH.items_BL).shape == (len(SESSIONS), 1, DIMENSION)
        assert model.loss(BATCH).item() < 2 * log(ITEMS + 20)


def test_long_vectors_give_finite_gradients_and_padding_is_not_updated() -> None:
    for model in (sa(concentration_penalty=1), dr()):
        with torch.no_grad():
            model.items.embedding.weight.mul_(1e3)
        model.loss(BATCH).backward()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
        assert model.items.embedding.weight.grad is not None
        assert not model.items.embedding.weight.grad[0].any()
