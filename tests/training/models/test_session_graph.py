"""The session graph against means over sets of neighbours."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from onward.training.models.session_graph import SessionGraph

SESSIONS = [[5], [1, 2], [1, 1], [3, 4, 3, 4, 3], [1, 2, 3, 2, 4, 2, 3], [7, 7, 7, 8], [1, 2, 1, 2, 1, 3]]


def mean(rows: set[int], vectors_ND: Tensor) -> Tensor:
    return vectors_ND[sorted(rows)].mean(dim=0) if rows else torch.zeros(vectors_ND.shape[1])


@pytest.mark.parametrize("padding", [0, 3])
def test_each_position_reads_the_means_of_the_distinct_items_before_and_after_its_item(padding: int) -> None:
    torch.manual_seed(1)
    vectors_ND = torch.randn(9, 4)
    length = padding + max(map(len, SESSIONS))
    items_BL = torch.tensor([[0] * (length - len(session)) + session for session in SESSIONS])
    graph = SessionGraph.of(items_BL)
    before_BLD, after_BLD = graph.before_BLL @ vectors_ND[items_BL], graph.after_BLL @ vectors_ND[items_BL]
    for number, session in enumerate(SESSIONS):
        edges = set(pairwise(session))
        for place, item in enumerate(session, start=length - len(session)):
            before, after = {a for a, b in edges if b == item}, {b for a, b in edges if a == item}
            torch.testing.assert_close(before_BLD[number, place], mean(before, vectors_ND))
            torch.testing.assert_close(after_BLD[number, place], mean(after, vectors_ND))


def test_an_edge_taken_twice_counts_once_and_positions_of_an_item_share_its_weight() -> None:
    graph = SessionGraph.of(torch.tensor([[0, 1, 2, 1, 2, 1, 3]]))
    torch.testing.assert_close(graph.after_BLL[0, 1], torch.tensor([0, 0, 0.25, 0, 0.25, 0, 0.5]))  # half to 2 and to 3
    torch.testing.assert_close(graph.before_BLL[0, 6], torch.tensor([0, 1, 0, 1, 0, 1, 0]) / 3)  # 3 comes from 1 alone
    assert not graph.after_BLL[0, 6].any()


def test_padding_is_nobodys_neighbour() -> None:
    graph = SessionGraph.of(torch.tensor([[0, 0, 1, 2], [0, 0, 0, 3]]))
    assert graph.is_item_B1L.tolist() == [[[0, 0, 1, 1]], [[0, 0, 0, 1]]]
    for weights_BLL in (graph.before_BLL, graph.after_BLL):
        assert weights_BLL.isfinite().all()
        assert not weights_BLL[0, :, :2].any()
        assert not weights_BLL[1, :, :3].any()
