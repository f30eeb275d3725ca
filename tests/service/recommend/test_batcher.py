"""Those who ask in one turn of the event loop are answered together, and nobody waits for others to come."""

import asyncio
from collections.abc import Sequence

import pytest

from onward.service.recommend.batcher import Batcher, PendingQuery


class Doubling:
    """Doubles numbers once it may; 7 is refused, and -1 spoils it for all."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def work(self, tickets: Sequence[PendingQuery[int, int]]) -> None:
        self.batches.append([ticket.question for ticket in tickets])
        await self.may_go_on.wait()
        if any(ticket.question == -1 for ticket in tickets):
            raise RuntimeError("spoilt")
        for ticket in tickets:
            ticket.give(ValueError("seven") if ticket.question == 7 else 2 * ticket.question)


@pytest.fixture
async def doubling() -> Doubling:
    return Doubling()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_that_is_alone_waits_for_nobody(doubling: Doubling) -> None:
    together = Batcher(doubling.work, most=4)
    asking = asyncio.create_task(together.ask(3))
    await turns(4)
    assert (asking.done(), doubling.batches) == (True, [[3]])


async def test_those_of_one_turn_are_answered_together_and_no_more_than_may_be(doubling: Doubling) -> None:
    together = Batcher(doubling.work, most=4)
    doubling.may_go_on.clear()
    first = asyncio.create_task(together.ask(0))
    await turns(4)
    others = asyncio.gather(*map(together.ask, range(1, 11)))
    await turns(6)
    assert doubling.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    doubling.may_go_on.set()
    with pytest.raises(ValueError, match="seven"):
        await others
    assert await first == 0


async def test_a_refusal_is_that_of_one_alone(doubling: Doubling) -> None:
    together = Batcher(doubling.work, most=16)
    found = await asyncio.gather(*map(together.ask, [1, 2, 7, 3]), return_exceptions=True)
    assert [found[0], found[1], found[3]] == [2, 4, 6]
    assert isinstance(found[2], ValueError)


async def test_what_spoils_the_work_is_told_to_all_who_share_it(doubling: Doubling) -> None:
    together = Batcher(doubling.work, most=3)
    found = await asyncio.gather(*map(together.ask, [1, -1, 2, 3]), return_exceptions=True)
    assert [type(one) for one in found[:3]] == [RuntimeError] * 3
    assert found[3] == 6
    with pytest.raises(RuntimeError):
        await together.ask(-1, by_itself=True)
    assert await together.ask(4) == 8


async def test_one_who_gives_up_holds_up_nobody(doubling: Doubling) -> None:
    together = Batcher(doubling.work, most=16)
    doubling.may_go_on.clear()
    asking = [asyncio.create_task(together.ask(number)) for number in range(4)]
    await turns(1)
    asking[0].cancel()
    await turns(3)
    asking[2].cancel()
    doubling.may_go_on.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert [found[1], found[3]] == [2, 6]
    assert [type(found[0]), type(found[2])] == [asyncio.CancelledError] * 2


async def test_nobody_waits_for_what_one_by_itself_may_wait_for(doubling: Doubling) -> None:
    together = Batcher(doubling.work, most=16)
    await asyncio.gather(together.ask(1), together.ask(2, by_itself=True), together.ask(3), together.ask(4))
    assert doubling.batches == [[2], [1, 3, 4]]
