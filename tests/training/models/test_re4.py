"""Re4 against its equations, written out for one session, and its backward flows by hand."""

from itertools import product
from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from onward.training.losses.objectives import SampledSoftmax
from onward.training.models.layers import Cosine, InnerProduct
from onward.training.models.re4 import (
    AttentionTarget,
    Denominator,
    Re4,
    Re4Options,
    ReAttend,
    ReConstruct,
    Reconstruction,
    ReContrast,
    re_attend,
    re_construct,
    re_contrast,
)
from tests.training.corpora import batch, corpus

ITEMS, DIMENSION, MAX_LENGTH = 12, 6, 5
PAPER = Re4Options(
    dimension=DIMENSION,
    hidden=10,
    interests=3,
    max_length=MAX_LENGTH,
    similarity=InnerProduct(kind="inner_product"),
    initial="standard_normal",
    readout="tanh",
    re_contrast=ReContrast(weight=0.1, temperature=0.02),
    re_attend=ReAttend(weight=0.001),
    re_construct=ReConstruct(weight=0.1),
    objective=SampledSoftmax(kind="sampled_softmax", negatives=20, distribution="uniform", log_q=False),
    negative_interest="of_target",
)
OFF = {
    "re_contrast": ReContrast(weight=0, temperature=0.02),
    "re_attend": ReAttend(weight=0),
    "re_construct": ReConstruct(weight=0),
}
SESSIONS = [[5], [1, 2], [1, 1], [3, 4, 3, 4, 3], [7, 8, 9]]
BATCH = batch(SESSIONS, [2, 3, 4, 5, 6])


def encoder(**changes: object) -> Re4:
    torch.manual_seed(3)
    model = Re4(corpus(ITEMS), PAPER.model_copy(update={"initial": "item_means", **changes}))
    torch.nn.init.normal_(model.value.weight, std=DIMENSION**-0.5)
    return model


def forward_by_the_equations(model: Re4, session: list[int]) -> Tensor:
    """The interests of one session before the read-out, one by one."""
    vectors = [model.items.embedding.weight[item] for item in session]
    interests = []
    for query in model.attention.weight:
        relevance = torch.stack([query @ torch.tanh(model.hidden.weight @ vector) for vector in vectors])
        weights = relevance.exp() / relevance.exp().sum()
        pooled = [weight * model.value.weight @ vector for weight, vector in zip(weights, vectors, strict=True)]
        interests.append(torch.stack(pooled).sum(dim=0))
    return torch.stack(interests)


@torch.inference_mode()
def test_a_batch_matches_the_equations_for_each_session() -> None:
    plain, read = encoder(readout="none"), encoder(readout="tanh")
    for interests_KD, session in zip(plain(BATCH.items_BL), SESSIONS, strict=True):
        torch.testing.assert_close(interests_KD, forward_by_the_equations(plain, session), atol=1e-6, rtol=1e-5)
    for interests_KD, session in zip(read(BATCH.items_BL), SESSIONS, strict=True):
        expected_KD = read.readout(forward_by_the_equations(read, session))
        torch.testing.assert_close(interests_KD, expected_KD, atol=1e-6, rtol=1e-5)
    first, squash = read.readout.children()
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(squash, torch.nn.Tanh)


@torch.inference_mode()
def test_an_item_with_more_than_uniform_attention_is_a_positive() -> None:
    flow = encoder().forward_flow(BATCH.items_BL)
    for session, positive_KL, logits_KL in zip(SESSIONS, flow.positive_BKL(), flow.attention_logits_BKL, strict=True):
        attention_KL = logits_KL[:, -len(session) :].softmax(dim=1)
        assert torch.equal(positive_KL[:, -len(session) :], attention_KL > 1 / len(session))
        assert not positive_KL[:, : -len(session)].any()


def test_re_contrast_by_hand() -> None:
    """The only positive is an item like its interest (cosine 1); its rivals have the cosines 1, 0 | 0, -1 | 0."""
    loss = re_contrast(
        torch.tensor([[[4.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]),
        torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [-5.0, 0.0]]]),
        valid_BL=torch.ones(2, 2, dtype=torch.bool),
        positive_BKL=torch.tensor([[[True, False], [False, False]], [[False, False], [False, False]]]),
        temperature=0.5,
        max_length=10,
        denominator="session",
    )
    own, other_user, other_interest = exp(2) + exp(0), exp(0) + exp(-2), exp(0)
    assert loss.item() == pytest.approx((log(own + other_user + other_interest) - 2) / (2 * 2 * 10))


@pytest.mark.parametrize(
    ("denominator", "first", "second"),
    [
        ("negatives", log(exp(2) + 2 + 2 * exp(-2)) - 2, log(exp(0) + 2 + 2 * exp(-2)) - 0),  # 0.26799, 1.18502
        ("session", log(exp(2) + exp(0) + 2 + 2 * exp(-2)) - 2, log(exp(2) + exp(0) + 2 + 2 * exp(-2)) - 0),
    ],
)
def test_re_contrast_compares_one_positive_at_a_time_with_the_negatives_or_with_the_session(
    denominator: Denominator, first: float, second: float
) -> None:
    """The first interest has two positives, of the cosines 1 and 0. Its negatives: an item of its session (cosine -1),
    the two items of the previous example (0 and -1) and the other interest (0): exp(-2) + 1 + exp(-2) + 1 at 1/2.
    """
    loss = re_contrast(
        torch.tensor([[[4.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]),
        torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], [[7.0, 7.0], [0.0, 1.0], [-5.0, 0.0]]]),
        valid_BL=torch.tensor([[True, True, True], [False, True, True]]),
        positive_BKL=torch.tensor([[[True, True, False], [False] * 3], [[False] * 3, [False] * 3]]),
        temperature=0.5,
        max_length=10,
        denominator=denominator,
    )
    assert loss.item() == pytest.approx((first + second) / (2 * 2 * 10), rel=1e-5)
    assert loss.item() == pytest.approx({"negatives": 0.036325, "session": 0.068324}[denominator], abs=1e-6)


def re_contrast_by_loops(
    interests: Tensor,
    items: Tensor,
    sessions: list[list[int]],
    positive: Tensor,
    temperature: float,
    denominator: Denominator,
) -> float:
    total = 0.0
    for b, session in enumerate(sessions):
        for k, interest in enumerate(interests[b]):

            def weight(other: Tensor, interest: Tensor = interest) -> float:
                return exp(F.cosine_similarity(interest, other, dim=0).item() / temperature)

            own = range(items.shape[1] - len(session), items.shape[1])
            rivals = [weight(items[b, i]) for i in own if denominator == "session" or not positive[b, k, i]]
            rivals += [weight(item) for item in items[b - 1, -len(sessions[b - 1]) :]]
            rivals += [weight(other) for other in (*interests[b, :k], *interests[b, k + 1 :])]
            for place in positive[b, k].nonzero():
                itself = weight(items[b, int(place)])
                total -= log(itself / (sum(rivals) + (itself if denominator == "negatives" else 0)))
    return total / (len(sessions) * interests.shape[1] * MAX_LENGTH)


@torch.inference_mode()
@pytest.mark.parametrize("denominator", ["negatives", "session"])
def test_re_contrast_has_negatives_from_session_previous_example_and_other_interests(denominator: Denominator) -> None:
    flow = encoder().forward_flow(BATCH.items_BL)
    positive = flow.positive_BKL()
    loss = re_contrast(
        flow.interests_BKD,
        flow.items_BLD,
        valid_BL=flow.valid_BL,
        positive_BKL=positive,
        temperature=0.3,
        max_length=MAX_LENGTH,
        denominator=denominator,
    )
    expected = re_contrast_by_loops(flow.interests_BKD, flow.items_BLD, SESSIONS, positive, 0.3, denominator)
    assert positive.any()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


UNEQUAL, EQUAL = [log(3), 0.0], [0.0, 0.0]
"""Logits whose softmax is 3/4, 1/4; and 1/2, 1/2."""


@pytest.mark.parametrize(
    ("target", "attention_logits", "scores", "expected"),
    [
        ("scores", EQUAL, UNEQUAL, log(2)),  # -(3/4 log 1/2 + 1/4 log 1/2)
        ("scores", UNEQUAL, EQUAL, -(log(3 / 4) + log(1 / 4)) / 2),
        ("scores", UNEQUAL, UNEQUAL, -(3 * log(3 / 4) + log(1 / 4)) / 4),
        ("attention", EQUAL, UNEQUAL, -(log(3 / 4) + log(1 / 4)) / 2),
        ("attention", UNEQUAL, EQUAL, log(2)),
        ("attention", UNEQUAL, UNEQUAL, -(3 * log(3 / 4) + log(1 / 4)) / 4),
    ],
)
def test_re_attend_by_hand(
    target: AttentionTarget, attention_logits: list[float], scores: list[float], expected: float
) -> None:
    """The target weighs the logarithms of the other side; a padded place changes nothing."""
    valid_BL = torch.tensor([[False, True, True]])
    loss = re_attend(
        torch.tensor([[[9.0, *attention_logits]]]),
        torch.tensor([[[7.0, *scores]]]),
        valid_BL=valid_BL,
        target=target,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", ["scores", "attention"])
def test_re_attend_is_a_mean_over_sessions_and_interests_with_gradients_to_both_sides(target: AttentionTarget) -> None:
    logits_BKL = torch.zeros(2, 2, 4, requires_grad=True)
    scores_BKL = torch.zeros(2, 2, 4, requires_grad=True)
    loss = re_attend(logits_BKL, scores_BKL, valid_BL=torch.ones(2, 4).bool(), target=target)
    assert loss.item() == pytest.approx(log(4))
    loss.backward()
    assert logits_BKL.grad is not None
    assert scores_BKL.grad is not None


@pytest.mark.parametrize(
    ("flow", "code", "paper"),
    [
        (
            "re_contrast",
            ReContrast(weight=1, temperature=1, denominator="session"),
            ReContrast(weight=1, temperature=1, denominator="negatives"),
        ),
        ("re_attend", ReAttend(weight=1, target="scores"), ReAttend(weight=1, target="attention")),
    ],
)
def test_the_form_that_the_options_name_is_computed(flow: str, code: BaseModel, paper: BaseModel) -> None:
    models = [encoder(**{**OFF, flow: options}) for options in (code, paper)]
    losses = [model.backward_flows(model.forward_flow(BATCH.items_BL)).item() for model in models]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_options_of_earlier_versions_mean_the_form_of_the_code() -> None:
    written = {"weight": 0.1, "temperature": 0.02}
    assert ReContrast.model_validate(written).denominator == "session"
    assert ReAttend.model_validate({"weight": 0.1}).target == "scores"


def test_the_form_names_the_backward_flows_that_are_on() -> None:
    assert PAPER.form == "re-contrast over the session, re-attend to the scores, re-construct"
    assert PAPER.model_copy(update=OFF).form == "backward flows off"
    papers = {
        "re_contrast": ReContrast(weight=1, temperature=0.02, denominator="negatives"),
        "re_attend": ReAttend(weight=1, target="attention"),
    }
    one_off = PAPER.model_copy(update={**OFF, **papers})
    assert one_off.form == "re-contrast over the negatives, re-attend to the attention"


def test_re_construct_by_hand() -> None:
    """Errors (1, 2) and (0, 3) at the two positives: 1 + 4 + 0 + 9, over 1 * 2 * 10 * 2 numbers."""
    loss = re_construct(
        torch.tensor([[[[1.0, 2.0], [50.0, 50.0]], [[60.0, 60.0], [1.0, 4.0]]]]),
        torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]),
        positive_BKL=torch.tensor([[[True, False], [False, True]]]),
        max_length=10,
    )
    assert loss.item() == pytest.approx(14 / 40)


def reconstruction_by_the_equations(model: Reconstruction, interest: Tensor, length: int) -> Tensor:
    """Up-sample, attend, gather: matrix by matrix and place by place."""
    places = model.up_sample(interest).view(MAX_LENGTH, DIMENSION)[-length:]
    rebuilt = []
    for query in model.query_MD[-length:]:
        relevance = torch.stack([query @ torch.tanh(model.key.weight @ place) for place in places])
        weights = relevance.exp() / relevance.exp().sum()
        rebuilt.append(sum(weight * model.value.weight @ place for weight, place in zip(weights, places, strict=True)))
    return torch.stack([torch.as_tensor(vector) for vector in rebuilt])


@torch.inference_mode()
def test_the_composed_matrices_match_the_equations() -> None:
    model = encoder()
    assert model.reconstruction is not None
    flow = model.forward_flow(BATCH.items_BL)
    reconstructed_BKLD = model.reconstruction(flow.interests_BKD, flow.valid_BL)
    for interests_KD, rebuilt_KLD, session in zip(flow.interests_BKD, reconstructed_BKLD, SESSIONS, strict=True):
        for interest, rebuilt_LD in zip(interests_KD, rebuilt_KLD, strict=True):
            expected_LD = reconstruction_by_the_equations(model.reconstruction, interest, len(session))
            torch.testing.assert_close(rebuilt_LD[-len(session) :], expected_LD, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("flow", OFF)
def test_padding_does_not_change_a_backward_flow(flow: str) -> None:
    model = encoder(**{**OFF, flow: getattr(PAPER, flow)})
    padded_BL = F.pad(BATCH.items_BL, (3, 0))  # beyond max_length too
    loss = model.backward_flows(model.forward_flow(BATCH.items_BL))
    assert loss > 0
    torch.testing.assert_close(model.backward_flows(model.forward_flow(padded_BL)), loss)


@pytest.mark.parametrize("flow", OFF)
def test_a_backward_flow_that_is_off_has_no_gradient(flow: str) -> None:
    def gradient(model: Re4) -> Tensor:
        torch.manual_seed(1)
        model.zero_grad()
        model.loss(BATCH).backward()
        assert model.value.weight.grad is not None
        return model.value.weight.grad

    off, on = encoder(**OFF), encoder(**{**OFF, flow: getattr(PAPER, flow)})
    on.load_state_dict(off.state_dict(), strict=False)
    assert not off.backward_flows(off.forward_flow(BATCH.items_BL)).requires_grad
    flow_alone = torch.autograd.grad(on.backward_flows(on.forward_flow(BATCH.items_BL)), on.value.weight)[0]
    assert flow_alone.abs().max() > 1e-6
    torch.testing.assert_close(gradient(on) - flow_alone, gradient(off), atol=1e-6, rtol=1e-4)


def test_without_re_construct_its_weights_do_not_exist() -> None:
    assert encoder(re_construct=ReConstruct(weight=0)).reconstruction is None


def test_the_gradients_of_extreme_scores_are_finite() -> None:
    forms: list[tuple[Denominator, AttentionTarget]] = [("session", "scores"), ("negatives", "attention")]
    for readout, (denominator, target) in product(("tanh", "none"), forms):
        model = encoder(
            readout=readout,
            re_contrast=ReContrast(weight=0.1, temperature=0.02, denominator=denominator),
            re_attend=ReAttend(weight=0.001, target=target),
        )
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2000)
        scores_BKL = model(BATCH.items_BL) @ model.items(BATCH.items_BL).mT
        assert scores_BKL.max() > 200
        model.loss(BATCH).backward()
        for weight in model.parameters():
            assert weight.grad is not None
            assert weight.grad.isfinite().all()


def test_padding_is_not_updated() -> None:
    model = encoder()
    model.loss(BATCH).backward()
    assert model.items.embedding.weight.grad is not None
    assert not model.items.embedding.weight.grad[0].any()
    assert not model.items.embedding.weight[0].any()


@torch.inference_mode()
def test_with_the_cosine_every_item_and_interest_has_one_length() -> None:
    model = encoder(similarity=Cosine(kind="cosine", scale=12))
    torch.testing.assert_close(model.item_vectors()[1:].norm(dim=1), torch.ones(ITEMS))
    torch.testing.assert_close(model(BATCH.items_BL).norm(dim=2), torch.full((len(SESSIONS), 3), 12.0))


def test_matrices_are_initialised_as_in_the_recipe() -> None:
    torch.manual_seed(3)
    wide = PAPER.model_copy(update={"dimension": 64, "hidden": 256})
    for initial, std in (("standard_normal", 1.0), ("item_means", 1 / 8)):
        model = Re4(corpus(ITEMS), wide.model_copy(update={"initial": initial}))
        assert model.hidden.weight.std().item() == pytest.approx(std, rel=0.05)


@torch.inference_mode()
def test_interests_may_start_as_means_of_items() -> None:
    model = Re4(corpus(ITEMS), PAPER.model_copy(update={"initial": "item_means", "readout": "none"}))
    vectors_LD = model.items(torch.tensor([3, 4, 5]))
    (interests_KD,) = model(torch.tensor([[3, 4, 5]]))
    weights_KL = torch.linalg.lstsq(vectors_LD.T, interests_KD.T).solution.T
    torch.testing.assert_close(weights_KL @ vectors_LD, interests_KD, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights_KL.sum(dim=1), torch.ones(3), atol=1e-4, rtol=1e-4)
