"""Requests that take turns go through each stage together."""

import asyncio

from service.turns import turn


async def test_those_in_flight_finish_a_stage_before_any_begins_the_next() -> None:
    begun: list[tuple[int, str]] = []

    async def request(name: str) -> None:
        for stage in range(3):
            begun.append((stage, name))
            await turn()

    await asyncio.gather(*map(request, "abc"))
    assert begun == [(stage, name) for stage in range(3) for name in "abc"]
