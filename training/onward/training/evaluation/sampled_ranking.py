"""Rank each target among a few sampled items, a protocol that many reimplementations of papers use.

Its metrics are far above those of ranking among all items and cannot be compared with them.
Items that the encoder does not know, such as the new ones of a rebuilt bundle, are left out of sessions and samples;
a target among them is a miss.
Dimension key: N items of the catalog (rows 1..N), E items that the encoder knows (rows 1..E), S negatives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onward.bundle import Bundle
from onward.training.errors import InputError
from onward.training.evaluation.cases import EvaluationCase
from onward.training.evaluation.metrics import BEYOND, ranking_metrics

K = 10


def evaluate_sampled(
    bundle: Bundle,
    cases: Sequence[EvaluationCase],
    *,
    negatives: int,
    seed: int,
    on_answer: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Compute hit rate@10, NDCG@10 and MRR of each target by itself, and the number of negatives.

    A target that the encoder does not know, or whose score is NaN, is a miss: 0 in every metric.

    Args:
        bundle: scores the items, exactly.
        cases: the examples.
        negatives: number of items that each target is ranked among, sampled uniformly without replacement from the
            items that are neither in the session nor targets. A tie counts against the target.
        seed: seed of the samples.
        on_answer: called after each example.

    Raises InputError if a session leaves too few items to sample.
    """
    generator = np.random.default_rng(seed)
    ranks: list[int] = []
    for case in cases:
        scores_N1 = _scores(bundle, case)
        sampled_S = _sample(generator, bundle, case, negatives)
        for target in case.targets:
            row = bundle.catalog.row(target)
            is_known = row is not None and row <= bundle.encoder.items and not np.isnan(scores_N1[row])
            ranks.append(1 + int((scores_N1[sampled_S] >= scores_N1[row]).sum()) if is_known else BEYOND)
        on_answer()
    metrics = ranking_metrics(np.array(ranks), np.arange(len(ranks)), [K, negatives + 1])
    return {
        f"hit_rate@{K}": metrics[f"recall@{K}"],
        f"ndcg@{K}": metrics[f"ndcg@{K}"],
        "mrr": metrics[f"mrr@{negatives + 1}"],
        "negatives": negatives,
    }


def _scores(bundle: Bundle, case: EvaluationCase) -> NDArray[np.floating[Any]]:
    """Return scores_N1 of all rows; like the service, by popularity if neither an item nor the user is known."""
    rows = _rows(bundle, case.inputs)
    user_row = 0 if case.user_id is None else bundle.users.row(case.user_id)
    if not rows and not user_row:
        return bundle.catalog.popularity_N1
    scores_N1: NDArray[np.float32] = (bundle.vectors_N1D @ bundle.encoder.encode(rows, user_row).T).max(axis=1)
    return scores_N1 + bundle.votes_for(case.inputs, np.arange(len(scores_N1)))


def _sample(generator: np.random.Generator, bundle: Bundle, case: EvaluationCase, negatives: int) -> NDArray[np.int64]:
    is_free_E1 = np.ones(bundle.encoder.items + 1, dtype=np.bool_)
    is_free_E1[[0, *_rows(bundle, case.inputs), *_rows(bundle, case.targets)]] = False
    free = np.flatnonzero(is_free_E1)
    if len(free) < negatives:
        raise InputError(
            f"--sampled-negatives {negatives}: a session leaves only {len(free)} items to draw; ask for fewer"
        )
    return free[generator.choice(len(free), negatives, replace=False, shuffle=False)]


def _rows(bundle: Bundle, item_ids: Sequence[str]) -> list[int]:
    """Return the rows of the items that the encoder knows."""
    rows = bundle.catalog.rows(item_ids)
    return [row for row in rows if row is not None and row <= bundle.encoder.items]
