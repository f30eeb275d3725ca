"""The comparison of a probe's answer with the recorded one tolerates rounding, and nothing else."""

from onward.bundle import ScoredItem
from onward.bundle.probes import same_top

FIRST, SECOND, THIRD = (ScoredItem(item_id=item_id, score=score) for item_id, score in (("a", 9), ("b", 6), ("c", 3)))


def test_items_of_equal_score_may_swap_places() -> None:
    assert not same_top((SECOND, FIRST, THIRD), (FIRST, SECOND, THIRD))
    tied = SECOND.model_copy(update={"score": FIRST.score * (1 - 1e-4)})
    assert same_top((tied, FIRST, THIRD), (FIRST, tied, THIRD))


def test_only_the_last_item_may_be_replaced_by_another_of_its_score() -> None:
    recorded = (FIRST, SECOND, THIRD)
    assert same_top((FIRST, SECOND, THIRD.model_copy(update={"item_id": "another"})), recorded)
    assert not same_top((FIRST.model_copy(update={"item_id": "another"}), SECOND, THIRD), recorded)


def test_scores_may_differ_by_rounding_only() -> None:
    recorded = (FIRST, SECOND, THIRD)
    assert same_top((FIRST.model_copy(update={"score": FIRST.score * (1 + 5e-4)}), SECOND, THIRD), recorded)
    assert not same_top((FIRST.model_copy(update={"score": FIRST.score * (1 + 5e-3)}), SECOND, THIRD), recorded)
    assert not same_top((FIRST, SECOND), recorded)
