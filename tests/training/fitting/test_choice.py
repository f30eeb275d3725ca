"""The simplest contender within one standard error of the best one is chosen."""

import numpy as np
import pytest
from numpy.typing import NDArray

from onward.training.evaluation.paired_test import paired_difference
from onward.training.fitting.choice import Contender, choose
from onward.training.fitting.plan_text import choice_lines
from onward.training.fitting.records import METRIC

SESSION_E = np.arange(400) // 2
Figures = NDArray[np.float64]


def contender(name: str, complexity: tuple[int, ...], values_E: Figures) -> Contender:
    values = {METRIC: values_E, "recall@20": values_E, "mrr@20": values_E}
    return Contender(tuple(name.split("+")), None, complexity, values)


@pytest.fixture
def base_E() -> Figures:
    return np.random.default_rng(1).random(400)


def noisy(base_E: Figures, gain: float) -> Figures:
    return base_E + gain + np.random.default_rng(2).normal(scale=0.2, size=len(base_E))


def test_the_best_is_chosen_where_the_difference_exceeds_its_error(base_E: Figures) -> None:
    choice = choose([contender("knn", (1, 0), base_E), contender("net", (1, 1), noisy(base_E, 0.1))], SESSION_E)
    assert (choice.winner.name, choice.winner.difference) == ("net", 0)
    assert "the best on validation" in next(choice_lines(choice, {}))


def test_the_simpler_one_is_chosen_within_the_error(base_E: Figures) -> None:
    better_E = noisy(base_E, 0.0)
    better_E += base_E.mean() + 0.002 - better_E.mean()
    choice = choose([contender("net", (1, 1), better_E), contender("knn", (1, 0), base_E)], SESSION_E)
    assert choice.winner.name == "knn"
    assert choice.compared[choice.best].name == "net"
    expected = paired_difference(better_E, base_E, SESSION_E)
    assert choice.winner.difference == pytest.approx(0.002)
    assert choice.winner.error == pytest.approx((expected.high - expected.low) / 2 / 1.96)
    assert "net is better by 0.0020 only" in next(choice_lines(choice, {}))


def test_of_equally_complex_ones_the_better_one_is_chosen(base_E: Figures) -> None:
    contenders = [contender("a", (1, 1), base_E), contender("b", (1, 1), base_E + 1e-4)]
    assert choose(contenders, SESSION_E).winner.name == "b"


def test_one_network_is_simpler_than_several(base_E: Figures) -> None:
    contenders = [contender("a+b", (2, 1, 0), noisy(base_E, 0.0)), contender("c", (1, 5), base_E)]
    assert [of.name for of in choose(contenders, SESSION_E).compared] == ["c", "a + b"]


def test_a_choice_below_the_floor_is_said(base_E: Figures) -> None:
    choice = choose([contender("knn", (1, 0), base_E)], SESSION_E)
    lines = list(choice_lines(choice, {"popularity": {METRIC: 0.1}, "item-to-item": {METRIC: 0.9}}))
    assert lines[-1] == "below the floor on validation: item-to-item"
