"""The full softmax over an item table whose rows are owned by ranks: exactly that of one process.

The normaliser is a sum over items, so each rank sums over its own, for the sessions of all ranks; the ranks tell each
other the sessions, two numbers for each of them, and the gradients of the sessions, but no item vector.
Dimension key: B sessions of this rank, G sessions of all ranks, M own rows, D embedding, E = D + 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onward.training.data.padding import PADDING
from onward.training.losses.softmax import (
    EXPONENT_RANGE,
    LARGEST_USUAL_SHIFT,
    SMALLEST_TOTAL,
    fast_product_dtype,
    weighted_mean,
)
from onward.training.ranks.ranks import Ranks


def sharded_full_softmax(
    sessions_BD: Tensor,
    items_MD: Tensor,
    targets_B: Tensor,
    ranks: Ranks,
    *,
    weights_B: Tensor | None = None,
    product_dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute the loss of `full_softmax` of this rank's sessions; all ranks must do so, and go backwards, together.

    In `backward` the incoming gradient must be the same on all ranks once it is divided by the rank's share of all
    sessions: item rows get the gradient of the mean over the sessions of all ranks.

    Args:
        sessions_BD: float32 session vectors of this rank.
        items_MD: float32 vectors of the rows that it owns; row 0 of rank 0 is the padding.
        targets_B: int64 rows, of the whole table, of the true next items.
        ranks: the ranks.
        weights_B: factors of the sessions' losses before the mean; None for 1.
        product_dtype: precision of the three products; by default that of `fast_product_dtype`.
    """
    dtype = product_dtype or fast_product_dtype(sessions_BD.device)
    loss: Tensor = _ShardedFullSoftmax.apply(  # type: ignore[no-untyped-call]  # torch
        sessions_BD, items_MD, targets_B, weights_B, ranks, dtype
    )
    return loss


class _OwnItems:
    """The own items' part in the sums over all items, for the sessions of all ranks."""

    def __init__(self, items_MD: Tensor, sessions_GD: Tensor, targets_G: Tensor, ranks: Ranks, dtype: torch.dtype):
        self.items_ME = items_MD.new_ones(len(items_MD), items_MD.shape[1] + 1, dtype=dtype)
        self.items_ME[:, :-1] = items_MD
        self.sessions_GD, self.ranks = sessions_GD, ranks
        self.owned = (targets_G % ranks.size == ranks.rank).nonzero().squeeze(1)
        """Sessions whose target this rank owns."""
        self.places = targets_G[self.owned] // ranks.size
        """Where these targets are among the own rows."""
        self.target_GD = torch.zeros_like(sessions_GD)
        self.target_GD[self.owned] = items_MD[self.places]

    def weigh(self, shift_G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights_MG = exp(score - shift) of own items but targets, and their sums others_GD and others_G."""
        sessions_GE = torch.cat([self.sessions_GD, -shift_G[:, None]], dim=1).to(self.items_ME.dtype)
        weights_MG = torch.mm(self.items_ME, sessions_GE.T).exp_()
        if self.ranks.is_leader:
            weights_MG[PADDING] = 0
        weights_MG[self.places, self.owned] = 0
        summed_GE = torch.mm(weights_MG.T, self.items_ME).float()
        return weights_MG, summed_GE[:, :-1], summed_GE[:, -1]

    def largest_scores(self) -> Tensor:
        """Return the largest score_G of each session among all items of all ranks."""
        first = 1 if self.ranks.is_leader else 0
        scores_MG = torch.mm(self.items_ME[first:, :-1], self.sessions_GD.to(self.items_ME.dtype).T)
        return self.ranks.max(scores_MG.amax(dim=0).float())


class _ShardedFullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sessions_BD: Tensor,
        items_MD: Tensor,
        targets_B: Tensor,
        weights_B: Tensor | None,
        ranks: Ranks,
        dtype: torch.dtype,
    ) -> Tensor:
        batch, dimension = sessions_BD.shape
        counts = ranks.counts(batch, sessions_BD.device)
        everyone, first = sum(counts), sum(counts[: ranks.rank])
        columns = [sessions_BD, sessions_BD.new_ones(batch, 2)]
        columns[1][:, 0] = items_MD.norm(dim=1).max()
        if weights_B is not None:
            columns[1][:, 1] = weights_B
        told_GF = ranks.all_rows(torch.cat(columns, dim=1), counts)
        sessions_GD, longest, weights_G = told_GF[:, :dimension], told_GF[:, -2].max(), told_GF[:, -1]
        targets_G = ranks.all_rows(targets_B, counts)
        own = _OwnItems(items_MD, sessions_GD, targets_G, ranks, dtype)

        bound_G = sessions_GD.norm(dim=1) * longest
        usual_shift_G = (bound_G / 3).clamp(max=LARGEST_USUAL_SHIFT)
        shift_G = usual_shift_G.maximum(bound_G - EXPONENT_RANGE).to(dtype).float()
        weights_MG, others_GD, own_others_G = own.weigh(shift_G)
        own_score_G = (sessions_GD * own.target_GD).sum(dim=1)
        others_G, target_score_G = ranks.sum(torch.stack([own_others_G, own_score_G]))
        total_G = others_G + (target_score_G - shift_G).exp()
        if not (total_G > SMALLEST_TOTAL).all():  # on all ranks alike: the bound was far above all scores
            shift_G = own.largest_scores()
            weights_MG, others_GD, own_others_G = own.weigh(shift_G)
            others_G = ranks.sum(own_others_G.contiguous())
            total_G = others_G + (target_score_G - shift_G).exp()
        mine = slice(first, first + batch)
        losses_B = F.softplus(others_G.log() + shift_G - target_score_G)[mine]

        divisor_G1 = (total_G / weights_G)[:, None] * everyone
        parts_GD = (others_GD - others_G[:, None] * own.target_GD) / divisor_G1
        of_ranks = ranks.exchange(parts_GD, counts, [batch] * ranks.size)
        grad_sessions_BD = of_ranks.view(ranks.size, batch, dimension).sum(dim=0) * (everyone / batch)
        scaled_GD = sessions_GD / divisor_G1
        grad_items_MD = torch.mm(weights_MG, scaled_GD.to(dtype)).float()
        grad_items_MD.index_add_(0, own.places, (others_G[:, None] * scaled_GD)[own.owned], alpha=-1)
        ctx.save_for_backward(grad_sessions_BD, grad_items_MD)
        ctx.factor = everyone / batch
        return weighted_mean(losses_B, weights_B)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_sessions_BD, grad_items_MD = ctx.saved_tensors
        return grad_sessions_BD * grads[0], grad_items_MD.mul_(grads[0] * ctx.factor), None, None, None, None
