"""A batch of queries takes one call of the store, and each query fails or succeeds alone."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from onward.bundle import Bundle
from onward.service import telemetry
from onward.service.errors import SessionBehind
from onward.service.recommend import pipeline as pipeline_module
from onward.service.recommend.options import RecommendationOptions
from onward.service.recommend.pipeline import Pipeline
from onward.service.recommend.query import Query, Recommendation
from onward.service.records.answers import Answer
from onward.service.sessions import EventQueue, EventRules, InMemorySessionStore, Session, SessionAppend
from tests.bundles import item_ids, publish_bundle

OPTIONS = RecommendationOptions(k=5)


class CountingStore(InMemorySessionStore):
    """Counts the calls."""

    calls = 0

    async def append_all(self, appends: Sequence[SessionAppend]) -> list[Session | Any]:
        self.calls += 1
        return await super().append_all(appends)


class WaitingStore(InMemorySessionStore):
    """Takes a while to find that a session has reached a position, as a store that fails over does."""

    async def append_all(self, appends: Sequence[SessionAppend]) -> list[Session | Any]:
        if any(append.at_least is not None for append in appends):
            await asyncio.sleep(0.02)
        return await super().append_all(appends)


class HangingStore(InMemorySessionStore):
    """Answers no call before all that a test makes have come."""

    calls: asyncio.Barrier

    async def append_all(self, appends: Sequence[SessionAppend]) -> list[Session | Any]:
        await self.calls.wait()
        return await super().append_all(appends)


class Records:
    """Records every answer except those of a session named `faulty`."""

    answers = None
    popularity = SimpleNamespace(scores=MappingProxyType({}))

    def __init__(self) -> None:
        self.served_to: list[str | None] = []

    def served(self, _answer: Answer, *, session_id: str | None, reserved: bool) -> None:
        assert not reserved
        if session_id == "faulty":
            raise OSError("not recorded")
        self.served_to.append(session_id)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    publish_bundle(tmp_path, item_ids("a", 30))
    return Bundle.load(tmp_path / "current")


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(length=50, ttl=timedelta(minutes=1))


def pipeline_of(bundle: Bundle, store: InMemorySessionStore, records: Records) -> Pipeline:
    parts = SimpleNamespace(bundle=bundle), store, SimpleNamespace(), records, EventQueue(), EventRules()
    return Pipeline(*parts, lambda: 1_700_000_000.0)  # type: ignore[arg-type]  # only what the pipeline uses of each


async def answered(
    bundle: Bundle, store: CountingStore, records: Records, *queries: Query
) -> list[Recommendation | BaseException]:
    pipeline = pipeline_of(bundle, store, records)
    recommending = (pipeline.recommend(query._replace(options=OPTIONS)) for query in queries)
    return await asyncio.gather(*recommending, return_exceptions=True)


async def test_a_batch_takes_one_call_of_the_store_and_answers_each_query_as_alone(
    bundle: Bundle, store: CountingStore, records: Records
) -> None:
    queries = [
        Query("one", ["a1"]),
        Query("two", ["a2", "a3"]),
        Query(items=["a4"]),
        Query("one", ["a5"]),
        Query("three", ["a6"], store=False),
    ]
    results = await answered(bundle, store, records, *queries)
    assert store.calls == 1
    assert records.served_to == ["one", "two", None, "one"]
    viewed = [["a1"], ["a2", "a3"], ["a4"], ["a1", "a5"], ["a6"]]
    for items, result in zip(viewed, results, strict=True):
        (alone,) = await answered(bundle, store, records, Query(items=items))
        assert isinstance(result, Recommendation)
        assert isinstance(alone, Recommendation)
        assert result.answer.session_items == tuple(items)
        assert result.answer.items.item_ids == alone.answer.items.item_ids
    assert (await store.append("three", ())).item_ids == []


async def test_a_failing_query_does_not_affect_the_others(
    bundle: Bundle, store: CountingStore, records: Records
) -> None:
    queries = [Query("one", ["a1"]), Query("faulty", ["a2"]), Query("two", ["a3"], position="x-9"), Query("three")]
    results = await answered(bundle, store, records, *queries)
    assert [type(result) for result in results] == [Recommendation, OSError, SessionBehind, Recommendation]
    assert records.served_to == ["one", "three"]


async def test_a_long_retrieval_does_not_delay_the_others(
    bundle: Bundle, store: CountingStore, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "is_short", lambda _bundle, _options, hidden: hidden < 2)
    counts: list[int] = []
    monkeypatch.setattr(telemetry, "retrieved", lambda sources, *_: counts.append(len(list(sources))))
    results = await answered(
        bundle, store, records, Query("long", ["a1", "a4"]), Query("one", ["a2"]), Query("two", ["a3"])
    )
    assert all(isinstance(result, Recommendation) for result in results)
    assert records.served_to == ["one", "two", "long"]
    assert counts == [10, 5]


async def test_later_queries_of_a_session_wait_for_one_with_a_position_and_those_of_others_do_not(
    bundle: Bundle, records: Records
) -> None:
    store = WaitingStore(length=50, ttl=timedelta(minutes=1))
    queries = [
        Query("one", ["a1"]),
        Query("one", ["a2"], position="0-0"),
        Query("one", ["a3"]),
        Query("two", ["a4"]),
        Query("one", ["a5"]),
        Query("one", ["a6"], position="0-0"),
    ]
    results = await pipeline_of(bundle, store, records).recommend_all(queries)
    viewed = [[f"a{number}" for number in numbers] for numbers in ([1], [1, 2], [1, 2, 3], [4], [1, 2, 3, 5])]
    viewed.append(["a1", "a2", "a3", "a5", "a6"])
    assert [list(result.answer.session_items) for result in results if isinstance(result, Recommendation)] == viewed
    assert records.served_to == ["one", "two", "one", "one", "one", "one"]


async def test_queries_wait_for_earlier_ones_of_their_session_up_to_a_limit(
    bundle: Bundle, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "MAX_ORDER_WAIT_S", 0.05)
    store = HangingStore(length=50, ttl=timedelta(minutes=1))
    queries = [Query("one", [f"a{number}"], position="0-0") for number in range(1, 6)]
    store.calls = asyncio.Barrier(len(queries))
    async with asyncio.timeout(10):
        results = await pipeline_of(bundle, store, records).recommend_all(queries)
    assert all(isinstance(result, Recommendation) for result in results)
