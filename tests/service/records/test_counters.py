"""Counters in Redis and in memory return the same."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.service.records.counters import PERIODS, InMemoryCounters, RedisCounters
from onward.service.records.online_metrics import OnlineMetrics
from onward.service.records.outage_log import RecordsRefused
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


async def test_what_is_not_a_counter_is_left_out_and_does_not_stop_the_others(valkey: str) -> None:
    clock, name = Clock(), str(uuid4())
    async with aclosing(connect(valkey)) as client:
        counters = RedisCounters(client, name=name, clock=clock)
        await counters.add({"a": 1})
        keys = [counters._key(period, period.number(clock())) for period in PERIODS]
        for key in keys:
            await client.execute([("HSET", key, b"\xff", 2), ("HSET", key, "x", "nan"), ("HSET", key, "y", "text")])
        with pytest.raises(RecordsRefused):
            await counters.add({"y": 1, "a": 2})
        sums = (await counters.sums(timedelta(minutes=1))).sums
        assert sums == {"a": 3, "\ufffd": 2}


async def test_counters_of_another_kind_are_left_out_of_a_report() -> None:
    counters = InMemoryCounters()
    metrics = OnlineMetrics(None, counters)
    foreign = ["{", "[]", "[1, 2, 3, 4]", '["", "", "", "\\ud800"]', '["", "", "", "other"]', "[" * 100_000]
    await counters.add(dict.fromkeys([*foreign, '["", "", "", "unattributed"]'], 2.0))
    assert (await metrics.report(timedelta(minutes=1), ["scenario"])).unattributed == 2
