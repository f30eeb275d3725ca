"""Validate an encoder while it is being trained, by exact scores of all items.

Dimension key: E examples, B examples of a batch, N rows (row 0 pads), D embedding, K interests.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onward.bundle.search.retrieval import ExcludeSeen
from onward.training.data.examples import Batch, Examples
from onward.training.data.padding import PADDING
from onward.training.evaluation.metrics import BEYOND, ranking_metrics
from onward.training.models.encoder import SessionEncoder

EVALUATION_BATCH = 512
SCORES_AT_ONCE = 2**26
"""Largest number of scores in memory, 256 MiB of them; a larger catalog is asked about fewer examples at once."""


def validation_metrics(
    encoder: SessionEncoder, examples: Examples, metric: str, *, exclude_seen: ExcludeSeen
) -> dict[str, float]:
    """Compute metrics of an encoder by exact scores of all items, at the cut-off of `metric` and at 20."""
    ks = sorted({20, int(metric.split("@")[1])})
    ranks_E = exact_ranks(encoder, examples, exclude_seen=exclude_seen)
    _, groups_E = np.unique(examples.groups_E.cpu().numpy(), return_inverse=True)  # those of a subset have gaps
    return ranking_metrics(ranks_E, groups_E, ks)


@torch.inference_mode()
def exact_ranks(encoder: SessionEncoder, examples: Examples, *, exclude_seen: ExcludeSeen) -> NDArray[np.int64]:
    """Return the rank of each example's next item among all items, (E,), by exact scores.

    With `exclude_seen`, the items of a session, or its last one, are not candidates, as in serving with that option.
    """
    encoder.eval()
    vectors_DN = encoder.item_vectors().T.contiguous()
    ranks_E = np.empty(len(examples), dtype=np.int64)
    at_once = max(1, min(EVALUATION_BATCH, SCORES_AT_ONCE // vectors_DN.shape[1]))
    for examples_B in examples.sorted_batches(at_once):
        batch = examples.gather(examples_B)
        scores_BN = exact_scores(encoder, batch, vectors_DN)
        if exclude_seen is True:
            scores_BN.scatter_(1, examples.seen(examples_B), -torch.inf)
        elif exclude_seen == "last":
            scores_BN.scatter_(1, batch.items_BL[:, -1:], -torch.inf)
        ranks_E[examples_B.cpu().numpy()] = target_ranks(scores_BN, batch.next_items_B).cpu().numpy()
    return ranks_E


def exact_scores(encoder: SessionEncoder, batch: Batch, vectors_DN: Tensor) -> Tensor:
    """Return the scores_BN of all rows, -inf for the padding; vectors_DN are the encoder's item vectors."""
    scores_BN = best_interest_scores(encoder(*encoder.inputs(batch)), vectors_DN)
    added_BN = encoder.added_scores(batch)
    return scores_BN if added_BN is None else scores_BN + added_BN


def best_interest_scores(interests_BKD: Tensor, vectors_DN: Tensor) -> Tensor:
    """Return for each row the largest score_BN among the interests of a session, -inf for the padding."""
    scores_BN = interests_BKD[:, 0] @ vectors_DN
    for interest_BD in interests_BKD.unbind(dim=1)[1:]:
        torch.maximum(scores_BN, interest_BD @ vectors_DN, out=scores_BN)
    scores_BN[:, PADDING] = -torch.inf
    return scores_BN


def target_ranks(scores_BN: Tensor, targets_B: Tensor) -> Tensor:
    """Return the number of items that score at least as high as the target; BEYOND if its own score is NaN or -inf."""
    target_score_B1 = scores_BN.gather(1, targets_B[:, None])
    ranks_B = (scores_BN >= target_score_B1).sum(dim=1)
    return ranks_B.where(target_score_B1[:, 0] > -torch.inf, BEYOND)
