"""Live popularity follows recent events, and older ones decay."""

import asyncio
import itertools
import time
from collections.abc import Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from onward.service import telemetry
from onward.service.records.live_popularity import (
    MAX_ITEMS,
    InMemoryPopularityStore,
    LivePopularity,
    PopularityStore,
    RedisPopularityStore,
)
from onward.service.redis_client import RedisClient, connect
from onward.service.sessions import AppliedEvent
from tests.service.clock import Clock

HALF_LIFE = timedelta(days=100)  # so long that the duration of a test does not matter
HALF_LIFE_S = HALF_LIFE.total_seconds()
MAX_KEPT = 5

numbers = itertools.count()


class AgeingRedisPopularityStore(RedisPopularityStore):
    """Follows a clock of the test: as time passes on it, the stored landmark moves into the past of the server."""

    def __init__(self, redis: RedisClient, clock: Clock, **options: Any) -> None:
        super().__init__(redis, **options)
        self._redis = redis
        self._clock = clock
        self._aged_s = clock.now_s

    async def add(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        passed_ms, self._aged_s = int((self._clock.now_s - self._aged_s) * 1000), self._clock.now_s
        if passed_ms:
            await self._redis.execute([("HINCRBY", self._keys[1], "landmark_ms", -passed_ms)])
        return await super().add(weights)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, calls: RedisClient, clock: Clock) -> PopularityStore:
    if request.param == "memory":
        return InMemoryPopularityStore(half_life=HALF_LIFE, max_items=MAX_KEPT, clock=clock)
    name = f"popularity-{next(numbers)}"
    return AgeingRedisPopularityStore(calls, clock, half_life=HALF_LIFE, max_items=MAX_KEPT, name=name)


@pytest.fixture
def live(store: PopularityStore, clock: Clock) -> LivePopularity:
    return LivePopularity(store, half_life=HALF_LIFE, clock=clock)


def event(item_id: str, weight: float, clock: Clock, *, age_s: float = 0) -> AppliedEvent:
    return AppliedEvent("visitor", item_id, "view", weight, int((clock.now_s - age_s) * 1000), None, None, None, ())


async def test_there_are_no_scores_without_events(live: LivePopularity) -> None:
    assert live.scores == {}
    await live.flush()
    assert live.scores == {}


async def test_weights_add_up_and_the_heaviest_come_first(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("a", 1, clock), event("b", 5, clock), event("a", 1, clock)])
    await live.flush()
    live.applied([event("c", 3, clock)])
    assert dict(live.scores) == {"b": 5, "a": 2}
    await live.flush()
    assert live.scores == pytest.approx({"b": 5, "c": 3, "a": 2})
    assert list(live.scores) == ["b", "c", "a"]


async def test_events_without_a_positive_weight_are_ignored(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("a", 0, clock), event("b", -1, clock)])
    await live.flush()
    assert live.scores == {}


async def test_a_weight_halves_in_each_half_life(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("a", 4, clock)])
    await live.flush()
    for decayed in (2, 1, 0.5):
        clock.now_s += HALF_LIFE_S
        await live.flush()
        assert live.scores == pytest.approx({"a": decayed})
    live.applied([event("b", 0.25, clock)])
    await live.flush()
    assert live.scores == pytest.approx({"a": 0.5, "b": 0.25})


async def test_a_late_event_counts_with_its_decayed_weight(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("late", 1, clock, age_s=2 * HALF_LIFE_S), event("early", 1, clock, age_s=-300)])
    await live.flush()
    assert live.scores == pytest.approx({"early": 1, "late": 0.25})


async def test_weights_stay_exact_over_years(live: LivePopularity, clock: Clock) -> None:
    for _ in range(40):
        live.applied([event("steady", 1, clock), event("rare", 0.5, clock)])
        await live.flush()
        assert live.scores == pytest.approx({"steady": 1, "rare": 0.5})
        clock.now_s += 100 * HALF_LIFE_S
    clock.now_s += 3_000 * HALF_LIFE_S
    await live.flush()
    live.applied([event("new", 1, clock)])
    await live.flush()
    assert next(iter(live.scores.items())) == ("new", 1)


async def test_a_clock_set_back_does_not_increase_weights(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("a", 1, clock)])
    await live.flush()
    clock.now_s -= 10_000 * HALF_LIFE_S
    live.applied([event("b", 2, clock)])
    await live.flush()
    assert live.scores == pytest.approx({"b": 2, "a": 1})
    clock.now_s += HALF_LIFE_S
    await live.flush()
    assert live.scores == pytest.approx({"b": 1, "a": 0.5})


async def test_the_lightest_items_beyond_the_limit_are_dropped(live: LivePopularity, clock: Clock) -> None:
    live.applied([event(f"item-{weight}", weight, clock) for weight in range(1, MAX_KEPT + 4)])
    await live.flush()
    assert list(live.scores) == [f"item-{weight}" for weight in range(MAX_KEPT + 3, 3, -1)]


async def test_of_items_of_one_weight_those_last_by_id_come_first(store: PopularityStore) -> None:
    assert list(await store.add(dict.fromkeys("bgacfd", 1.0))) == ["g", "f", "d", "c", "b"]


async def test_reading_while_the_clock_is_set_back_changes_nothing(store: PopularityStore, clock: Clock) -> None:
    await store.add({"a": 1})
    clock.now_s -= 10 * HALF_LIFE_S
    await store.add({})
    clock.now_s += 11 * HALF_LIFE_S
    assert await store.add({}) == pytest.approx({"a": 0.5})


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.sets(st.integers(0, 8)), st.sampled_from([0, 1, 2, 70])), max_size=12),
    prefix=st.sampled_from(["item-", "SKU ", "p:\u2028"]),
)
def test_popularity_in_redis_and_in_memory_is_the_same(
    valkey: str, steps: list[tuple[set[int], int]], prefix: str
) -> None:
    roots = [2, 3, 5, 6, 7, 10, 11, 13, 14]  # square roots, so that no two items ever have nearly the same weight

    async def compare() -> None:
        clock = Clock()
        in_memory = InMemoryPopularityStore(half_life=HALF_LIFE, max_items=MAX_KEPT, clock=clock)
        async with aclosing(connect(valkey, timedelta(seconds=30))) as client:
            in_redis = AgeingRedisPopularityStore(
                client, clock, half_life=HALF_LIFE, max_items=MAX_KEPT, name=str(uuid4())
            )
            for items, half_lives in steps:
                weights = {f"{prefix}{item}": roots[item] ** 0.5 for item in items}
                expected, actual = await in_memory.add(weights), await in_redis.add(weights)
                assert actual == pytest.approx(expected, rel=1e-6, abs=1e-250)
                assert list(actual) == list(expected)
                clock.now_s += half_lives * HALF_LIFE_S

    asyncio.run(compare())


async def test_weights_of_several_workers_add_up(store: PopularityStore, clock: Clock) -> None:
    workers = [LivePopularity(store, half_life=HALF_LIFE, clock=clock) for _ in range(3)]
    for worker in workers:
        worker.applied([event("a", 1, clock)])
        await worker.flush()
    assert workers[-1].scores == pytest.approx({"a": 3})


async def test_items_beyond_the_queue_limit_are_lost_and_counted(
    live: LivePopularity, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    monkeypatch.setattr(telemetry, "records_lost", lambda what, count: lost.append(count))
    live.applied([event(f"item-{number}", 1, clock) for number in range(MAX_ITEMS + 2)])
    live.applied([event("item-0", 1, clock)])
    assert sum(lost) == 2


async def test_a_changed_half_life_applies_from_its_first_event_on(calls: RedisClient, clock: Clock) -> None:
    name = f"popularity-{next(numbers)}"
    shorter = AgeingRedisPopularityStore(calls, clock, half_life=HALF_LIFE, name=name)
    await shorter.add({"a": 4})
    clock.now_s += HALF_LIFE_S
    await shorter.add({})
    longer = AgeingRedisPopularityStore(calls, clock, half_life=7 * HALF_LIFE, name=name)
    assert await longer.add({"b": 1}) == pytest.approx({"a": 2, "b": 1})
    clock.now_s += 7 * HALF_LIFE_S
    assert await longer.add({}) == pytest.approx({"a": 1, "b": 0.5})


@pytest.mark.parametrize("half_lives", [-30, 30, 100])
async def test_a_worker_whose_clock_is_off_adds_what_the_others_add(
    calls: RedisClient, clock: Clock, monkeypatch: pytest.MonkeyPatch, half_lives: int
) -> None:
    name = f"popularity-{next(numbers)}"
    clock.now_s = time.time()
    monkeypatch.setattr("time.time", clock)
    right, off = (
        LivePopularity(RedisPopularityStore(calls, half_life=HALF_LIFE, name=name), half_life=HALF_LIFE, clock=clock)
        for _ in range(2)
    )
    right.applied([event("a", 2, clock)])
    await right.flush()
    clock.now_s += half_lives * HALF_LIFE_S
    off.applied([event("b", 1, clock)])
    await off.flush()
    clock.now_s -= half_lives * HALF_LIFE_S
    await right.flush()
    assert off.scores == pytest.approx({"a": 2, "b": 1})
    assert right.scores == pytest.approx({"a": 2, "b": 1})


async def test_weights_of_the_revision_before_are_read_and_added_to(calls: RedisClient) -> None:
    name = f"popularity-{next(numbers)}"
    half_life_ms = int(HALF_LIFE_S * 1000)
    await calls.execute(
        [
            ("ZADD", f"onward:{{{name}}}:weights", 4, "a", 1, "b"),
            ("HSET", f"onward:{{{name}}}:scale", "landmark_ms", int(time.time() * 1000) - half_life_ms),
            ("HSET", f"onward:{{{name}}}:scale", "half_life_ms", half_life_ms),
        ]
    )
    store = RedisPopularityStore(calls, half_life=HALF_LIFE, name=name)
    assert await store.add({}) == pytest.approx({"a": 2, "b": 0.5})
    assert await store.add({"b": 5}) == pytest.approx({"a": 2, "b": 5.5})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "text", ""])
async def test_a_scale_that_cannot_be_read_begins_anew(valkey: str, redis: Redis, text: str) -> None:
    async with aclosing(connect(valkey, timedelta(seconds=30))) as client:
        store = RedisPopularityStore(client, half_life=timedelta(days=1), name=f"scale-{text}")
        await store.add({"a": 1.0})
        await redis.hset(store._keys[1], mapping={"landmark_ms": text, "half_life_ms": text})
        assert await store.add({"a": 1.0}) == pytest.approx({"a": 2.0}, rel=1e-3)
