"""An item table whose rows are owned by ranks: each keeps its rows, their gradients and their optimizer state alone.

Rank r of W owns the rows r, r + W, r + 2 W, ..., so that popular items, which often have near rows, are spread.
Dimension key: N rows of the whole table, M own rows, D embedding, U different rows that are looked up.
"""

from typing import Any

import torch
from torch import Tensor, nn

from onward.training.ranks.ranks import Ranks

PADDING_ROW = 0


class ShardedEmbedding(nn.Embedding):
    """The rows of an embedding that this rank owns; it looks up those of others by messages.

    All ranks must look up, and go backwards, together and in the same order.
    """

    def __init__(self, whole_ND: Tensor, ranks: Ranks) -> None:
        """Keep the own rows of a whole table, which all ranks have been given alike."""
        own_MD = whole_ND.detach()[ranks.rank :: ranks.size].clone()
        super().__init__(len(own_MD), own_MD.shape[1], _weight=own_MD)
        self.ranks, self.rows = ranks, len(whole_ND)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors (..., D) of rows of the whole table."""
        vectors: Tensor = _LookUp.apply(self.weight, rows, self.ranks, self.sparse)  # type: ignore[no-untyped-call]  # torch
        return vectors


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own_MD: Tensor, rows: Tensor, ranks: Ranks, sparse: bool) -> Tensor:
        rows_U, place = rows.flatten().unique(return_inverse=True)
        owner_U = rows_U % ranks.size
        order_U = owner_U.argsort(stable=True)
        asked = owner_U.bincount(minlength=ranks.size).tolist()
        answered = ranks.exchange(torch.tensor(asked, device=rows.device), [1] * ranks.size, [1] * ranks.size).tolist()
        places = ranks.exchange(rows_U[order_U] // ranks.size, asked, answered)
        vectors_UD = own_MD.new_empty(len(rows_U), own_MD.shape[1])
        vectors_UD[order_U] = ranks.exchange(own_MD[places], answered, asked)
        ctx.save_for_backward(place, order_U, places)
        ctx.of_forward = ranks, sparse, asked, answered, own_MD.shape
        return vectors_UD[place].view(*rows.shape, own_MD.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        place, order_U, places = ctx.saved_tensors
        ranks, sparse, asked, answered, shape = ctx.of_forward
        grad_UD = grads[0].new_zeros(len(order_U), shape[1])
        grad_UD.index_add_(0, place, grads[0].reshape(-1, shape[1]))
        received = ranks.exchange(grad_UD[order_U], asked, answered)
        if ranks.is_leader:
            received[places == PADDING_ROW] = 0
        if sparse:
            of_rows = torch.sparse_coo_tensor(places[None], received, shape, check_invariants=False)
            return of_rows, None, None, None
        return received.new_zeros(shape).index_add_(0, places, received), None, None, None


def sharded_tables(module: nn.Module) -> dict[str, ShardedEmbedding]:
    """Return the sharded tables of a module by the names of their weights."""
    return {f"{name}.weight": table for name, table in module.named_modules() if isinstance(table, ShardedEmbedding)}
