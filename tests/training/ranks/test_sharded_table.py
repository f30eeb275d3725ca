"""A rank that owns all rows looks them up, and gives them gradients, as an embedding does."""

import pytest
import torch
from torch import nn

from onward.training.ranks.ranks import Ranks
from onward.training.ranks.sharded_table import ShardedEmbedding, sharded_tables


@pytest.mark.parametrize("sparse", [False, True])
def test_look_ups_are_those_of_an_embedding(sparse: bool) -> None:
    torch.manual_seed(1)
    plain = nn.Embedding(9, 4, padding_idx=0, sparse=sparse)
    owned = ShardedEmbedding(plain.weight, Ranks())
    owned.sparse = sparse
    rows, factors = torch.tensor([[0, 3, 3], [8, 0, 1]]), torch.randn(2, 3, 4)
    for table in (plain, owned):
        (table(rows) * factors).sum().backward()
    assert torch.equal(owned(rows), plain(rows))
    assert owned.weight.grad is not None
    assert plain.weight.grad is not None
    torch.testing.assert_close(owned.weight.grad.to_dense(), plain.weight.grad.to_dense())
    assert owned.weight.grad.is_sparse is sparse


def test_each_rank_owns_every_nth_row() -> None:
    whole_ND = torch.arange(7.0).unsqueeze(1)
    parts = [ShardedEmbedding(whole_ND, Ranks(rank, 3)) for rank in range(3)]
    assert [part.weight.flatten().tolist() for part in parts] == [[0, 3, 6], [1, 4], [2, 5]]
    module = nn.Sequential(parts[1], nn.Linear(1, 1))
    assert sharded_tables(module) == {"0.weight": parts[1]}
