"""Validate an encoder while it is being trained, by exact scores of all items.

Scores are computed for a block of items at a time and only counted, so that memory does not grow with the catalog.

Dimension key: E examples, B examples of a batch, N rows (row 0 pads), M rows of a block, D embedding, K interests, S
rows that are no candidates.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onward.bundle.search.retrieval import ExcludeSeen
from onward.training.data.examples import Batch, Examples
from onward.training.data.padding import PADDING
from onward.training.evaluation.metrics import BEYOND, ranking_metrics
from onward.training.models.encoder import SessionEncoder
from onward.training.ranks.ranks import ALONE, Ranks
from onward.training.ranks.sharded_table import sharded_tables

EVALUATION_BATCH = 512
ITEM_BLOCK = 65_536
"""Items that are scored at once: 128 MiB of scores with a batch."""
SCORES_AT_ONCE = 2**26
"""Largest number of added scores in memory, 256 MiB of them: an encoder that adds some to all rows is asked about fewer
examples at once."""
MOST_NEAR_TARGET = 256
"""Scores of an example and a block that may be too close to the target's estimate to be counted at once."""


def validation_metrics(
    encoder: SessionEncoder, examples: Examples, metric: str, *, exclude_seen: ExcludeSeen, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Compute metrics of an encoder by exact scores of all items, at the cut-off of `metric` and at 20.

    Each of several ranks ranks the targets of every n-th example; all return the metrics of all examples.
    """
    if sharded_tables(encoder):
        return _metrics_of_ranks(_sharded_ranks(encoder, examples, exclude_seen, ranks), examples, metric)
    own_e = torch.arange(ranks.rank, len(examples), ranks.size)
    ranks_E = torch.zeros(len(examples), dtype=torch.int64)
    own = examples.subset(own_e.to(examples.rows.device)) if ranks.size > 1 else examples
    ranks_E[own_e] = torch.from_numpy(exact_ranks(encoder, own, exclude_seen=exclude_seen))
    return _metrics_of_ranks(ranks.sum(ranks_E).numpy(), examples, metric)


def _metrics_of_ranks(ranks_E: NDArray[np.int64], examples: Examples, metric: str) -> dict[str, float]:
    ks = sorted({20, int(metric.split("@")[1])})
    _, groups_E = np.unique(examples.groups_E.cpu().numpy(), return_inverse=True)  # those of a subset have gaps
    return ranking_metrics(ranks_E, groups_E, ks)


@torch.inference_mode()
def exact_ranks(encoder: SessionEncoder, examples: Examples, *, exclude_seen: ExcludeSeen) -> NDArray[np.int64]:
    """Return the rank of each example's next item among all items, (E,), by exact scores.

    With `exclude_seen`, the items of a session, or its last one, are not candidates, as in serving with that option.
    """
    encoder.eval()
    vectors_ND = encoder.item_vectors()
    ranks_E = np.empty(len(examples), dtype=np.int64)
    for examples_B in examples.sorted_batches(_batch_size(encoder, len(vectors_ND))):
        batch = examples.gather(examples_B)
        scores = BlockScores(
            encoder(*encoder.inputs(batch)),
            vectors_ND,
            encoder.added_scores(batch),
            hidden_rows(examples, examples_B, batch, exclude_seen),
        )
        ranks_E[examples_B.cpu().numpy()] = block_ranks(scores, batch.next_items_B).cpu().numpy()
    return ranks_E


@torch.inference_mode()
def _sharded_ranks(
    encoder: SessionEncoder, examples: Examples, exclude_seen: ExcludeSeen, ranks: Ranks
) -> NDArray[np.int64]:
    """Return the ranks_E of all examples by an encoder whose item rows are owned by ranks.

    Each rank encodes every n-th example and counts its own items for the examples of all, in two passes.
    """
    encoder.eval()
    vectors_MD = encoder.item_vectors()
    own = torch.arange(ranks.rank, ranks.rank + len(examples) + ranks.size, ranks.size)[
        : -(-len(examples) // ranks.size)
    ]
    own_e = (own % len(examples)).to(examples.rows.device)  # as many on each rank: the last one may come twice
    ranks_E = torch.empty(len(examples), dtype=torch.int64, device=own_e.device)
    for chosen in range(0, len(own_e), EVALUATION_BATCH // ranks.size):
        examples_B = own_e[chosen : chosen + EVALUATION_BATCH // ranks.size]
        batch = examples.gather(examples_B)
        hidden_BS = hidden_rows(examples, examples_B, batch, exclude_seen)
        counts = [len(examples_B)] * ranks.size
        targets_G = ranks.all_rows(batch.next_items_B, counts)
        hidden_GS = None if hidden_BS is None else ranks.all_rows(_of_equal_width(hidden_BS, ranks), counts)
        scores = BlockScores(
            ranks.all_rows(encoder(*encoder.inputs(batch)), counts),
            vectors_MD,
            hidden_BS=None if hidden_GS is None else _own_places(hidden_GS, ranks),
            has_padding=ranks.is_leader,
        )
        targets_own_G = _own_places(targets_G, ranks)
        score_G = target_scores(scores, targets_own_G).where(targets_own_G >= 0, 0.0)
        score_G1 = ranks.sum(score_G)[:, None]
        ranks_G = torch.zeros_like(targets_G)
        for _, scores_GM in scores.blocks():
            ranks_G += row_counts(scores_GM >= score_G1)
        examples_G = ranks.all_rows(examples_B, counts)
        ranks_E[examples_G] = ranks.sum(ranks_G).where(score_G1[:, 0] > -torch.inf, BEYOND)
    return ranks_E.cpu().numpy()


def _own_places(rows: Tensor, ranks: Ranks) -> Tensor:
    """Return where rows of a whole table are among the own ones, -1 for those of other ranks."""
    return (rows // ranks.size).where(rows % ranks.size == ranks.rank, -1)


def _of_equal_width(rows_BS: Tensor, ranks: Ranks) -> Tensor:
    """Pad the rows on the left to the largest width among the ranks."""
    width = max(ranks.counts(rows_BS.shape[1], rows_BS.device))
    return F.pad(rows_BS, (width - rows_BS.shape[1], 0), value=PADDING)


def hidden_rows(examples: Examples, examples_B: Tensor, batch: Batch, exclude_seen: ExcludeSeen) -> Tensor | None:
    """Return rows_BS that are no candidates of each example, padded; None if all are."""
    if exclude_seen is True:
        return examples.seen(examples_B)
    return batch.items_BL[:, -1:] if exclude_seen == "last" else None


class BlockScores(NamedTuple):
    """The scores of all rows for the examples of a batch, computed block by block; padding and hidden rows have -inf.

    The same block has the same scores whenever it is computed.
    """

    interests_BKD: Tensor
    vectors_ND: Tensor
    added_BN: Tensor | None = None
    hidden_BS: Tensor | None = None
    has_padding: bool = True
    """Whether row 0 is the padding."""

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row of each block and its scores_BM."""
        for first in range(0, len(self.vectors_ND), ITEM_BLOCK):
            yield first, self._block(first)

    def _block(self, first: int) -> Tensor:
        vectors_MD = self.vectors_ND[first : first + ITEM_BLOCK]
        scores_BM = _largest_products(self.interests_BKD, vectors_MD.T)
        if self.added_BN is not None:
            scores_BM += self.added_BN[:, first : first + ITEM_BLOCK]
        if first == 0 and self.has_padding:
            scores_BM[:, PADDING] = -torch.inf
        if self.hidden_BS is not None:
            columns_BS = self.hidden_BS - first
            examples, places = ((columns_BS >= 0) & (columns_BS < len(vectors_MD))).nonzero(as_tuple=True)
            scores_BM[examples, columns_BS[examples, places]] = -torch.inf
        return scores_BM

    def estimates(self, targets_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score_B of each target, rounded otherwise than in its block, and a bound of the difference_B."""
        target_BD1 = self.vectors_ND[targets_B].unsqueeze(2)
        score_B = (self.interests_BKD @ target_BD1).squeeze(2).amax(dim=1)
        size_B = (self.interests_BKD.abs() @ target_BD1.abs()).squeeze(2).amax(dim=1)
        if self.added_BN is not None:
            added_B = self.added_BN.gather(1, targets_B[:, None])[:, 0]
            score_B, size_B = score_B + added_B, size_B + added_B.abs()
        return score_B, size_B * self.vectors_ND.shape[1] * torch.finfo(score_B.dtype).eps


def block_ranks(scores: BlockScores, targets_B: Tensor) -> Tensor:
    """Return the ranks_B that `target_ranks` would return of all scores at once.

    A target's score is known only with its block, and rounding differs between products of other shapes. So each block
    is counted against an estimate; the scores near it are kept and counted once the true score is known.
    """
    if len(scores.vectors_ND) <= ITEM_BLOCK:
        (_, scores_BN), *_ = scores.blocks()
        return target_ranks(scores_BN, targets_B)
    count = _SinglePass.of(scores, targets_B)
    for first, scores_BM in scores.blocks():
        if not count.add(first, scores_BM):
            return _ranks_by_two_passes(scores, targets_B)
    ranks_B = count.ranks()
    return _ranks_by_two_passes(scores, targets_B) if ranks_B is None else ranks_B


class _SinglePass(NamedTuple):
    """The ranks of targets, counted block by block as far as estimates of their scores allow."""

    targets_B: Tensor
    low_B1: Tensor
    high_B1: Tensor
    above_B: Tensor
    """Number of scores above `high_B1` so far."""
    near: list[tuple[Tensor, Tensor]]
    """Scores from low to high: their examples and values."""
    target_score_B: Tensor
    """NaN until it is known."""

    @classmethod
    def of(cls, scores: BlockScores, targets_B: Tensor) -> Self:
        score_B, error_B = scores.estimates(targets_B)
        return cls(
            targets_B,
            (score_B - error_B)[:, None],
            (score_B + error_B)[:, None],
            torch.zeros_like(targets_B),
            [],
            torch.full_like(score_B, torch.nan),
        )

    def add(self, first: int, scores_BM: Tensor) -> bool:
        """Count a block; return False if too many of its scores are near the targets'."""
        columns_B = self.targets_B - first
        inside = ((columns_B >= 0) & (columns_B < scores_BM.shape[1])).nonzero().squeeze(1)
        self.target_score_B[inside] = scores_BM[inside, columns_B[inside]]
        above_B = row_counts(scores_BM > self.high_B1)
        near_B = row_counts(scores_BM >= self.low_B1) - above_B
        self.above_B.add_(above_B)
        if near_B.sum() > MOST_NEAR_TARGET * len(near_B):
            return False
        examples = near_B.nonzero().squeeze(1)
        scores = scores_BM[examples]
        places = (scores >= self.low_B1[examples]) & ~(scores > self.high_B1[examples])
        self.near.append((examples.repeat_interleave(near_B[examples]), scores[places]))
        return True

    def ranks(self) -> Tensor | None:
        """Return the ranks_B, None if an estimate was not as near as it should be."""
        target_B = self.target_score_B
        has_rank_B = target_B > -torch.inf
        is_near_B = (target_B >= self.low_B1[:, 0]) & (target_B <= self.high_B1[:, 0])
        if not (is_near_B | ~has_rank_B).all():
            return None
        examples, values = (torch.cat(parts) for parts in zip(*self.near, strict=True))
        not_below = examples[values >= target_B[examples]]
        return (self.above_B + not_below.bincount(minlength=len(target_B))).where(has_rank_B, BEYOND)


def _ranks_by_two_passes(scores: BlockScores, targets_B: Tensor) -> Tensor:
    """Return the ranks_B, in twice the time: the targets' scores first, then how many are not below them."""
    target_B1 = target_scores(scores, targets_B)[:, None]
    ranks_B = torch.zeros_like(targets_B)
    for _, scores_BM in scores.blocks():
        ranks_B += row_counts(scores_BM >= target_B1)
    return ranks_B.where(target_B1[:, 0] > -torch.inf, BEYOND)


def target_scores(scores: BlockScores, targets_B: Tensor) -> Tensor:
    """Return the score_B of each target as its block has it."""
    score_B = scores.interests_BKD.new_full(targets_B.shape, torch.nan)
    for first, scores_BM in scores.blocks():
        columns_B = targets_B - first
        inside = ((columns_B >= 0) & (columns_B < scores_BM.shape[1])).nonzero().squeeze(1)
        score_B[inside] = scores_BM[inside, columns_B[inside]]
    return score_B


def _batch_size(encoder: SessionEncoder, rows: int) -> int:
    """Return the number of examples to rank at once: fewer if the encoder may add scores to all rows."""
    if type(encoder).added_scores is SessionEncoder.added_scores:
        return EVALUATION_BATCH
    return max(1, min(EVALUATION_BATCH, SCORES_AT_ONCE // rows))


def exact_scores(encoder: SessionEncoder, batch: Batch, vectors_DN: Tensor) -> Tensor:
    """Return the scores_BN of all rows, -inf for the padding; vectors_DN are the encoder's item vectors."""
    scores_BN = best_interest_scores(encoder(*encoder.inputs(batch)), vectors_DN)
    added_BN = encoder.added_scores(batch)
    return scores_BN if added_BN is None else scores_BN + added_BN


def best_interest_scores(interests_BKD: Tensor, vectors_DN: Tensor) -> Tensor:
    """Return for each row the largest score_BN among the interests of a session, -inf for the padding."""
    scores_BN = _largest_products(interests_BKD, vectors_DN)
    scores_BN[:, PADDING] = -torch.inf
    return scores_BN


def _largest_products(interests_BKD: Tensor, vectors_DN: Tensor) -> Tensor:
    scores_BN = interests_BKD[:, 0] @ vectors_DN
    for interest_BD in interests_BKD.unbind(dim=1)[1:]:
        torch.maximum(scores_BN, interest_BD @ vectors_DN, out=scores_BN)
    return scores_BN


def target_ranks(scores_BN: Tensor, targets_B: Tensor) -> Tensor:
    """Return the number of items that score at least as high as the target; BEYOND if its own score is NaN or -inf."""
    target_score_B1 = scores_BN.gather(1, targets_B[:, None])
    return row_counts(scores_BN >= target_score_B1).where(target_score_B1[:, 0] > -torch.inf, BEYOND)


def row_counts(is_true_BM: Tensor) -> Tensor:
    """Return how many numbers of each row are True; torch's sum of a matrix of them takes as long as its product."""
    if is_true_BM.device.type != "cpu":
        return is_true_BM.sum(dim=1)
    return torch.from_numpy(np.array([np.count_nonzero(row) for row in is_true_BM.numpy()], dtype=np.int64))
