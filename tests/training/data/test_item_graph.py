"""The item graph against a dense matrix of co-occurrences."""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from onward.training.data.corpus import Corpus
from onward.training.data.item_graph import ItemGraph
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
    assert 1_000_000 < len(linked.neighbours_E) < 1_000_000 + 2 * 3 * 3_000
    assert linked(torch.ones(1_000_001, 1), layers=1).isfinite().all()


def test_without_sessions_items_have_self_loops_only() -> None:
    lonely = ItemGraph(Corpus(2, 0, ()), 3)
    torch.testing.assert_close(lonely(torch.ones(3, 1), layers=2), torch.tensor([[1.0], [3.0], [3.0]]))
