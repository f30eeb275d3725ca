"""Items that arrive in the same iteration of the event loop form a batch, and no batch waits for later items."""

import asyncio
from collections.abc import Sequence

import pytest

from onward.service.recommend.batcher import Batcher, Pending


class Number(Pending[int]):
    """A number to be doubled."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value


class Doubler:
    """Doubles the numbers of a batch once it is released; 7 fails alone, and -1 fails its batch."""

    def __init__(self, max_batch: int) -> None:
        self.batches: list[list[int]] = []
        self.release = asyncio.Event()
        self.release.set()
        self._batcher = Batcher(self._process, max_batch=max_batch)

    async def double(self, value: int) -> int:
        number = Number(value)
        self._batcher.submit(number)
        return await number.result

    async def _process(self, batch: Sequence[Number]) -> None:
        self.batches.append([number.value for number in batch])
        await self.release.wait()
        if any(number.value == -1 for number in batch):
            raise RuntimeError("whole batch")
        for number in batch:
            number.resolve(ValueError("seven") if number.value == 7 else 2 * number.value)


async def iterations(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_single_item_does_not_wait() -> None:
    doubler = Doubler(max_batch=4)
    doubling = asyncio.create_task(doubler.double(3))
    await iterations(4)
    assert (doubling.done(), doubler.batches) == (True, [[3]])


async def test_items_of_one_iteration_form_batches_up_to_the_limit() -> None:
    doubler = Doubler(max_batch=4)
    doubler.release.clear()
    first = asyncio.create_task(doubler.double(0))
    await iterations(4)
    others = asyncio.gather(*map(doubler.double, range(1, 11)))
    await iterations(6)
    assert doubler.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    doubler.release.set()
    with pytest.raises(ValueError, match="seven"):
        await others
    assert await first == 0


async def test_an_item_that_fails_fails_alone() -> None:
    doubler = Doubler(max_batch=16)
    results = await asyncio.gather(*map(doubler.double, [1, 2, 7, 3]), return_exceptions=True)
    assert [results[0], results[1], results[3]] == [2, 4, 6]
    assert isinstance(results[2], ValueError)


async def test_an_exception_of_the_batch_reaches_every_caller_of_it() -> None:
    doubler = Doubler(max_batch=3)
    results = await asyncio.gather(*map(doubler.double, [1, -1, 2, 3]), return_exceptions=True)
    assert [type(result) for result in results[:3]] == [RuntimeError] * 3
    assert results[3] == 6
    assert await doubler.double(4) == 8


async def test_a_cancelled_caller_does_not_disturb_the_others() -> None:
    doubler = Doubler(max_batch=16)
    doubler.release.clear()
    doublings = [asyncio.create_task(doubler.double(number)) for number in range(4)]
    await iterations(1)
    doublings[0].cancel()
    await iterations(3)
    doublings[2].cancel()
    doubler.release.set()
    results = await asyncio.gather(*doublings, return_exceptions=True)
    assert [results[1], results[3]] == [2, 6]
    assert [type(results[0]), type(results[2])] == [asyncio.CancelledError] * 2
