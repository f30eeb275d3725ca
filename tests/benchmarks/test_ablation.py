"""A disabled part returns the results that it gave to the first calls."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.benchmarks.ablation import RECORDED_CALLS, Replay, ReplayAsync, ReplayLists, ReplayRows


class Counter:
    """Counts its calls, and returns numbers that depend on the call."""

    def __init__(self) -> None:
        self.calls = 0
        self.width = 3

    def number(self) -> int:
        self.calls += 1
        return self.calls

    async def awaited(self) -> int:
        return self.number()

    async def lists(self, batch: list[int]) -> list[int]:
        self.calls += 1
        return [10 * number for number in batch]

    def rows(self, batch: list[int]) -> tuple[NDArray[Any], NDArray[Any]]:
        self.calls += 1
        return np.array([[number] * self.width for number in batch]), np.array(batch)


@pytest.fixture
def counter() -> Counter:
    return Counter()


async def test_results_of_single_calls_are_replayed_in_turn(counter: Counter) -> None:
    for kind, method in ((Replay, Counter.number), (ReplayAsync, Counter.awaited)):
        counter.calls = 0
        call = kind(method).__get__(counter, Counter)
        results = [call() if kind is Replay else await call() for _ in range(2 * RECORDED_CALLS)]
        assert results == [*range(1, RECORDED_CALLS + 1)] * 2
        assert counter.calls == RECORDED_CALLS


async def test_results_of_batches_are_replayed_entry_by_entry(counter: Counter) -> None:
    lists = ReplayLists(Counter.lists).__get__(counter, Counter)
    for first in range(0, 2 * RECORDED_CALLS, 4):
        results = await lists([*range(first, first + 4)])
        assert [number % 10 for number in results] == [0] * 4
    assert counter.calls == RECORDED_CALLS / 4


def test_rows_are_replayed_and_those_of_another_shape_are_dropped(counter: Counter) -> None:
    rows = ReplayRows(Counter.rows).__get__(counter, Counter)
    rows([1, 2])  # as the check of a bundle that is loaded does
    counter.width = 2
    for first in range(0, 2 * RECORDED_CALLS, 4):
        pairs, numbers = rows([*range(first, first + 4)])
        assert pairs.shape == (4, 2)
        assert (numbers == pairs.T).all()
    assert counter.calls == 1 + RECORDED_CALLS / 4
