"""What visitors do now is popular now."""

import itertools
from datetime import timedelta

import pytest

from onward.service import telemetry
from onward.service.records.live_popularity import (
    MAX_ITEMS,
    InMemoryPopularityStore,
    LivePopularity,
    PopularityStore,
    RedisPopularityStore,
)
from onward.service.redis_client import RedisCalls
from onward.service.sessions import AppliedEvent
from tests.service.clock import Clock

HALF_LIFE = timedelta(days=1)
DAY_S = HALF_LIFE.total_seconds()
KEPT = 5

numbers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, calls: RedisCalls, clock: Clock) -> PopularityStore:
    if request.param == "memory":
        return InMemoryPopularityStore(half_life=HALF_LIFE, kept=KEPT, clock=clock)
    name = f"popularity-{next(numbers)}"
    return RedisPopularityStore(calls, half_life=HALF_LIFE, kept=KEPT, clock=clock, name=name)


@pytest.fixture
def live(store: PopularityStore, clock: Clock) -> LivePopularity:
    return LivePopularity(store, half_life=HALF_LIFE, clock=clock)


def event(item_id: str, weight: float, clock: Clock, *, age_s: float = 0) -> AppliedEvent:
    return AppliedEvent("visitor", item_id, "view", weight, int((clock.now_s - age_s) * 1000), None, None, None, ())


async def test_nothing_is_popular_before_anything_happened(live: LivePopularity) -> None:
    assert live.scores() == {}
    await live.flush()
    assert live.scores() == {}


async def test_weights_add_up_and_the_heaviest_come_first(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("a", 1, clock), event("b", 5, clock), event("a", 1, clock)])
    await live.flush()
    live.applied([event("c", 3, clock)])
    assert dict(live.scores()) == {"b": 5, "a": 2}
    await live.flush()
    assert list(live.scores().items()) == [("b", 5), ("c", 3), ("a", 2)]


async def test_events_without_a_positive_weight_make_nothing_popular(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("a", 0, clock), event("b", -1, clock)])
    await live.flush()
    assert live.scores() == {}


async def test_a_weight_halves_in_each_half_life(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("a", 4, clock)])
    await live.flush()
    for left in (2, 1, 0.5):
        clock.now_s += DAY_S
        await live.flush()
        assert live.scores() == pytest.approx({"a": left})
    live.applied([event("b", 0.25, clock)])
    await live.flush()
    assert live.scores() == pytest.approx({"a": 0.5, "b": 0.25})


async def test_an_event_that_comes_late_counts_as_what_is_left_of_it(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("late", 1, clock, age_s=2 * DAY_S), event("early", 1, clock, age_s=-300)])
    await live.flush()
    assert live.scores() == pytest.approx({"early": 1, "late": 0.25})


async def test_weights_stay_what_they_are_over_years(live: LivePopularity, clock: Clock) -> None:
    for _ in range(40):
        live.applied([event("steady", 1, clock), event("rare", 0.5, clock)])
        await live.flush()
        assert live.scores() == pytest.approx({"steady": 1, "rare": 0.5})
        clock.now_s += 100 * DAY_S
    clock.now_s += 3_000 * DAY_S
    await live.flush()
    live.applied([event("new", 1, clock)])
    await live.flush()
    assert next(iter(live.scores().items())) == ("new", 1)


async def test_a_clock_that_was_set_back_enlarges_nothing(live: LivePopularity, clock: Clock) -> None:
    live.applied([event("a", 1, clock)])
    await live.flush()
    clock.now_s -= 10_000 * DAY_S
    live.applied([event("b", 2, clock)])
    await live.flush()
    assert live.scores() == pytest.approx({"b": 2, "a": 1})
    clock.now_s += DAY_S
    await live.flush()
    assert live.scores() == pytest.approx({"b": 1, "a": 0.5})


async def test_of_many_items_the_lightest_are_dropped(live: LivePopularity, clock: Clock) -> None:
    live.applied([event(f"item-{weight}", weight, clock) for weight in range(1, KEPT + 4)])
    await live.flush()
    assert list(live.scores()) == [f"item-{weight}" for weight in range(KEPT + 3, 3, -1)]


async def test_weights_of_several_workers_add_up(store: PopularityStore, clock: Clock) -> None:
    workers = [LivePopularity(store, half_life=HALF_LIFE, clock=clock) for _ in range(3)]
    for worker in workers:
        worker.applied([event("a", 1, clock)])
        await worker.flush()
    assert workers[-1].scores() == {"a": 3}


async def test_of_more_items_than_may_wait_the_rest_is_lost_and_counted(
    live: LivePopularity, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    monkeypatch.setattr(telemetry, "records_lost", lambda what, count: lost.append(count))
    live.applied([event(f"item-{number}", 1, clock) for number in range(MAX_ITEMS + 2)])
    live.applied([event("item-0", 1, clock)])
    assert sum(lost) == 2


async def test_another_half_life_holds_from_its_first_event_on(calls: RedisCalls, clock: Clock) -> None:
    name = f"popularity-{next(numbers)}"
    await RedisPopularityStore(calls, half_life=HALF_LIFE, clock=clock, name=name).add({"a": 4})
    clock.now_s += DAY_S
    weekly = RedisPopularityStore(calls, half_life=7 * HALF_LIFE, clock=clock, name=name)
    assert await weekly.add({"b": 1}) == pytest.approx({"a": 2, "b": 1})
    clock.now_s += 7 * DAY_S
    assert await weekly.add({}) == pytest.approx({"a": 1, "b": 0.5})
