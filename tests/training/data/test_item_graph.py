"""The graphs against dense matrices, and the graph of users and items by hand."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from onward.training.data.corpus import Corpus
from onward.training.data.item_graph import ItemGraph, NeighbourGraph, UserItemGraph
from tests.training.corpora import sessions

ITEMS = 7
SESSIONS = [[1, 2, 3, 4, 5], [2, 1], [3], [4, 0, 4, 6], [5, 5, 2]]


def graph(reach: int) -> ItemGraph:
    return ItemGraph(Corpus(ITEMS, 0, (sessions(*SESSIONS[:3]), sessions(*SESSIONS[3:]))), reach)


def adjacency(reach: int) -> Tensor:
    """D^-1/2 A D^-1/2, pair by pair."""
    links_NN = torch.zeros(ITEMS + 1, ITEMS + 1, dtype=torch.float64)
    for session in SESSIONS:
        for (i, one), (j, other) in combinations(enumerate(session), 2):
            if j - i <= reach and one and other:
                links_NN[one, other] = links_NN[other, one] = 1
    links_NN[range(1, ITEMS + 1), range(1, ITEMS + 1)] = 1
    roots_N = links_NN.sum(dim=1).clamp(min=1).rsqrt()
    return roots_N[:, None] * links_NN * roots_N


def test_vectors_propagate_as_over_the_dense_graph() -> None:
    vectors_ND = torch.randn(ITEMS + 1, 4)
    for reach in (1, 3):
        matrix_NN = adjacency(reach).float()
        expected_ND = vectors_ND + matrix_NN @ vectors_ND + matrix_NN @ matrix_NN @ vectors_ND
        torch.testing.assert_close(graph(reach)(vectors_ND, layers=2), expected_ND)


def test_the_gradient_equals_that_of_the_dense_graph() -> None:
    vectors_ND = torch.randn(ITEMS + 1, 4, requires_grad=True)
    weights_ND = torch.randn(ITEMS + 1, 4)
    (graph(3)(vectors_ND, layers=2) * weights_ND).sum().backward()
    matrix_NN = adjacency(3).float()
    assert vectors_ND.grad is not None
    torch.testing.assert_close(
        vectors_ND.grad, weights_ND + matrix_NN @ weights_ND + matrix_NN @ matrix_NN @ weights_ND
    )


def test_padding_has_no_neighbour_and_an_item_without_events_only_itself() -> None:
    spread_ND = graph(3)(torch.eye(ITEMS + 1), layers=1)
    assert spread_ND[0].tolist() == [1, *[0] * ITEMS]
    assert spread_ND[7].tolist() == [*[0] * ITEMS, 2]


def test_edges_do_not_cross_sessions() -> None:
    spread_ND = graph(1)(torch.eye(ITEMS + 1), layers=1)
    assert not spread_ND[5, 3]  # 3 stands alone in a session between those of 5
    assert not spread_ND[1, 3]


def test_the_graph_of_a_million_items_needs_no_dense_matrix() -> None:
    rows = np.random.default_rng(1).integers(1, 1_000_001, size=3_000)
    linked = ItemGraph(Corpus(1_000_000, 0, (sessions(*rows.reshape(-1, 6).tolist()),)), 3)
    assert 1_000_000 < len(linked.edges.sources_E) < 1_000_000 + 2 * 3 * 3_000
    assert linked(torch.ones(1_000_001, 1), layers=1).isfinite().all()


def test_without_sessions_items_have_self_loops_only() -> None:
    lonely = ItemGraph(Corpus(2, 0, ()), 3)
    torch.testing.assert_close(lonely(torch.ones(3, 1), layers=2), torch.tensor([[1.0], [3.0], [3.0]]))


def two_users() -> UserItemGraph:
    """User 1 had the items 1 (twice) and 2, user 2 the items 2 and an unknown one; nobody had item 3.

    Degrees: users 2 and 1, items 1, 2 and 0. Weights: user 1 to item 1 1/sqrt(2), to item 2 1/2; user 2 to item 2
    1/sqrt(2).
    """
    return UserItemGraph(Corpus(3, 0, (sessions([1, 2, 1]), sessions([2, 0]))))


ROOT = 2**-0.5


def test_two_layers_over_users_and_items_by_hand() -> None:
    items_ND = torch.tensor([[0.0], [8.0], [4.0], [9.0]])
    users_UD = torch.tensor([[2.0], [6.0]])
    # layer 1 of item 1: 2/sqrt(2); of item 2: 2/2 + 6/sqrt(2); of user 1: 8/sqrt(2) + 4/2; of user 2: 4/sqrt(2)
    # layer 2 of item 1: (8/sqrt(2) + 2)/sqrt(2) = 4 + sqrt(2); of item 2: (8/sqrt(2) + 2)/2 + 4/2 = 2 sqrt(2) + 3
    one_layer_ND = two_users()(items_ND, users_UD, 1)
    expected = [0, (8 + 2 * ROOT) / 2, (4 + 1 + 6 * ROOT) / 2, 9 / 2]
    assert one_layer_ND[:, 0].tolist() == pytest.approx(expected)
    two_layers_ND = two_users()(items_ND, users_UD, 2)
    expected = [0, (8 + 2 * ROOT + 4 + 2 * ROOT) / 3, (4 + 1 + 6 * ROOT + 4 * ROOT + 3) / 3, 9 / 3]
    assert two_layers_ND[:, 0].tolist() == pytest.approx(expected)
    assert two_layers_ND[:, 0].tolist() == pytest.approx([0, 4.942809, 5.023689, 3], abs=1e-5)


def bipartite_adjacency() -> Tensor:
    """D^-1/2 A D^-1/2 of the nodes [item rows, one user for each session], pair by pair."""
    nodes = ITEMS + 1 + len(SESSIONS)
    links = torch.zeros(nodes, nodes, dtype=torch.float64)
    for user, session in enumerate(SESSIONS, start=ITEMS + 1):
        for item in filter(None, session):
            links[user, item] = links[item, user] = 1
    roots = links.sum(dim=1).clamp(min=1).rsqrt()
    return (roots[:, None] * links * roots).float()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_vectors_and_gradients_are_those_of_the_dense_graph_of_users_and_items(layers: int) -> None:
    graph = UserItemGraph(Corpus(ITEMS, 0, (sessions(*SESSIONS[:3]), sessions(*SESSIONS[3:]))))
    assert graph.users == len(SESSIONS)
    items_ND = torch.randn(ITEMS + 1, 4, requires_grad=True)
    users_UD = torch.randn(len(SESSIONS), 4, requires_grad=True)
    nodes = torch.cat([items_ND, users_UD])
    total = nodes
    for _ in range(layers):
        nodes = bipartite_adjacency() @ nodes
        total = total + nodes
    expected_ND = (total / (layers + 1))[: ITEMS + 1]
    spread_ND = graph(items_ND, users_UD, layers)
    torch.testing.assert_close(spread_ND, expected_ND)
    weights_ND = torch.randn(ITEMS + 1, 4)
    expected = torch.autograd.grad((expected_ND * weights_ND).sum(), [items_ND, users_UD])
    torch.testing.assert_close(torch.autograd.grad((spread_ND * weights_ND).sum(), [items_ND, users_UD]), expected)


def test_a_graph_of_users_and_items_may_have_no_user() -> None:
    lonely = UserItemGraph(Corpus(2, 0, ()))
    assert lonely.users == 0
    torch.testing.assert_close(lonely(torch.ones(3, 1), torch.ones(0, 1), 2), torch.full((3, 1), 1 / 3))


def test_neighbours_are_the_items_most_often_near_each_other_with_their_shares() -> None:
    part = sessions([1, 2, 3], [1, 2], [2, 1, 4], [5, 0, 5, 6])
    neighbours = NeighbourGraph(Corpus(ITEMS, 0, (part,)), neighbours=2, reach=2)
    found = {
        row: {item: share for item, share in zip(items, shares, strict=True) if share}
        for row, (items, shares) in enumerate(
            zip(neighbours.neighbours_NK.tolist(), neighbours.shares_NK.tolist(), strict=True)
        )
    }
    assert found[1] == {2: pytest.approx(3 / 4), 3: pytest.approx(1 / 4)}  # 4 came as often as 3
    assert found[2] == {1: pytest.approx(3 / 4), 3: pytest.approx(1 / 4)}
    assert found[6] == {5: 1}
    assert found[0] == found[7] == {}


def test_the_neighbours_of_all_rows_and_of_some_agree_and_have_the_same_gradient() -> None:
    neighbours = NeighbourGraph(Corpus(ITEMS, 0, (sessions(*SESSIONS),)), neighbours=2, reach=3)
    table = torch.nn.Embedding(ITEMS + 1, 4, padding_idx=0)
    weights_ND = torch.randn(ITEMS + 1, 4)
    rows_N = torch.arange(ITEMS + 1)
    gradients: list[Tensor] = []
    for means_ND in (neighbours.of_all(table.weight), neighbours.of_rows(rows_N, table)):
        torch.testing.assert_close(means_ND, neighbours.of_all(table.weight))
        gradients += torch.autograd.grad((means_ND * weights_ND).sum(), table.weight)
    torch.testing.assert_close(*gradients)
