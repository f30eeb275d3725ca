import numpy as np
import pytest

from onward.bundle.catalog.eligible import Eligible


def test_eligible_rows_are_counted_with_and_without_new_items() -> None:
    eligible = Eligible(np.array([False, True, False, True, True]), items=3)
    assert (eligible.count, eligible.indexed_count, eligible.all_indexed) == (3, 2, False)
    assert eligible.selected.tolist() == [1, 3, 4]


def test_all_indexed_items_may_be_eligible_when_a_new_one_is_not() -> None:
    assert Eligible(np.array([False, True, True, False]), items=2).all_indexed


@pytest.mark.parametrize("items", [1, 8, 9, 20])
def test_the_selector_contains_the_eligible_rows_of_the_index(items: int) -> None:
    rows_R1 = np.arange(items + 3) % 3 == 1
    eligible = Eligible(rows_R1, items=items)
    assert [eligible.selector.is_member(row - 1) for row in range(1, items + 1)] == rows_R1[1 : items + 1].tolist()
