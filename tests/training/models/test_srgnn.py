"""SR-GNN against its equations, written out for one session with a graph of dictionaries and loops."""

from itertools import pairwise

import torch
from torch import Tensor

from onward.training.losses.objectives import FullSoftmax
from onward.training.models.layers import Cosine, InnerProduct, ItemGraphOptions
from onward.training.models.srgnn import SRGNN, SRGNNOptions
from tests.training.corpora import batch, corpus

ITEMS = 12
PAPER = SRGNNOptions(
    dimension=8,
    steps=1,
    max_length=10,
    similarity=InnerProduct(kind="inner_product"),
    positions=False,
    dropout=0,
    objective=FullSoftmax(kind="full_softmax"),
)


def encoder(steps: int = 1) -> SRGNN:
    torch.manual_seed(3)
    return SRGNN(corpus(ITEMS), PAPER.model_copy(update={"steps": steps})).eval()


def by_the_equations(model: SRGNN, session: list[int]) -> Tensor:
    """Section 3 of the paper, node by node."""
    nodes = list(dict.fromkeys(session))
    edges = set(pairwise(session))
    states = {item: model.items.embedding.weight[item] for item in nodes}
    zero = torch.zeros(8)

    def mean(vectors: list[Tensor]) -> Tensor:
        return torch.stack(vectors).mean(dim=0) if vectors else zero

    for _ in range(model.steps):
        incoming, outgoing = {}, {}
        for item in nodes:
            message = model.cell.message(states[item])
            incoming[item], outgoing[item] = message[:8], message[8:]
        following = {}
        for item in nodes:
            message = torch.cat(
                [
                    mean([incoming[a] for a, b in sorted(edges) if b == item]),
                    mean([outgoing[b] for a, b in sorted(edges) if a == item]),
                ]
            )
            reset_m, keep_m, new_m = model.cell.from_message(message).chunk(3)
            reset_s, keep_s, new_s = model.cell.from_state(states[item]).chunk(3)
            keep = torch.sigmoid(keep_m + keep_s)
            new = torch.tanh(new_m + torch.sigmoid(reset_m + reset_s) * new_s)
            following[item] = new + keep * (states[item] - new)
        states = following
    last = states[session[-1]]
    attended = zero
    for item in session:
        gate = torch.sigmoid(model.attention_last(last) + model.attention_each(states[item]))
        attended = attended + model.attention(gate) * states[item]
    interest: Tensor = model.hybrid(torch.cat([attended, last]))
    return interest


def padded(*sessions: list[int]) -> Tensor:
    length = max(2, *(len(session) for session in sessions))
    return torch.tensor([[0] * (length - len(session)) + session for session in sessions])


SESSIONS = [[5], [1, 2], [1, 1], [3, 4, 3, 4, 3], [1, 2, 3, 2, 4, 2, 3], [7, 7, 7, 8]]


@torch.inference_mode()
def test_a_batch_matches_the_equations_for_each_session() -> None:
    for steps in (1, 2):
        model = encoder(steps)
        interests_B1D = model(padded(*SESSIONS))
        for interests_1D, session in zip(interests_B1D, SESSIONS, strict=True):
            torch.testing.assert_close(interests_1D[0], by_the_equations(model, session), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_the_order_of_a_session_matters() -> None:
    model = encoder()
    one, other = model(padded([1, 2, 3], [2, 1, 3]))
    assert (one - other).abs().max() > 1e-4


def test_padding_is_not_updated() -> None:
    model = encoder().train()
    model.loss(batch([[1, 2], [3]], [4, 5])).backward()
    assert model.items.embedding.weight.grad is not None
    assert not model.items.embedding.weight.grad[0].any()
    assert not model.items.embedding.weight[0].any()


@torch.inference_mode()
def test_with_the_cosine_all_items_and_sessions_have_the_same_length() -> None:
    model = SRGNN(corpus(ITEMS), PAPER.model_copy(update={"similarity": Cosine(kind="cosine", scale=12)})).eval()
    torch.testing.assert_close(model.item_vectors()[1:].norm(dim=1), torch.ones(ITEMS))
    torch.testing.assert_close(model(padded(*SESSIONS)).norm(dim=2), torch.full((len(SESSIONS), 1), 12.0))


@torch.inference_mode()
def test_positions_distinguish_occurrences_of_a_repeated_item() -> None:
    torch.manual_seed(3)
    model = SRGNN(corpus(ITEMS), PAPER.model_copy(update={"positions": True})).eval()
    one, other = model(padded([1, 2, 1, 3, 1], [1, 1, 1, 2, 3, 1]))
    assert (one - other).abs().max() > 1e-5
    assert model.positions_LD is not None
    model.positions_LD[:-3] = 99.0
    torch.testing.assert_close(model(padded([1, 2, 1]))[0], model(padded([1, 2, 1], [1] * 9))[0])


def test_dropout_is_active_in_training_only() -> None:
    model = SRGNN(corpus(ITEMS), PAPER.model_copy(update={"dropout": 0.5}))
    session = padded([1, 2, 3])
    assert not torch.equal(model.train()(session), model(session))
    assert torch.equal(model.eval()(session), model(session))


def after_dropout(model: SRGNN, items_BL: Tensor) -> Tensor:
    """The item vectors that the session graph starts from, (B, L, D)."""
    outputs: list[Tensor] = []
    hook = model.dropout.register_forward_hook(lambda *call: outputs.append(call[-1]))
    model(items_BL)
    hook.remove()
    return outputs[0]


def test_dropout_drops_the_same_numbers_at_all_positions_of_an_item_in_a_session() -> None:
    model = SRGNN(corpus(ITEMS), PAPER.model_copy(update={"dropout": 0.5, "dimension": 64})).train()
    states_BLD = after_dropout(model, torch.tensor([[0, 1, 2, 1, 3, 2, 1], [1, 1, 2, 3, 4, 5, 2]]))
    assert torch.equal(states_BLD[0, [3, 6]], states_BLD[0, [1, 1]])
    assert torch.equal(states_BLD[0, 5], states_BLD[0, 2])
    assert torch.equal(states_BLD[1, [1, 6]], states_BLD[1, [0, 2]])
    dropped_BLD = states_BLD == 0
    assert not torch.equal(dropped_BLD[0, 1], dropped_BLD[0, 2])  # another item
    assert not torch.equal(dropped_BLD[0, 1], dropped_BLD[1, 0])  # another session
    assert 0.3 < dropped_BLD[1].float().mean() < 0.7
    kept_BLD = model.items(torch.tensor([[1, 1, 2, 3, 4, 5, 2]])) * 2
    torch.testing.assert_close(states_BLD[1:], kept_BLD.masked_fill(dropped_BLD[1:], 0))


def test_without_dropout_item_vectors_are_unchanged_and_nothing_is_drawn() -> None:
    items_BL = torch.tensor([[0, 1, 2, 1, 3, 2, 1]])
    for rate, mode in ((0.0, True), (0.5, False)):
        model = SRGNN(corpus(ITEMS), PAPER.model_copy(update={"dropout": rate})).train(mode)
        before = torch.get_rng_state()
        assert torch.equal(after_dropout(model, items_BL), model.items(items_BL))
        assert torch.equal(torch.get_rng_state(), before)


def test_with_an_item_graph_vectors_hold_those_of_neighbours_and_serving_needs_no_graph() -> None:
    torch.manual_seed(2)
    options = SRGNNOptions(
        dimension=8,
        steps=2,
        max_length=6,
        similarity=InnerProduct(kind="inner_product"),
        positions=False,
        dropout=0,
        objective=FullSoftmax(kind="full_softmax"),
        item_graph=ItemGraphOptions(neighbours=2, reach=1),
    )
    encoder = SRGNN(corpus(12), options).eval()
    table, graph = encoder.items.embedding.weight, encoder.items.graph
    assert graph is not None
    neighbours_ND = (graph.shares_NK[:, :, None] * table[graph.neighbours_NK]).sum(dim=1)
    torch.testing.assert_close(encoder.item_vectors(), table + 0.5 * neighbours_ND)
    served = encoder.serving_form()
    assert not any("graph" in name for name, _ in served.named_buffers())
    items_BL = torch.tensor([[0, 1, 2], [3, 4, 3]])
    torch.testing.assert_close(served(items_BL), encoder(items_BL))
