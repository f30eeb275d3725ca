"""Differences between rankers on the same sessions, with an interval that takes sessions as the units."""

import numpy as np
import pytest

from onward.training.evaluation.metrics import BEYOND
from onward.training.evaluation.paired_test import Z_95, example_values, paired_difference


def test_values_of_examples_average_to_the_metrics() -> None:
    values = example_values([[1], [4], [BEYOND], [2, 30]], 20)
    assert values["recall@20"].tolist() == [1, 1, 0, 0.5]
    assert values["mrr@20"].tolist() == [1, 0.25, 0, 0.5]


def test_with_one_example_a_session_the_interval_is_that_of_a_mean() -> None:
    values_E, others_E = np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 1, 0])
    error = np.std(values_E - others_E, ddof=1) / 2
    assert paired_difference(values_E, others_E, np.arange(4)) == pytest.approx(
        (0.5, 0.5 - Z_95 * error, 0.5 + Z_95 * error)
    )


def test_repeating_the_examples_of_a_session_makes_nothing_more_certain() -> None:
    values_E, others_E = np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 1, 0])
    once = paired_difference(values_E, others_E, np.arange(4))
    thrice = paired_difference(values_E.repeat(3), others_E.repeat(3), np.arange(4).repeat(3) + 7)
    assert thrice == pytest.approx(once)


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        session_E = np.repeat(np.arange(200), random.integers(1, 6, 200))
        level_E = random.normal(0.1, 1, 200)[session_E]
        _, low, high = paired_difference(level_E + random.normal(size=len(level_E)), np.zeros(len(level_E)), session_E)
        held += low <= 0.1 <= high
    assert 0.92 < held / 400 < 0.98
