"""Accuracy by slices of targets, and how concentrated what is shown is."""

import numpy as np
import pytest

from onward.training.data.dataset import Dataset
from onward.training.evaluation.cases import EvaluationCase
from onward.training.evaluation.evaluation import Rankings, evaluate_baselines, events_before, metrics_of
from onward.training.evaluation.metrics import BEYOND, gini
from onward.training.evaluation.slices import accuracy_by_slice

CASES = [
    EvaluationCase(["a"], ["b"]),
    EvaluationCase(["a", "b"], ["b"]),
    EvaluationCase(["a", "b", "c"], ["a"]),
    EvaluationCase(list("abcdefghij"), ["x", "a"]),
]
RANKS = [[1], [2], [21], [BEYOND, 4]]
POPULARITY = {"a": 100, "b": 4, "c": 5}


def test_targets_are_divided_by_events_length_and_repetition() -> None:
    slices = accuracy_by_slice(CASES, RANKS, POPULARITY)
    assert slices == {
        "events in training": {
            "never seen": {"examples": 1, "recall@20": 0, "mrr@20": 0},
            "seen 1 to 4 times": {"examples": 2, "recall@20": 1, "mrr@20": 0.75},
            "seen 100 times or more": {"examples": 2, "recall@20": 0.5, "mrr@20": 0.125},
        },
        "session length": {
            "after 1 item": {"examples": 1, "recall@20": 1, "mrr@20": 1},
            "after 2 items": {"examples": 1, "recall@20": 1, "mrr@20": 0.5},
            "after 3 or 4 items": {"examples": 1, "recall@20": 0, "mrr@20": 0},
            "after 10 items or more": {"examples": 2, "recall@20": 0.5, "mrr@20": 0.125},
        },
        "repetition": {
            "new item": {"examples": 2, "recall@20": 0.5, "mrr@20": 0.5},
            "an earlier item again": {"examples": 2, "recall@20": 0.5, "mrr@20": 0.125},
            "the item at hand again": {"examples": 1, "recall@20": 1, "mrr@20": 0.5},
        },
    }


def test_slices_add_up_to_the_whole(dataset: Dataset) -> None:
    metrics = evaluate_baselines(dataset.folder, "test")
    for of_baseline in metrics.values():
        for parts in of_baseline["slices"].values():
            examples = sum(of["examples"] for of in parts.values())
            assert examples == of_baseline["examples"]
            for metric in ("recall@20", "mrr@20"):
                total = sum(of[metric] * of["examples"] for of in parts.values())
                assert total / examples == pytest.approx(of_baseline[metric])


@pytest.mark.parametrize(
    ("counts", "expected"), [([3, 3, 3, 3], 0), ([0, 0, 0, 8], 0.75), ([0, 0], 0), ([1, 2, 3], 2 / 9)]
)
def test_gini_of_counts(counts: list[int], expected: float) -> None:
    assert gini(np.array(counts)) == pytest.approx(expected)


def test_popularity_of_what_is_shown_beside_what_came_next() -> None:
    rankings = Rankings(ranks=RANKS, lists=[["a"], ["a", "c"], ["a"], []])
    metrics = metrics_of(rankings, CASES, items=5, popularity=POPULARITY)
    assert metrics["popularity_shown@20"] == (100 + 105 + 100) / 4
    assert metrics["popularity_next"] == (4 + 4 + 100 + 0 + 100) / 5
    assert metrics["gini@20"] == pytest.approx(gini(np.array([3, 1, 0, 0, 0])))


def test_events_before_a_part_are_those_that_may_be_learned_from(dataset: Dataset) -> None:
    before_test, before_validation = events_before(dataset, "test"), events_before(dataset, "validation")
    assert sum(before_test.values()) == dataset.info.parts["train"].events + dataset.info.parts["validation"].events
    assert sum(before_validation.values()) == dataset.info.parts["train"].events
