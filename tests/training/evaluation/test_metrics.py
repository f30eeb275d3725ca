"""Metrics against worked examples and against an independent library."""

import numpy as np
import pytest
from numpy.typing import NDArray

from onward.training.evaluation.metrics import coverage, diversity, ranking_metrics

FAR = 10**9


def of(ranks: list[int], examples: list[int] | None = None, k: int = 3) -> dict[str, float]:
    owners = examples if examples is not None else list(range(len(ranks)))
    return ranking_metrics(np.array(ranks), np.array(owners), [k])


def test_one_target_per_example() -> None:
    metrics = of([1, 3, 4, FAR])
    assert metrics["recall@3"] == pytest.approx(2 / 4)
    assert metrics["mrr@3"] == pytest.approx((1 + 1 / 3) / 4)
    assert metrics["ndcg@3"] == pytest.approx((1 + 1 / 2) / 4)  # log2(1 + 3) is 2
    assert "hit_rate@3" not in metrics  # it is the recall


def test_several_targets_of_one_example_share_it() -> None:
    metrics = of([1, 3, FAR, 2], [0, 0, 0, 1])
    assert metrics["recall@3"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["hit_rate@3"] == 1
    assert metrics["mrr@3"] == pytest.approx((1 + 1 / 2) / 2)
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert metrics["ndcg@3"] == pytest.approx(((1 + 1 / 2) / ideal + 1 / np.log2(3)) / 2)


def test_no_example_gives_no_metric() -> None:
    assert ranking_metrics(np.array([], dtype=np.int64), np.array([], dtype=np.int64), [20]) == {}


def test_coverage_counts_each_item_once() -> None:
    assert coverage([["a", "b"], ["b", "c"], []], items=6) == pytest.approx(0.5)


def test_diversity_is_the_share_of_pairs_whose_categories_differ() -> None:
    assert diversity([[1, 1, 2]]) == pytest.approx(2 / 3)
    assert diversity([[1, 2, 3], [4, 4], [5]]) == pytest.approx((1 + 0) / 2)
    assert diversity([[], [1]]) == 0


def random_lists(seed: int) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    generator = np.random.default_rng(seed)
    scores_EN = generator.permuted(np.tile(np.arange(40.0), (25, 1)), axis=1)
    targets = [generator.choice(40, size=generator.integers(1, 6), replace=False) for _ in range(25)]
    return scores_EN, targets


@pytest.mark.filterwarnings("ignore")  # of the libraries that the oracle stands on
@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_ranx(k: int) -> None:
    from ranx import Qrels, Run, evaluate

    scores_EN, targets = random_lists(seed=k)
    qrels = Qrels({str(e): {str(item): 1 for item in items} for e, items in enumerate(targets)})
    run = Run({str(e): {str(i): float(score) for i, score in enumerate(scores)} for e, scores in enumerate(scores_EN)})
    oracle = evaluate(qrels, run, [f"recall@{k}", f"hit_rate@{k}", f"mrr@{k}", f"ndcg@{k}"])

    owners = np.repeat(np.arange(25), [len(items) for items in targets])
    ranks = np.array([1 + (scores_EN[e] > scores_EN[e, i]).sum() for e, items in enumerate(targets) for i in items])
    assert ranking_metrics(ranks, owners, [k]) == pytest.approx(dict(oracle))
