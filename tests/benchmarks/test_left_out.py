"""What a part gave is given again in its place."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.benchmarks.left_out import KEPT, Again, AwaitedAgain, ListsAgain, RowsAgain


class Part:
    """Counts its calls, and gives their numbers."""

    def __init__(self) -> None:
        self.calls = 0
        self.width = 3

    def one(self) -> int:
        self.calls += 1
        return self.calls

    async def awaited(self) -> int:
        return self.one()

    async def lists(self, asked: list[int]) -> list[int]:
        self.calls += 1
        return [10 * number for number in asked]

    def rows(self, asked: list[int]) -> tuple[NDArray[Any], NDArray[Any]]:
        self.calls += 1
        return np.array([[number] * self.width for number in asked]), np.array(asked)


@pytest.fixture
def part() -> Part:
    return Part()


async def test_one_by_one(part: Part) -> None:
    for way, method in ((Again, Part.one), (AwaitedAgain, Part.awaited)):
        part.calls = 0
        call = way(method).__get__(part, Part)
        found = [call() if way is Again else await call() for _ in range(2 * KEPT)]
        assert found == [*range(1, KEPT + 1)] * 2
        assert part.calls == KEPT


async def test_several_at_once(part: Part) -> None:
    lists, rows = ListsAgain(Part.lists).__get__(part, Part), RowsAgain(Part.rows).__get__(part, Part)
    for first in range(0, 2 * KEPT, 4):
        found = await lists([*range(first, first + 4)])
        assert [number % 10 for number in found] == [0] * 4
    assert part.calls == KEPT / 4
    part.calls = 0
    rows([1, 2])  # as a bundle is tried when it is loaded
    part.width = 2
    for first in range(0, 2 * KEPT, 4):
        pairs, numbers = rows([*range(first, first + 4)])
        assert pairs.shape == (4, 2)
        assert (numbers == pairs.T).all()
    assert part.calls == 1 + KEPT / 4
