"""Deadlines: what is not resolved in time expires, once and at its time."""

import asyncio

from onward.service.recommend.deadlines import Deadlines


class Item:
    """Something to resolve within some seconds."""

    def __init__(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[None] = loop.create_future()
        self.deadline_s = loop.time() + seconds


async def test_what_is_not_resolved_expires_in_the_order_of_deadlines() -> None:
    expired: list[Item] = []
    deadlines = Deadlines(expired.append)
    late, early, past, resolved = Item(0.2), Item(0.05), Item(-1), Item(0.06)
    for each in (late, early, past, resolved):
        deadlines.watch(each)
    resolved.result.set_result(None)
    await asyncio.sleep(0.4)
    assert expired == [past, early, late]


async def test_what_is_forgotten_does_not_expire() -> None:
    expired: list[Item] = []
    deadlines = Deadlines(expired.append)
    forgotten, kept = Item(0.01), Item(0.02)
    deadlines.watch(forgotten)
    deadlines.watch(kept)
    deadlines.forget(forgotten)
    deadlines.forget(forgotten)
    await asyncio.sleep(0.2)
    assert expired == [kept]
