"""A batch of queries takes one call of the store, and each query fails or succeeds alone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from onward.bundle import Bundle, Catalog
from onward.service import telemetry
from onward.service.errors import SessionBehind
from onward.service.recommend import pipeline as pipeline_module
from onward.service.recommend.options import RecommendationOptions
from onward.service.recommend.pipeline import POSITION_INTERVAL_S, Pipeline, retrieve_batch
from onward.service.recommend.query import Query, Recommendation
from onward.service.records.answers import Answer
from onward.service.sessions import (
    EventQueue,
    EventRules,
    InMemorySessionStore,
    Position,
    Session,
    SessionAppend,
    SessionStore,
)
from tests.bundles import item_ids, publish_bundle
from tests.service.records.answer_ids import ANSWER_IDS
from tests.service.sessions.stores import open_store, stored_items, view

OPTIONS = RecommendationOptions(k=5)


class CountingStore(InMemorySessionStore):
    """Counts the calls."""

    calls = 0

    async def append_all(self, appends: Sequence[SessionAppend]) -> list[Session | Any]:
        self.calls += 1
        return await super().append_all(appends)


class HangingStore(InMemorySessionStore):
    """Answers no call before the given number of appends has come."""

    def __init__(self, appends: int) -> None:
        super().__init__(length=50, ttl=timedelta(minutes=1))
        self._missing = appends
        self._all_came = asyncio.Event()

    async def append_all(self, appends: Sequence[SessionAppend]) -> list[Session | Any]:
        self._missing -= len(appends)
        if self._missing <= 0:
            self._all_came.set()
        await self._all_came.wait()
        return await super().append_all(appends)


class Records:
    """Records every answer except those of a session named `faulty`."""

    answers = None
    answer_ids = ANSWER_IDS
    popularity = SimpleNamespace(scores=MappingProxyType({}))

    def __init__(self) -> None:
        self.served_to: list[str | None] = []
        self.has_served = asyncio.Event()

    def served(self, _answer: Answer, _catalog: Catalog, *, session_id: str | None, generation: str | None) -> None:
        assert generation is None or session_id is None
        if session_id == "faulty":
            raise OSError("not recorded")
        self.served_to.append(session_id)
        self.has_served.set()


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


def pipeline_of(
    bundle: Bundle,
    store: SessionStore,
    records: Records,
    max_position_wait: timedelta = timedelta(seconds=10),
    timeout: timedelta = timedelta(minutes=1),
) -> Pipeline:
    live, scenarios, listener, rules = SimpleNamespace(bundle=bundle), SimpleNamespace(), EventQueue(), EventRules()
    return Pipeline(
        live,  # type: ignore[arg-type]  # here and below: what the pipeline uses of each
        store,
        scenarios,  # type: ignore[arg-type]
        records,  # type: ignore[arg-type]
        listener,
        rules,
        max_position_wait,
        timeout,
        lambda: 1_700_000_000.0,
    )


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


class TestDeadlines:
    """Queries that are answered with what is known when their time is over."""

    async def test_without_the_session_in_time_the_callers_items_are_used_and_the_append_goes_on(
        self, bundle: Bundle, records: Records
    ) -> None:
        store = HangingStore(2)
        pipeline = pipeline_of(bundle, store, records)
        late = await pipeline.recommend(Query("one", ["a1"], timeout_s=0.02))
        assert late.degraded == ("deadline",)
        assert late.answer.session_items == ("a1",)
        assert {item.source for item in late.answer.items} <= {"similar", "popular"}
        assert late.answer.items.item_ids
        assert late.position is None
        other = await pipeline.recommend(Query("two", ["a2"]))
        assert other.degraded == ()
        assert await stored_items(store, "one") == ["a1"]
        assert records.served_to == ["one", "two"]

    async def test_the_items_of_a_late_answer_are_stored_once_the_session_has_reached_its_position(
        self, bundle: Bundle, records: Records
    ) -> None:
        store = CountingStore(length=50, ttl=timedelta(minutes=1))
        position = (await store.append("one", [view("a1")])).position
        generation, _, count = position.rpartition("-")
        query = Query("one", ["a3"], position=f"{generation}-{int(count) + 1}", timeout_s=0.02)
        late = await pipeline_of(bundle, store, records).recommend(query)
        assert late.degraded == ("deadline",)
        await asyncio.sleep(10 * POSITION_INTERVAL_S)
        await store.append("one", [view("a2")])
        for _ in range(500):
            if len(items := await stored_items(store, "one")) == 3:
                break
            await asyncio.sleep(0.01)
        assert items == ["a1", "a2", "a3"]
        assert records.served_to == ["one"]

    async def test_a_long_retrieval_is_not_waited_for_beyond_the_deadline_nor_recorded_twice(
        self, bundle: Bundle, store: CountingStore, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may_go_on = threading.Event()

        def slow(*arguments: Any) -> Any:
            may_go_on.wait(30)
            return retrieve_batch(*arguments)

        monkeypatch.setattr(pipeline_module, "is_short", lambda *_, **__: False)
        monkeypatch.setattr(pipeline_module, "retrieve_batch", slow)
        pipeline = pipeline_of(bundle, store, records)
        await store.append("one", [view("a1")])
        queries = [Query("one", ["a2"], timeout_s=0.02), Query("one", ["a3"], timeout_s=60)]
        late, patient = (asyncio.create_task(pipeline.recommend(query)) for query in queries)
        assert (await late).degraded == ("deadline",)
        assert (await late).answer.session_items == ("a1", "a2")
        may_go_on.set()
        assert (await patient).degraded == ()
        assert {item.source for item in (await patient).answer.items} == {"encoder"}
        await asyncio.sleep(0.01)
        assert records.served_to == ["one", "one"]

    async def test_each_query_of_a_request_has_its_own(self, bundle: Bundle, records: Records) -> None:
        pipeline = pipeline_of(bundle, HangingStore(99), records, timeout=timedelta(milliseconds=40))
        queries = [Query("one", ["a1"], timeout_s=0.001), Query("two", ["a2"]), Query(items=["a3"])]
        results = await pipeline.recommend_all(queries)
        assert [result.degraded for result in results if isinstance(result, Recommendation)] == [("deadline",)] * 3

    async def test_queries_of_one_request_are_stored_in_order_although_the_first_one_is_answered_late(
        self, bundle: Bundle, records: Records
    ) -> None:
        store = CountingStore(length=50, ttl=timedelta(minutes=1))
        generation, _, count = (await store.append("one", [view("a1")])).position.rpartition("-")
        behind = f"{generation}-{int(count) + 1}"
        pipeline = pipeline_of(bundle, store, records)
        queries = [Query("one", ["a3"], position=behind, timeout_s=0.02), Query("one", ["a4"], timeout_s=0.02)]
        results = await pipeline.recommend_all(queries)
        assert [result.degraded for result in results if isinstance(result, Recommendation)] == [("deadline",)] * 2
        assert await stored_items(store, "one") == ["a1"]
        await store.append("one", [view("a2")])
        for _ in range(500):
            if len(items := await stored_items(store, "one")) == 4:
                break
            await asyncio.sleep(0.01)
        assert items == ["a1", "a2", "a3", "a4"]

    async def test_time_before_the_query_counts(self, bundle: Bundle, records: Records) -> None:
        pipeline = pipeline_of(bundle, HangingStore(99), records)
        late = await pipeline.recommend(Query("one", ["a1"], timeout_s=60, age_s=61))
        assert late.degraded == ("deadline",)

    async def test_what_must_not_be_shown_is_not(self, bundle: Bundle, records: Records) -> None:
        pipeline = pipeline_of(bundle, HangingStore(99), records)
        options = RecommendationOptions(k=30, exclude_seen=True)
        query = Query("one", ["a1", "a2"], exclude=["a3"], options=options, timeout_s=0.001)
        late = await pipeline.recommend(query)
        assert set(late.answer.items.item_ids) == set(item_ids("a", 30)) - {"a1", "a2", "a3"}


class TestPositions:
    """Queries whose session must have reached a position."""

    @pytest.fixture(params=["memory", "redis"])
    async def store(self, request: pytest.FixtureRequest, valkey: str) -> AsyncIterator[SessionStore]:
        store = open_store(request.param, valkey, length=50)
        yield store
        await store.close()

    @pytest.fixture
    def session_id(self) -> str:
        return f"session-{uuid4()}"

    async def test_a_query_waits_for_its_position_and_no_other_of_its_batch_does(
        self, bundle: Bundle, store: SessionStore, records: Records, session_id: str
    ) -> None:
        pipeline = pipeline_of(bundle, store, records)
        first = (await store.append(session_id, [view("a1")])).position
        behind, other, later = (
            asyncio.create_task(pipeline.recommend(query))
            for query in (
                Query(session_id, ["a5"], position=after(first, 3)),
                Query(f"{session_id}-other", ["a4"]),
                Query(session_id, ["a2"]),
            )
        )
        assert (await other).answer.session_items == ("a4",)
        assert (await later).answer.session_items == ("a1", "a2")
        assert not behind.done()
        await store.append(session_id, [view("a3"), view("a4")])
        recommendation = await behind
        assert recommendation.answer.session_items == ("a1", "a2", "a3", "a4", "a5")
        assert recommendation.position == after(first, 4)
        assert recommendation.store_s >= pipeline_module.POSITION_INTERVAL_S
        assert records.served_to == [f"{session_id}-other", session_id, session_id]

    async def test_a_position_that_does_not_come_is_waited_for_up_to_the_limit(
        self, bundle: Bundle, store: SessionStore, records: Records, session_id: str
    ) -> None:
        pipeline = pipeline_of(bundle, store, records, max_position_wait=timedelta(milliseconds=20))
        first = (await store.append(session_id, [view("a1")])).position
        with pytest.raises(SessionBehind):
            await pipeline.recommend(Query(session_id, ["a2"], position=after(first, 1)))
        assert await stored_items(store, session_id) == ["a1"]

    @pytest.mark.parametrize("position", ["abc-1", "0-1", "-1", "no position", ""])
    async def test_a_position_that_cannot_come_is_not_waited_for(
        self, bundle: Bundle, store: SessionStore, records: Records, session_id: str, position: str
    ) -> None:
        pipeline = pipeline_of(bundle, store, records, max_position_wait=timedelta(hours=1))
        await store.append(session_id, [view("a1")])
        for name in (session_id, f"{session_id}-unknown"):
            with pytest.raises(SessionBehind):
                await pipeline.recommend(Query(name, ["a2"], position=position))

    async def test_a_caller_who_left_is_not_waited_for(
        self, bundle: Bundle, store: SessionStore, records: Records, session_id: str
    ) -> None:
        pipeline = pipeline_of(bundle, store, records)
        first = (await store.append(session_id, [view("a1")])).position
        behind = asyncio.create_task(pipeline.recommend(Query(session_id, ["a3"], position=after(first, 1))))
        await asyncio.sleep(2 * pipeline_module.POSITION_INTERVAL_S)
        behind.cancel()
        await asyncio.sleep(4 * pipeline_module.POSITION_INTERVAL_S)
        await store.append(session_id, [view("a2")])
        await asyncio.sleep(4 * pipeline_module.POSITION_INTERVAL_S)
        assert await stored_items(store, session_id) == ["a1", "a2"]

    async def test_later_queries_of_a_session_wait_for_one_with_a_position_and_those_of_others_do_not(
        self, bundle: Bundle, store: SessionStore, records: Records, session_id: str
    ) -> None:
        first = (await store.append(session_id, [view("a1")])).position
        other = f"{session_id}-other"
        queries = [
            Query(session_id, ["a2"]),
            Query(session_id, ["a4"], position=after(first, 2)),
            Query(session_id, ["a5"]),
            Query(other, ["a6"]),
            Query(session_id, ["a7"]),
            Query(session_id, ["a8"], position=after(first, 5)),
            Query(session_id, ["a9"], position="ended-1"),
            Query(session_id, ["a10"]),
        ]
        answering = asyncio.create_task(pipeline_of(bundle, store, records).recommend_all(queries))
        await records.has_served.wait()
        assert await stored_items(store, session_id) == ["a1", "a2"]
        await store.append(session_id, [view("a3")])
        results = await answering
        viewed = [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5], [6], [1, 2, 3, 4, 5, 7], [1, 2, 3, 4, 5, 7, 8]]
        viewed.append([1, 2, 3, 4, 5, 7, 8, 10])
        assert isinstance(results.pop(6), SessionBehind)
        assert [result.answer.session_items for result in results if isinstance(result, Recommendation)] == [
            tuple(f"a{number}" for number in numbers) for numbers in viewed
        ]
        assert records.served_to == [session_id, other, *[session_id] * 5]


async def test_queries_wait_for_earlier_ones_of_their_session_up_to_a_limit(
    bundle: Bundle, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "MAX_ORDER_WAIT_S", 0.05)
    queries = [Query("one", [f"a{number}"], position="0-0") for number in range(1, 6)]
    pipeline = pipeline_of(bundle, HangingStore(len(queries)), records, max_position_wait=timedelta(0))
    async with asyncio.timeout(10):
        results = await pipeline.recommend_all(queries)
    assert all(isinstance(result, Recommendation) for result in results)


async def test_queries_wait_as_long_as_an_earlier_one_of_their_session_may_wait_for_its_position(
    bundle: Bundle, store: CountingStore, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "MAX_ORDER_WAIT_S", 0.0)
    position = (await store.append("one", [view("a1")])).position
    queries = [Query("one", ["a3"], position=after(position, 1)), Query("one", ["a4"])]
    answering = asyncio.create_task(pipeline_of(bundle, store, records).recommend_all(queries))
    await asyncio.sleep(4 * POSITION_INTERVAL_S)
    await store.append("one", [view("a2")])
    await answering
    assert await stored_items(store, "one") == ["a1", "a2", "a3", "a4"]


def after(position: str, events: int) -> str:
    """Return the position of a session after more events."""
    generation, number = Position.parse(position)
    return str(Position(generation, number + events))
