"""Counters in Redis and in memory return the same."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.service.records.counters import InMemoryCounters, RedisCounters
from onward.service.redis_client import connect
from tests.service.clock import Clock

MAX_COUNTERS = 3

amounts = st.dictionaries(st.sampled_from(["a", "b c", "c\u2028", "d:e", "f"]), st.floats(-1e6, 1e6), max_size=4)
durations = st.sampled_from([timedelta(seconds=20), timedelta(minutes=50), timedelta(hours=5), timedelta(days=16)])
windows = st.sampled_from([timedelta(minutes=1), timedelta(hours=2), timedelta(hours=3), timedelta(days=30)])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(amounts, durations | st.just(timedelta()), windows), max_size=12))
def test_counters_in_redis_and_in_memory_return_the_same(
    valkey: str, steps: list[tuple[dict[str, float], timedelta, timedelta]]
) -> None:
    async def compare() -> None:
        clock = Clock()
        in_memory = InMemoryCounters(max_counters=MAX_COUNTERS, clock=clock)
        async with aclosing(connect(valkey, timedelta(seconds=30))) as client:
            in_redis = RedisCounters(client, name=str(uuid4()), max_counters=MAX_COUNTERS, clock=clock)
            for added, passed, window in steps:
                assert await in_memory.add(added) == await in_redis.add(added)
                clock.advance(passed)
                expected, actual = await in_memory.sums(window), await in_redis.sums(window)
                assert actual._replace(sums={}) == expected._replace(sums={})
                assert actual.sums == pytest.approx(expected.sums, abs=1e-6)

    asyncio.run(compare())
