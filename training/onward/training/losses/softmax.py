"""Losses as pure functions of interests, item vectors and targets, or of their scores.

Dimension key: B examples of a batch, N rows of the item table (row 0 pads), D embedding, S negatives, or soft targets
of each example.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from onward.training.data.padding import PADDING
from onward.training.data.soft_targets import SoftTargets

EXPONENT_RANGE = 70.0  # exp(70) is still finite in bf16 and float32, with room for a sum over millions of items
LARGEST_USUAL_SHIFT = 8.0  # bf16 is most precise for exponents near 0: a shift of a third of the bound, up to 8, helps
LEAST = -1e30  # a score that counts nothing, with finite gradients where no score counts
SMALLEST_TOTAL = 1e-20  # above it the weights of likely items are normal (not subnormal) numbers of both


def fast_product_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device multiplies it in hardware, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def full_softmax(
    sessions_BD: Tensor,
    items_ND: Tensor,
    targets_B: Tensor,
    *,
    weights_B: Tensor | None = None,
    soft_targets: SoftTargets | None = None,
    product_dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute the cross-entropy of the true next item among all items but the padding row; batch mean, in nats.

    One fused pass: the N x B exponentials are computed once, in `product_dtype`, and both gradients are computed from
    them in the forward pass. A column of ones beside the item vectors carries the exponent's shift into the first
    product and the normalising sum out of the second, so no pass over the matrix takes a maximum, sums or divides.
    The target takes part in float32 alone: the loss is log(1 + others / exp(target score)), so a small one keeps its
    relative precision and none is negative.

    With soft targets of weight w the loss is the cross-entropy of the mixed distribution: 1 / (1 + w) of the true next
    item, w / (1 + w) of the soft targets. The exponentials are the same; only the scores of the soft targets are
    gathered, in float32.

    Args:
        sessions_BD: float32 session vectors.
        items_ND: float32 item table; row 0, the padding, is not a candidate and gets no gradient.
        targets_B: int64 rows of the true next items.
        weights_B: factors of the sessions' losses before the mean; None for 1.
        soft_targets: rows_BS and shares_BS, if there are teachers.
        product_dtype: precision of the three products; by default that of `fast_product_dtype`.
    """
    dtype = product_dtype or fast_product_dtype(sessions_BD.device)
    loss: Tensor = _FusedFullSoftmax.apply(  # type: ignore[no-untyped-call]  # torch
        sessions_BD, items_ND, targets_B, weights_B, soft_targets, dtype
    )
    return loss


def plain_softmax(
    scores_BN: Tensor,
    targets_B: Tensor,
    *,
    weights_B: Tensor | None = None,
    soft_targets: SoftTargets | None = None,
) -> Tensor:
    """Compute the loss of `full_softmax` from the scores of all rows, by autograd; for scores that are no products."""
    log_shares_BN = scores_BN[:, PADDING + 1 :].log_softmax(dim=1)
    losses_B = F.nll_loss(log_shares_BN, targets_B - PADDING - 1, reduction="none")
    if soft_targets is not None:
        rows_BS, shares_BS, weight = soft_targets
        soft_losses_B = -(shares_BS * log_shares_BN.gather(1, rows_BS - PADDING - 1)).sum(dim=1)
        losses_B = (losses_B + weight * soft_losses_B) / (1 + weight)
    return weighted_mean(losses_B, weights_B)


def sampled_softmax(
    positive_B: Tensor,
    negative_BS: Tensor,
    *,
    log_expected_count_S: Tensor,
    accidental_hit_BS: Tensor,
    hardness: float = 0.0,
    weights_B: Tensor | None = None,
) -> Tensor:
    """Compute the cross-entropy of the true next item against sampled negatives; batch mean, in nats.

    With a hardness h above 0, a negative counts exp(h * score) times, relative to the mean of that over the negatives:
    those that score high, of the interest that scores them, count most.

    Args:
        positive_B: score of the true next item; corrected by its own log expected count if it is to be told from
            the sampled items, instead of from all items that they stand for.
        negative_BS: scores of S sampled negatives, shared by the batch.
        log_expected_count_S: log of the expected count of each negative, the logQ correction; zeros for none.
        accidental_hit_BS: True where a negative is the true item; it is left out of the sum.
        hardness: h.
        weights_B: factors of the sessions' losses before the mean; None for 1.

    Sources: Bengio and Senecal, IEEE Transactions on Neural Networks 19(4), 2008; with a corrected positive, Jean et
    al., "On Using Very Large Target Vocabulary for Neural Machine Translation", ACL 2015, section 3.1; with hardness,
    Xie et al., "Rethinking Multi-Interest Learning for Candidate Matching in Recommender Systems" (REMI), RecSys 2023,
    section 3.2.
    """
    corrected_BS = (negative_BS - log_expected_count_S).masked_fill(accidental_hit_BS, -torch.inf)
    if hardness:
        emphasis_BS = (hardness * negative_BS).masked_fill(accidental_hit_BS, LEAST)
        counted_B1 = (~accidental_hit_BS).sum(dim=1, keepdim=True).clamp(min=1)
        corrected_BS = corrected_BS + emphasis_BS - emphasis_BS.logsumexp(dim=1, keepdim=True) + counted_B1.log()
    losses_B = torch.cat([positive_B.unsqueeze(1), corrected_BS], dim=1).logsumexp(dim=1) - positive_B
    return weighted_mean(losses_B, weights_B)


def weighted_mean(losses_B: Tensor, weights_B: Tensor | None) -> Tensor:
    """Return the mean of weights * losses; that of the losses without weights."""
    return losses_B.mean() if weights_B is None else (weights_B * losses_B).mean()


def _weigh_others(
    sessions_BD: Tensor, items_NE: Tensor, targets_B: Tensor, shift_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights_NB = exp(score - shift) of all items but the target, and their sums for each session.

    The sums are those of the weighted item vectors (others_BD) and of the weights (others_B).
    """
    sessions_BE = torch.cat([sessions_BD, -shift_B[:, None]], dim=1).to(items_NE.dtype)
    weights_NB = torch.mm(items_NE, sessions_BE.T).exp_()
    weights_NB[PADDING] = 0
    weights_NB[targets_B, torch.arange(len(targets_B), device=targets_B.device)] = 0
    summed_BE = torch.mm(weights_NB.T, items_NE).float()
    return weights_NB, summed_BE[:, :-1], summed_BE[:, -1]


class _FusedFullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        sessions_BD: Tensor,
        items_ND: Tensor,
        targets_B: Tensor,
        weights_B: Tensor | None,
        soft_targets: SoftTargets | None,
        dtype: torch.dtype,
    ) -> Tensor:
        batch, dimension = sessions_BD.shape
        items_NE = items_ND.new_ones(items_ND.shape[0], dimension + 1, dtype=dtype)
        items_NE[:, :dimension] = items_ND
        target_BD = items_ND[targets_B]
        target_score_B = (sessions_BD * target_BD).sum(dim=1)
        bound_B = sessions_BD.norm(dim=1) * items_ND.norm(dim=1).max()
        usual_shift_B = (bound_B / 3).clamp(max=LARGEST_USUAL_SHIFT)
        shift_B = usual_shift_B.maximum(bound_B - EXPONENT_RANGE).to(dtype).float()
        weights_NB, others_BD, others_B = _weigh_others(sessions_BD, items_NE, targets_B, shift_B)
        total_B = others_B + (target_score_B - shift_B).exp()
        if not (total_B > SMALLEST_TOTAL).all():  # underflow: the bound was far above all scores
            scores_NB = torch.mm(items_NE[1:, :dimension], sessions_BD.to(dtype).T)
            shift_B = scores_NB.amax(dim=0).float()
            weights_NB, others_BD, others_B = _weigh_others(sessions_BD, items_NE, targets_B, shift_B)
            total_B = others_B + (target_score_B - shift_B).exp()
        losses_B = F.softplus(others_B.log() + shift_B - target_score_B)

        divisor_B1 = (total_B if weights_B is None else total_B / weights_B)[:, None] * batch
        grad_sessions_BD = (others_BD - others_B[:, None] * target_BD) / divisor_B1
        scaled_BD = sessions_BD / divisor_B1
        grad_items_ND = torch.mm(weights_NB, scaled_BD.to(dtype)).float()
        grad_items_ND.index_add_(0, targets_B, others_B[:, None] * scaled_BD, alpha=-1)
        if soft_targets is not None:  # of the distribution to learn, `share` moves from the target to them
            rows_BS, shares_BS, weight = soft_targets
            share = weight / (1 + weight)
            soft_BD = torch.bmm(shares_BS[:, None], items_ND[rows_BS]).squeeze(1)
            losses_B = losses_B + share * (target_score_B - (sessions_BD * soft_BD).sum(dim=1))
            moved_B1 = (share / batch) * (torch.ones_like(total_B) if weights_B is None else weights_B)[:, None]
            grad_sessions_BD += moved_B1 * (target_BD - soft_BD)
            grad_items_ND.index_add_(0, targets_B, moved_B1 * sessions_BD)
            moved_BSD = shares_BS[:, :, None] * (moved_B1 * sessions_BD)[:, None]
            grad_items_ND.index_add_(0, rows_BS.flatten(), moved_BSD.flatten(0, 1), alpha=-1)
        ctx.save_for_backward(grad_sessions_BD, grad_items_ND)
        return weighted_mean(losses_B, weights_B)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_sessions_BD, grad_items_ND = ctx.saved_tensors  # type: ignore[attr-defined]  # absent from torch's stubs
        return grad_sessions_BD * grads[0], grad_items_ND.mul_(grads[0]), None, None, None, None
