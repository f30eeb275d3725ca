"""MVCrec against its equations, written out for one session head by head and position by position."""

import math
from typing import cast

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from onward.training.data.corpus import Corpus
from onward.training.losses.augmentations import Augmentation
from onward.training.losses.objectives import FullSoftmax, SampledSoftmax
from onward.training.models.layers import Cosine, InnerProduct
from onward.training.models.mvcrec import (
    AttentionFusion,
    ContrastOptions,
    ItemItemOptions,
    MVCrec,
    MVCrecOptions,
    UserItemOptions,
    ViewEncoder,
    info_nce,
)
from onward.training.models.transformer import TransformerBlock
from tests.training.corpora import batch, corpus, sessions

ITEMS, D = 12, 8
PAPER = MVCrecOptions(
    dimension=D,
    layers=2,
    heads=2,
    max_length=6,
    graph=ItemItemOptions(kind="item_item", reach=3, layers=2),
    fusion="attention",
    similarity=InnerProduct(kind="inner_product"),
    embedding_dropout=0,
    dropout=0,
    contrast=ContrastOptions(
        weight=0.1,
        similarity="inner_product",
        temperature=1,
        augmentation=Augmentation(crop=0.8, mask=0.5, reorder=0.8),
    ),
    objective=FullSoftmax(kind="full_softmax"),
)
USER_ITEM = UserItemOptions(kind="user_item", layers=2)
SESSIONS = [[5], [1, 2], [1, 1], [3, 4, 3, 4, 3], [1, 2, 3, 2, 4, 7]]


def encoder(**options: object) -> MVCrec:
    torch.manual_seed(3)
    model = MVCrec(corpus(ITEMS), PAPER.model_copy(update=options))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(30)  # so that attention is far from even
    return model.eval()


def padded(*rows: list[int]) -> Tensor:
    length = max(2, *(len(row) for row in rows))
    return torch.tensor([[0] * (length - len(row)) + row for row in rows])


def attended(view: ViewEncoder, states: list[Tensor]) -> Tensor:
    """The last state after all blocks of scaled dot-product attention and feed-forward network, with post-norm."""
    for block in cast(list[TransformerBlock], list(view.transformer.blocks)):
        projected = [(block.attention.query(state), *block.attention.key_value(state).chunk(2)) for state in states]
        following = []
        for state, (query, _, _) in zip(states, projected, strict=True):
            heads = []
            for head in (slice(0, D // 2), slice(D // 2, D)):
                scores = torch.stack([query[head] @ key[head] / math.sqrt(D / 2) for _, key, _ in projected])
                weights = scores.softmax(dim=0)
                heads.append(sum(w * value[head] for w, (_, _, value) in zip(weights, projected, strict=True)))
            normed = block.attention_norm(state + torch.cat(heads))
            inner, _, outer = block.feed_forward
            following.append(block.feed_forward_norm(normed + outer(inner(normed).clamp(min=0))))
        states = following
    return states[-1]


def fused(fusion: AttentionFusion, own: Tensor, other: Tensor) -> Tensor:
    both = own + other
    weight = torch.sigmoid(fusion.local(both) + fusion.overall.weight[0, 0] * both.mean() + fusion.overall.bias)
    return 2 * own * weight + 2 * other * (1 - weight)


def by_the_equations(model: MVCrec, session: list[int]) -> Tensor:
    """The fused interests of graph view and id view, concatenated."""
    summaries = []
    for view, table in ((model.graph_view, model.spread_ND), (model.id_view, model.ids.embedding.weight)):
        places = view.positions_LD[-len(session) :]
        summaries.append(attended(view, [table[item] + place for item, place in zip(session, places, strict=True)]))
    graph, ids = summaries
    assert model.fuse_graph is not None
    assert model.fuse_id is not None
    return torch.cat([fused(model.fuse_graph, graph, ids), fused(model.fuse_id, ids, graph)])


@torch.inference_mode()
def test_a_batch_matches_the_equations_for_each_session() -> None:
    model = encoder()
    for interests_1E, session in zip(model(padded(*SESSIONS)), SESSIONS, strict=True):
        torch.testing.assert_close(interests_1E[0], by_the_equations(model, session), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_one_inner_product_adds_the_scores_of_both_views() -> None:
    model = encoder()
    interest_E = model(padded([1, 2, 3]))[0, 0]
    graph_D, id_D = interest_E.chunk(2)
    both_N = model.spread_ND @ graph_D + model.ids.embedding.weight @ id_D
    torch.testing.assert_close(model.item_vectors() @ interest_E, both_N)


@torch.inference_mode()
def test_fusion_mixes_both_views_and_separate_views_do_not_mix() -> None:
    for fusion, mixes in (("attention", True), ("separate", False)):
        model = encoder(fusion=fusion)
        before_E = model(padded([1, 2, 3]))[0, 0]
        model.id_view.positions_LD.add_(1.0 + torch.arange(D))
        changed_D = (model(padded([1, 2, 3]))[0, 0] - before_E).abs()[:D]
        assert bool(changed_D.max() > 1e-4) == mixes


def test_evaluation_uses_the_graph_view_of_the_current_weights() -> None:
    model = encoder()
    spread_ND = model.item_graph(model.graph_items_ND, 2)
    torch.testing.assert_close(model.item_vectors()[:, :D], spread_ND)
    with torch.no_grad():
        model.graph_items_ND.mul_(2)
    torch.testing.assert_close(model.train().item_vectors()[:, :D], 2 * spread_ND)
    torch.testing.assert_close(model.eval().item_vectors()[:, :D], 2 * spread_ND)


def test_the_graph_view_of_users_and_items_by_hand() -> None:
    """Two users of one item each: layers of item 1 are 6 -> 2 -> 6, of item 2, which both had, 8 -> 10 -> 8."""
    torch.manual_seed(3)
    options = PAPER.model_copy(update={"graph": USER_ITEM})
    model = MVCrec(Corpus(3, 0, (sessions([1, 1], [2, 2]),)), options)
    with torch.no_grad():
        model.graph_items_ND.copy_(torch.tensor([0.0, 6.0, 8.0, 9.0])[:, None].expand(4, D))
        model.graph_users_UD.copy_(torch.tensor([2.0, 10.0])[:, None].expand(2, D))
    # item 1: (6 + 2 + 6) / 3; item 2: (8 + 10 + 8) / 3; item 3, which nobody had: 9 / 3
    expected_N = torch.tensor([0, 14 / 3, 26 / 3, 3])
    torch.testing.assert_close(model.eval().item_vectors()[:, 0], expected_N)
    assert model.item_vectors().shape == (4, 2 * D)


def test_users_learn_in_training_and_are_not_exported() -> None:
    model = encoder(graph=USER_ITEM).train()
    model.loss(batch([[1, 2, 3, 4], [3, 4, 5]] * 8, [4, 5] * 8)).backward()
    assert model.graph_users_UD.grad is not None
    assert model.graph_users_UD.grad.any(dim=1).all()
    assert len(model.eval().item_vectors()) == ITEMS + 1
    interests_B1E = model(padded(*SESSIONS))
    with torch.no_grad():
        model.graph_users_UD.zero_()
    assert torch.equal(model(padded(*SESSIONS)), interests_B1E)


def test_a_graph_without_a_kind_as_in_recipes_of_earlier_versions_is_one_of_items() -> None:
    written = PAPER.model_dump()
    del written["graph"]["kind"]
    assert MVCrecOptions.model_validate(written) == PAPER


def test_weights_of_earlier_versions_are_those_of_the_graph_of_items() -> None:
    """The names and the order in which version 0.1 wrote them; the views' own are unchanged."""
    names = [name for name in encoder().state_dict() if "view." not in name]
    fusion = [f"{part}.{kind}" for part in ("local", "overall") for kind in ("weight", "bias")]
    expected = ["graph_items_ND", "ids.embedding.weight"]
    assert names == [*expected, *(f"{view}.{name}" for view in ("fuse_graph", "fuse_id") for name in fusion)]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"kind": "item_user", "layers": 2}, "graph\n  Input tag 'item_user' found using 'kind'"),
        ({"kind": "user_item", "reach": 3, "layers": 2}, r"graph.user_item.reach\n  Extra inputs are not permitted"),
        ({"layers": 2}, r"graph.item_item.reach\n  Field required"),
    ],
)
def test_a_wrong_graph_is_named(graph: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MVCrecOptions.model_validate({**PAPER.model_dump(), "graph": graph})


def test_the_form_names_graph_fusion_and_contrast() -> None:
    assert PAPER.form == "graph of items within 3 steps, views fused by attention, contrast on"
    off = PAPER.contrast.model_copy(update={"weight": 0.0})
    other = PAPER.model_copy(update={"graph": USER_ITEM, "fusion": "separate", "contrast": off})
    assert other.form == "graph of users and items, views separate, contrast off"


def test_the_contrastive_loss_is_weighted_and_not_computed_without_a_weight() -> None:
    examples = batch([[1, 2, 3, 4], [3, 4], [5]], [4, 5, 6])

    def loss(weight: float) -> Tensor:
        torch.manual_seed(1)
        return encoder(contrast=PAPER.contrast.model_copy(update={"weight": weight})).loss(examples)

    plain, little, much = loss(0), loss(0.1), loss(0.2)
    torch.testing.assert_close(much - plain, 2 * (little - plain), atol=1e-4, rtol=1e-3)
    assert little > plain


def test_without_contrast_the_loss_is_the_cross_entropy_of_the_next_item() -> None:
    model = encoder(contrast=PAPER.contrast.model_copy(update={"weight": 0.0}))
    scores_BN = model(padded([1, 2, 3], [4])).squeeze(1) @ model.item_vectors().T
    expected = nn.functional.cross_entropy(scores_BN[:, 1:], torch.tensor([4, 5]) - 1)
    torch.testing.assert_close(model.loss(batch([[1, 2, 3], [4]], [4, 5])), expected, atol=0.05, rtol=0.05)


def test_padding_is_not_updated_and_the_mask_is() -> None:
    model = encoder().train()
    model.loss(batch([[1, 2, 3, 4], [3, 4, 5]] * 8, [4, 5] * 8)).backward()
    for table in (model.ids.embedding.weight, model.graph_items_ND):
        assert table.grad is not None
        assert not table.grad[0].any()
        assert not table[0].any()
    for view in (model.id_view, model.graph_view):
        assert view.mask_D.grad is not None
        assert view.mask_D.grad.any()


@pytest.mark.parametrize("graph", [PAPER.graph, USER_ITEM])
def test_every_parameter_has_a_gradient(graph: BaseModel) -> None:
    model = encoder(graph=graph).train()
    model.loss(batch([[1, 2, 3, 4], [3, 4, 5]] * 8, [4, 5] * 8)).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_a_sampled_objective_updates_both_tables() -> None:
    sampled = SampledSoftmax(kind="sampled_softmax", negatives=5, distribution="uniform", log_q=True)
    model = encoder(objective=sampled, similarity=Cosine(kind="cosine", scale=12)).train()
    model.loss(batch([[1, 2]], [3])).backward()
    for table in (model.ids.embedding.weight, model.graph_items_ND):
        assert table.grad is not None
        assert table.grad[3].any()


@torch.inference_mode()
def test_with_the_cosine_all_items_and_sessions_have_the_same_length() -> None:
    model = encoder(similarity=Cosine(kind="cosine", scale=12))
    torch.testing.assert_close(model.item_vectors()[1:].norm(dim=1), torch.ones(ITEMS))
    torch.testing.assert_close(model(padded(*SESSIONS)).norm(dim=2), torch.full((len(SESSIONS), 1), 12.0))


def test_dropout_is_active_in_training_only() -> None:
    model = encoder(embedding_dropout=0.5, dropout=0.5)
    session = padded([1, 2, 3])
    assert not torch.equal(model.train()(session), model(session))
    assert torch.equal(model.eval()(session), model(session))


def test_info_nce_of_two_pairs_by_hand() -> None:
    one_BD, other_BD = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    # scores of [1 0] with [0 2], [3 0], [1 1]: 0, 3, 1, the second its partner's; and so on
    expected = [
        math.log(math.exp(0) + math.exp(3) + math.exp(1)) - 3,
        math.log(math.exp(0) + math.exp(0) + math.exp(2)) - 2,
        math.log(math.exp(3) + math.exp(0) + math.exp(3)) - 3,
        math.log(math.exp(1) + math.exp(2) + math.exp(3)) - 2,
    ]
    loss = info_nce(one_BD, other_BD, temperature=1, cosine=False)
    assert loss.item() == pytest.approx(sum(expected) / 4)
    halved = info_nce(one_BD / math.sqrt(2), other_BD / math.sqrt(2), temperature=0.5, cosine=False)
    assert halved.item() == pytest.approx(loss.item())


def test_info_nce_by_cosine_ignores_lengths() -> None:
    one_BD, other_BD = torch.randn(4, 3), torch.randn(4, 3)
    loss = info_nce(one_BD, other_BD, temperature=0.2, cosine=True)
    torch.testing.assert_close(info_nce(5 * one_BD, other_BD / 5, temperature=0.2, cosine=True), loss)


def test_info_nce_of_one_session_is_zero() -> None:
    assert info_nce(torch.randn(1, 3), torch.randn(1, 3), temperature=1, cosine=False).item() == 0


def test_heads_must_divide_the_dimension() -> None:
    with pytest.raises(ValidationError, match="3 heads do not divide a dimension of 8"):
        MVCrecOptions.model_validate({**PAPER.model_dump(), "heads": 3})


def test_extreme_scores_leave_the_gradients_finite() -> None:
    one_BD = (1e4 * torch.randn(6, 3)).requires_grad_()
    info_nce(one_BD, -one_BD.detach(), temperature=0.01, cosine=False).backward()
    assert one_BD.grad is not None
    assert one_BD.grad.isfinite().all()
