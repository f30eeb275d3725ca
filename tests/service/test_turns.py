"""Requests that take turns go through each stage together."""

import asyncio

from service.turns import Turns


async def stages(turns: Turns, begun: list[tuple[int, str]], name: str) -> None:
    with turns:
        for stage in range(3):
            begun.append((stage, name))
            await turns.give_way()


async def test_those_in_flight_finish_a_stage_before_any_begins_the_next() -> None:
    turns, begun = Turns(), list[tuple[int, str]]()
    with turns:  # another one, which waits for something
        await asyncio.gather(*(stages(turns, begun, name) for name in "abc"))
    assert begun == [(stage, name) for stage in range(3) for name in "abc"]


async def test_one_that_is_alone_gives_way_to_nobody() -> None:
    turns, begun = Turns(), list[tuple[int, str]]()
    alone = asyncio.create_task(stages(turns, begun, "a"))
    await asyncio.sleep(0)
    assert alone.done()


async def test_one_that_fails_is_in_flight_no_more() -> None:
    turns, begun = Turns(), list[tuple[int, str]]()
    try:
        with turns:
            raise ValueError
    except ValueError:
        pass
    alone = asyncio.create_task(stages(turns, begun, "a"))
    await asyncio.sleep(0)
    assert alone.done()
