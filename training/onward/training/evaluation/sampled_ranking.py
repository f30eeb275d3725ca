"""Targets ranked among a few drawn items, as many reimplementations of papers are checked.

Its figures are far above those of the ranking among all items and do not compare with them.
Dimension key: N items (rows 1..N), S negatives.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onward.bundle import Bundle
from onward.training.errors import InputError
from onward.training.evaluation.cases import EvaluationCase
from onward.training.evaluation.metrics import ranking_metrics

K = 10


def evaluate_sampled(
    bundle: Bundle,
    asked: Sequence[EvaluationCase],
    *,
    negatives: int,
    seed: int,
    on_answer: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Hit rate@10, NDCG@10 and MRR of each target by itself, and the number of negatives.

    Args:
        bundle: what scores the items, exactly.
        asked: the examples.
        negatives: how many items each target is ranked among: different ones, drawn alike among those that the session
            does not have. A tie counts against the target.
        seed: of the draw.
        on_answer: called after each example.

    Raises InputError where a session leaves too few items.
    """
    generator = np.random.default_rng(seed)
    ranks: list[int] = []
    for question in asked:
        scores_N1 = _scores(bundle, question)
        drawn_S = _draw(generator, bundle, question, negatives)
        for target in question.targets:
            row = bundle.catalog.row(target)
            above = negatives if row is None else int((scores_N1[drawn_S] >= scores_N1[row]).sum())
            ranks.append(1 + above)
        on_answer()
    metrics = ranking_metrics(np.array(ranks), np.arange(len(ranks)), [K, negatives + 1])
    return {
        f"hit_rate@{K}": metrics[f"recall@{K}"],
        f"ndcg@{K}": metrics[f"ndcg@{K}"],
        "mrr": metrics[f"mrr@{negatives + 1}"],
        "negatives": negatives,
    }


def _scores(bundle: Bundle, question: EvaluationCase) -> NDArray[np.float32]:
    """scores_N1 of all rows; by popularity where nothing of the question is known, as it is served."""
    rows = _rows(bundle, question.inputs)
    user_row = 0 if question.user_id is None else bundle.users.row(question.user_id)
    if not rows and not user_row:
        return bundle.catalog.popularity_N1
    scores_N1: NDArray[np.float32] = (bundle.vectors_N1D @ bundle.encoder.encode(rows, user_row).T).max(axis=1)
    return scores_N1


def _draw(
    generator: np.random.Generator, bundle: Bundle, question: EvaluationCase, negatives: int
) -> NDArray[np.int64]:
    is_free_N1 = np.ones(bundle.manifest.items + 1, dtype=np.bool_)
    is_free_N1[[0, *_rows(bundle, question.inputs), *_rows(bundle, question.targets)]] = False
    free = np.flatnonzero(is_free_N1)
    if len(free) < negatives:
        raise InputError(
            f"--sampled-negatives {negatives}: a session leaves only {len(free)} items to draw; ask for fewer"
        )
    return free[generator.choice(len(free), negatives, replace=False, shuffle=False)]


def _rows(bundle: Bundle, item_ids: Sequence[str]) -> list[int]:
    return [row for item_id in item_ids if (row := bundle.catalog.row(item_id)) is not None]
