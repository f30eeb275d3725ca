"""Metrics against worked examples and against an independent library."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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


def test_tied_targets_share_the_worst_of_their_ranks_and_each_counts() -> None:
    """Two targets and another item have the highest score, so all three have rank 3."""
    metrics = of([3, 3], [0, 0])
    assert metrics["recall@3"] == 1
    assert metrics["mrr@3"] == pytest.approx(1 / 3)
    assert metrics["ndcg@3"] == pytest.approx(2 * (1 / 2) / (1 + 1 / np.log2(3)))


@pytest.mark.parametrize("ranks", [[1, 1], [2, 2, 2], [1, 2, 2]])
def test_a_target_given_twice_is_refused_where_the_ranks_show_it(ranks: list[int]) -> None:
    """Of different items, at most r have a rank up to r."""
    with pytest.raises(ValueError, match="example 1: an item is given as a target twice"):
        of([1, *ranks, 1], [0] + [1] * len(ranks) + [2])


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 0: ranks begin at 1"):
        of([1, 0])


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=5), st.data())
def test_no_metric_of_different_items_exceeds_one_however_scores_tie(
    scores: list[list[int]], data: st.DataObject
) -> None:
    ranks, owners = [], []
    for example, items in enumerate(scores):
        targets = data.draw(st.sets(st.integers(0, len(items) - 1), min_size=1))
        ranks += [sum(score >= items[target] for score in items) for target in targets]
        owners += [example] * len(targets)
    for k in (1, 3, 20):
        assert all(0 <= value <= 1 + 1e-9 for value in of(ranks, owners, k).values())


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


K = (1, 5, 20)
ORACLE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from ranx import Qrels, Run, evaluate
print(json.dumps([evaluate(Qrels(qrels), Run(run), names) for qrels, run, names in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def expected() -> dict[int, dict[str, float]]:
    """The metrics of random lists by ranx, in a process that interprets it: compiling it takes most of a minute."""
    questions = []
    for k in K:
        scores_EN, targets = random_lists(seed=k)
        qrels = {str(e): {str(item): 1 for item in items} for e, items in enumerate(targets)}
        run = {str(e): {str(i): float(score) for i, score in enumerate(scores)} for e, scores in enumerate(scores_EN)}
        questions.append([qrels, run, [f"recall@{k}", f"hit_rate@{k}", f"mrr@{k}", f"ndcg@{k}"]])
    done = subprocess.run(
        [sys.executable, "-c", ORACLE],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    return dict(zip(K, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("k", K)
def test_agrees_with_ranx(expected: dict[int, dict[str, float]], k: int) -> None:
    scores_EN, targets = random_lists(seed=k)
    owners = np.repeat(np.arange(25), [len(items) for items in targets])
    ranks = np.array([1 + (scores_EN[e] > scores_EN[e, i]).sum() for e, items in enumerate(targets) for i in items])
    assert ranking_metrics(ranks, owners, [k]) == pytest.approx(expected[k])
