"""Deadlines: what is not resolved in time expires, once and at its time."""

import asyncio
from types import SimpleNamespace

from onward.service.recommend.deadlines import LEAST_LIMIT, Deadlines


def item(seconds: float) -> SimpleNamespace:
    loop = asyncio.get_running_loop()
    return SimpleNamespace(result=loop.create_future(), deadline_s=loop.time() + seconds)


async def test_what_is_not_resolved_expires_in_the_order_of_deadlines() -> None:
    expired: list[SimpleNamespace] = []
    deadlines = Deadlines(expired.append)
    late, early, past, resolved = item(0.06), item(0.02), item(-1), item(0.03)
    for each in (late, early, past, resolved):
        deadlines.watch(each)
    resolved.result.set_result(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    assert expired == [past]
    await asyncio.sleep(0.04)
    assert expired == [past, early]
    await asyncio.sleep(0.05)
    assert expired == [past, early, late]
    await asyncio.sleep(0.05)
    assert len(expired) == 3


async def test_resolved_items_are_forgotten_when_the_timer_runs() -> None:
    deadlines: Deadlines[SimpleNamespace] = Deadlines(lambda _: None)
    for _ in range(100):
        deadlines.watch(resolved := item(0.01))
        resolved.result.set_result(None)
    await asyncio.sleep(0.03)
    assert deadlines._items == []
    deadlines.watch(again := item(0.01))
    again.result.set_result(None)
    await asyncio.sleep(0.03)
    assert deadlines._items == []


async def test_many_resolved_items_are_forgotten_before_the_timer_runs() -> None:
    deadlines: Deadlines[SimpleNamespace] = Deadlines(lambda _: None)
    waiting = [item(60) for _ in range(10)]
    for each in waiting:
        deadlines.watch(each)
    for _ in range(10 * LEAST_LIMIT):
        deadlines.watch(resolved := item(60))
        resolved.result.set_result(None)
        assert len(deadlines._items) <= LEAST_LIMIT + 1
    assert deadlines._items[: len(waiting)] == waiting
