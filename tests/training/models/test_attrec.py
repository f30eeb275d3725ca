"""AttRec against its equations, written out for one session, and its inner products against plain distances."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from onward.training.data.corpus import Corpus
from onward.training.losses.objectives import FullSoftmax
from onward.training.losses.user_negatives import UserNegativeSampler
from onward.training.models.attrec import BPR, AttRec, AttRecOptions, Distance, Hinge, bpr, hinge, time_signal
from onward.training.models.layers import Cosine, InnerProduct
from tests.training.corpora import batch, corpus, sessions

ITEMS, USERS, D = 12, 3, 8
HINGE = {"kind": "hinge", "margin": 0.5, "negatives": 2}
PAPER = AttRecOptions(
    dimension=D,
    max_length=5,
    horizon=3,
    score=Distance(kind="distance"),
    user_weight=0.2,
    mask_diagonal=True,
    time_signal=True,
    projection_dropout=0,
    item_dropout=0,
    objective=Hinge.model_validate(HINGE),
)
INNER = PAPER.model_copy(
    update={"score": InnerProduct(kind="inner_product"), "objective": BPR(kind="bpr", negatives=2)}
)
SESSIONS = [[5], [1, 2], [1, 1], [3, 4, 3], [1, 2, 3, 2, 4]]


def encoder(options: AttRecOptions = PAPER, users: int = USERS) -> AttRec:
    """Scale vectors so that some are outside the unit ball."""
    torch.manual_seed(3)
    model = AttRec(corpus(ITEMS, users=users), options).eval()
    with torch.no_grad():
        for table in (model.items.embedding, model.user_table):
            table.weight[1:] = 0.5 * torch.randn_like(table.weight[1:])
    return model


def padded(*items: list[int]) -> Tensor:
    length = max(2, *(len(session) for session in items))
    return torch.tensor([[0] * (length - len(session)) + session for session in items])


def in_ball(vector: Tensor) -> Tensor:
    return vector / max(1.0, float(vector.norm()))


def vectors(model: AttRec, item: int) -> tuple[Tensor, Tensor]:
    """V and X of an item, as they are scored."""
    both = model.items.embedding.weight[item]
    halves = (both[:D], both[D:])
    return (in_ball(halves[0]), in_ball(halves[1])) if isinstance(model.options.score, Distance) else halves


def short_term(model: AttRec, session: list[int]) -> Tensor:
    """Section 3.2 of the paper, position by position."""
    rows = [vectors(model, item)[1] for item in session]
    places = range(5 - len(session), 5)
    queries = [
        torch.relu(model.projection.weight @ (row + time(place))) for row, place in zip(rows, places, strict=True)
    ]
    attended = []
    for i, query in enumerate(queries):
        others = [j for j in range(len(session)) if j != i] or [i]
        weights = torch.stack([query @ queries[j] / math.sqrt(D) for j in others]).softmax(dim=0)
        attended.append(sum((weight * rows[j] for weight, j in zip(weights, others, strict=True)), torch.zeros(D)))
    return torch.stack(attended).mean(dim=0)


def time(place: int) -> Tensor:
    angles = [place / 10_000 ** (2 * (column // 2) / D) for column in range(D)]
    return torch.tensor([math.cos(angle) if column % 2 else math.sin(angle) for column, angle in enumerate(angles)])


def score(model: AttRec, session: list[int], user: int, item: int) -> float:
    """The sum of two halves: an unknown user has the session half only, an empty session the user half only."""
    v, x = vectors(model, item)
    weight = 0.0 if not user else 1.0 if not session else 0.2
    m = short_term(model, session) if session else torch.zeros(D)
    if isinstance(model.options.score, Distance):
        u = in_ball(model.user_table.weight[user])
        return -float(weight * (u - v).square().sum() + (1 - weight) * (m - x).square().sum())
    return float(weight * (model.user_table.weight[user] @ v) + (1 - weight) * (m @ x))


@torch.inference_mode()
@pytest.mark.parametrize("options", [PAPER, INNER], ids=["distance", "inner product"])
def test_one_inner_product_ranks_like_the_sum_of_the_halves(options: AttRecOptions) -> None:
    model = encoder(options)
    for user in (0, 2):
        sessions = SESSIONS if not user else [*SESSIONS, []]
        interests_B1F = model(padded(*sessions), torch.full((len(sessions),), user))
        for interest_1F, session in zip(interests_B1F, sessions, strict=True):
            scores = model.item_vectors()[1:] @ interest_1F[0]
            expected = torch.tensor([score(model, session, user, item) for item in range(1, ITEMS + 1)])
            difference = scores - expected  # the same number for every item
            torch.testing.assert_close(difference, difference.mean().expand(ITEMS), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_item_vectors_are_in_the_unit_ball() -> None:
    model = encoder()
    vectors_NF = model.item_vectors()
    assert model.items.embedding.weight[:, :D].norm(dim=1).max() > 1
    assert vectors_NF[:, :D].norm(dim=1).max() <= 1 + 1e-6
    assert vectors_NF[:, D : 2 * D].norm(dim=1).max() <= 1 + 1e-6
    torch.testing.assert_close(vectors_NF[:, 2 * D], -vectors_NF[:, :D].square().sum(dim=1))
    assert not vectors_NF[0].any()


@torch.inference_mode()
def test_a_corpus_without_users_has_the_session_half_only() -> None:
    model = encoder(users=0)
    assert model.item_vectors().shape[1] == D + 1
    interest_F = model(padded([1, 2]))[0, 0]
    distances = 1 - (model.item_vectors()[1:] @ interest_F)
    nearest = torch.stack([(short_of(model, [1, 2]) - x).square().sum() for x in model.item_vectors()[1:, :D]])
    assert distances.argsort().tolist() == nearest.argsort().tolist()


def short_of(model: AttRec, session: list[int]) -> Tensor:
    """m, recovered from the query of a session."""
    interest: Tensor = model(padded(session))[0, 0, :D] / 2
    return interest


def test_cosines_of_both_halves_are_weighted_and_scaled() -> None:
    model = encoder(PAPER.model_copy(update={"score": Cosine(kind="cosine", scale=10)}))
    with torch.inference_mode():
        known, unknown = model(padded([1, 2], [1, 2]), torch.tensor([2, 0]))[:, 0]
        vectors_NF = model.item_vectors()
    assert [float(known[:D].norm()), float(known[D:].norm())] == pytest.approx([2, 8], rel=1e-5)
    assert [float(unknown[:D].norm()), float(unknown[D:].norm())] == pytest.approx([0, 10], rel=1e-5)
    torch.testing.assert_close(vectors_NF[1:].norm(dim=1), torch.full((ITEMS,), math.sqrt(2)))


def test_losses_by_hand() -> None:
    gaps = torch.tensor([-1.0, -0.2, 0.3])
    assert float(hinge(gaps, 0.5)) == pytest.approx((0 + 0.3 + 0.8) / 3)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-0.2)) + math.log(1 + math.exp(0.3))) / 3
    assert float(bpr(gaps)) == pytest.approx(expected)
    assert float(hinge(gaps, 0.5, "sum")) == pytest.approx(0 + 0.3 + 0.8)
    assert float(hinge(gaps[:0], 0.5)) == float(hinge(gaps[:0], 0.5, "sum")) == float(bpr(gaps[:0])) == 0


def test_the_loss_of_a_recipe_is_the_mean_or_the_sum_over_pairs() -> None:
    """Each of two examples has one target and two negatives."""
    losses = []
    for reduction in ("mean", "sum"):
        model = encoder(PAPER.model_copy(update={"objective": Hinge.model_validate({**HINGE, "reduction": reduction})}))
        torch.manual_seed(1)
        losses.append(model.loss(batch([[1, 2], [3]], [11, 12], [1, 2])).item())
    assert losses[0] > 0
    assert losses[1] == pytest.approx(4 * losses[0])


@pytest.mark.parametrize("deviation", [0.001, 0.05])
def test_embeddings_begin_normal_and_truncated_at_two_deviations(deviation: float) -> None:
    """A normal distribution truncated at two deviations has 0.88 of the deviation."""
    torch.manual_seed(1)
    model = AttRec(corpus(500, users=300), PAPER.model_copy(update={"initial_deviation": deviation}))
    for table in (model.items.embedding.weight, model.user_table.weight):
        assert not table[0].any()
        assert table.abs().max() <= 2 * deviation
        assert table[1:].std().item() == pytest.approx(0.88 * deviation, rel=0.05)


def test_gradients_of_extreme_gaps_are_finite() -> None:
    gaps = torch.tensor([-1e30, -1e4, 0.0, 1e4, 1e30], requires_grad=True)
    (hinge(gaps, 0.5) + bpr(gaps)).backward()
    assert gaps.grad is not None
    assert gaps.grad.isfinite().all()


@pytest.mark.parametrize(
    "options", [PAPER, INNER, PAPER.model_copy(update={"objective": FullSoftmax(kind="full_softmax")})]
)
def test_padding_targets_do_not_count(options: AttRecOptions) -> None:
    model = encoder(options)
    one = batch([[1, 2], [3]], [4, 5], [1, 2])
    losses = []
    for missing in (0, 2):
        torch.manual_seed(1)
        targets_BT = torch.cat([one.targets_BT, torch.zeros(2, missing, dtype=torch.int64)], dim=1)
        losses.append(model.loss(one._replace(targets_BT=targets_BT)))
    assert losses[0].isfinite()
    if isinstance(options.objective, FullSoftmax):
        torch.testing.assert_close(losses[0], losses[1])
    losses[1].backward()
    gradient = model.items.embedding.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert not gradient[0].any()


def test_negatives_are_uniform_over_the_items_that_a_user_never_had() -> None:
    had = {1: {1, 2, 5}, 2: {6}, 3: set(range(1, 7))}
    walks = sessions([1, 5, 2, 1], [6, 6], [1, 2, 3, 4, 5, 6], users=[1, 2, 3])
    torch.manual_seed(0)
    untouched = UserNegativeSampler(Corpus(6, 3, (walks,)))
    for user, items in {**had, 0: set[int]()}.items():
        counts = np.bincount(untouched(torch.full((100, 60), user)).flatten().numpy(), minlength=7)
        free = [item for item in range(1, 7) if item not in items] or [6]
        assert set(np.flatnonzero(counts)) == set(free)
        assert counts[free].min() > 0.85 * 6_000 / len(free)


def test_the_time_signal_alternates_sine_and_cosine() -> None:
    for dimension in (4, 5):
        signal_LD = time_signal(3, dimension)
        assert signal_LD.shape == (3, dimension)
        assert signal_LD[2, :4].tolist() == pytest.approx(
            [math.sin(2), math.cos(2), *(f(2 / 10_000 ** (2 / dimension)) for f in (math.sin, math.cos))], abs=1e-6
        )
