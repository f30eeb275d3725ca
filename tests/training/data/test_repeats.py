"""How often sessions repeat their items decides what answers leave out by default."""

import numpy as np
import pytest

from onward.training.data.dataset import Dataset
from onward.training.data.repeats import Repeats, _repeats
from onward.training.evaluation.cases import cases_of
from tests.training.corpora import sessions


def test_the_item_at_hand_and_earlier_items_are_told_apart() -> None:
    is_last_T, is_seen_T = _repeats(sessions([1, 1, 2, 1, 3], [4, 4], [1, 4, 5]), together=False)
    assert is_last_T.tolist() == [True, False, False, False, True, False, False]
    assert is_seen_T.tolist() == [True, False, True, False, True, False, False]


def test_unknown_items_are_no_repeats() -> None:
    is_last_T, is_seen_T = _repeats(sessions([0, 0, 1]), together=False)
    assert not (is_last_T | is_seen_T).any()


def test_targets_together_repeat_only_what_came_before_the_first() -> None:
    held_out = sessions([1, 2, 3, 3, 2, 1])
    held_out.is_target[:3] = False
    is_last_T, is_seen_T = _repeats(held_out, together=True)
    assert is_last_T.tolist() == [True, False, False]
    assert is_seen_T.tolist() == [True, True, True]


def test_counts_equal_those_over_the_cases_of_evaluation(dataset: Dataset) -> None:
    cases = list(cases_of(dataset.sessions("validation"), together=False))
    repeats = Repeats.of(dataset)
    assert (repeats.part, repeats.targets) == ("validation", len(cases))
    assert repeats.last == pytest.approx(np.mean([case.targets[0] == case.inputs[-1] for case in cases]))
    earlier = [case.targets[0] in case.inputs and case.targets[0] != case.inputs[-1] for case in cases]
    assert repeats.earlier == pytest.approx(np.mean(earlier))


@pytest.mark.parametrize(
    ("last", "earlier", "exclude_seen"),
    [(0.22, 0.16, "last"), (0.0, 0.001, True), (0.3, 0.0, True), (0.6, 0.0, False)],
)
def test_shares_decide(last: float, earlier: float, exclude_seen: object) -> None:
    assert Repeats("validation", 1_000, last, earlier).exclude_seen == exclude_seen


def test_it_says_what_was_decided_and_why() -> None:
    assert str(Repeats("validation", 1_234, 0.217, 0.161)) == (
        "left out of answers by default: the item at hand (of 1,234 validation targets 21.7% are the item at hand, "
        "16.1% an earlier one)"
    )
