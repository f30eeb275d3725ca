"""No session decides what is popular, or what new items are like, however many events it sends."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from onward.service.sessions import AppliedEvent, EventWeights, SessionShares, shares
from onward.service.settings import IN_MEMORY
from tests.service.clock import NOON_S, Clock
from tests.service.process import wait_until
from tests.service.shop import UNHURRIED, get, ids, opened

PERIOD = timedelta(days=3)
LARGEST = 5.0


class Weights:
    """Sums the weights of each item."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        for event in events:
            self.of[event.item_id] = self.of.get(event.item_id, 0) + event.weight


@pytest.fixture
def learnt() -> Weights:
    return Weights()


@pytest.fixture
def bounded(learnt: Weights, clock: Clock) -> SessionShares:
    return SessionShares(learnt, max_weight=LARGEST, period=PERIOD, clock=clock)


def event(session_id: str, item_id: str, weight: float = 1) -> AppliedEvent:
    return AppliedEvent(session_id, item_id, "view", weight, int(NOON_S * 1000), None, None, None, ())


def test_a_session_adds_at_most_the_largest_weight_to_an_item(bounded: SessionShares, learnt: Weights) -> None:
    bounded.applied([event("s", "a", 3), event("s", "b"), event("s", "a", 3), event("s", "a", 3)])
    bounded.applied([event("s", "a", 5), event("s", "b")])
    assert learnt.of == {"a": 5, "b": 2}
    bounded.applied([event("t", "a", 5)])
    assert learnt.of == {"a": 10, "b": 2}


def test_the_share_is_given_again_after_the_period(bounded: SessionShares, learnt: Weights, clock: Clock) -> None:
    for _ in range(3):
        bounded.applied([event("s", "a", 5)] * 3)
        clock.advance(PERIOD / 2)
    assert learnt.of == {"a": 10}


def test_60_events_of_a_session_count_in_a_minute(bounded: SessionShares, learnt: Weights, clock: Clock) -> None:
    bounded.applied([event("s", f"item-{number}") for number in range(1_000)])
    bounded.applied([event("t", "other")])
    assert len(learnt.of) == 61
    clock.advance(timedelta(minutes=1))
    bounded.applied([event("s", f"later-{number}") for number in range(1_000)])
    assert len(learnt.of) == 121


def test_events_without_weight_are_not_learnt_from(bounded: SessionShares, learnt: Weights) -> None:
    bounded.applied([event("s", "a", 0), event("s", "a", -1)] * 100)
    bounded.applied([event("s", "a")])
    assert learnt.of == {"a": 1}


async def test_forgetting_a_session_gives_it_no_new_share(bounded: SessionShares, learnt: Weights) -> None:
    for _ in range(3):
        bounded.applied([event("s", "a", 5)])
        await bounded.forget("s")
    assert learnt.of == {"a": 5}


def test_memory_is_bounded(bounded: SessionShares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MAX_PAIRS", 50)
    for number in range(500):
        bounded.applied([event(f"s-{number}", "a")])
    assert len(bounded._added) == 50


@given(
    st.lists(
        st.tuples(
            st.sampled_from("st"), st.sampled_from("ab"), st.sampled_from([-1, 0, 0.5, 1, 3, 5]), st.integers(0, 3)
        ),
        max_size=30,
    )
)
def test_no_share_is_exceeded(steps: list[tuple[str, str, float, int]]) -> None:
    clock, learnt = Clock(), Weights()
    bounded = SessionShares(learnt, max_weight=LARGEST, period=timedelta(hours=3), clock=clock)
    for session_id, item_id, weight, _ in steps:
        bounded.applied([event(session_id, item_id, weight)])
    sent = {
        (session_id, item_id): sum(max(0, each[2]) for each in steps if each[:2] == (session_id, item_id))
        for session_id in "st"
        for item_id in "ab"
    }
    for item_id in "ab":
        expected = sum(min(LARGEST, sent[session_id, item_id]) for session_id in "st")
        assert learnt.of.get(item_id, 0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "largest"), [("", 5), ("share=20", 20), ("purchase=0.5,view=0,cart=0,like=0", 1), ("skip=-1000", 5)]
)
def test_the_largest_weight_is_that_of_the_deployment(weights: str, largest: float) -> None:
    assert EventWeights.parse(weights).largest == largest


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_a_thousand_purchases_in_one_request_do_not_make_an_item_first(bundles: Path, valkey: str, kind: str) -> None:
    Redis.from_url(valkey).flushall()  # of what other tests made popular
    with opened(bundles, IN_MEMORY if kind == "memory" else valkey, **UNHURRIED) as client:
        many = [{"session_id": "spam", "item_id": "item-40", "type": "purchase"}] * 1_000
        assert client.post("/v1/events", json={"events": many}).json()["applied"] == 1_000
        honest = [{"session_id": f"visitor-{number}", "item_id": "item-41", "type": "purchase"} for number in range(20)]
        assert client.post("/v1/events", json={"events": honest}).json()["applied"] == 20
        wait_until(lambda: ids(get(client, "/v1/items:popular", k=1)) == ["item-41"])
        assert "item-40" not in ids(get(client, "/v1/items:popular", k=10))
