"""Recorded answers and events reach every store, and a failing store does not stop the service."""

import asyncio
import itertools
import json
import time
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from onward.bundle import RetrievedItem, RetrievedItems
from onward.service.records.answer_stores import InMemoryAnswerStore
from onward.service.records.answers import Answer, page_id
from onward.service.records.recorder import Recorder, open_recorder
from onward.service.redis_client import connect
from onward.service.sessions import AppliedEvent, RedisSessionStore, session_digest
from onward.service.settings import IN_MEMORY, Settings
from tests.service.records.catalogs import CATALOG, DIGEST, LetterBundles

HOUR = timedelta(hours=1)
NOW_MS = int(time.time() * 1000)

numbers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest, valkey: str) -> str:
    return IN_MEMORY if request.param == "memory" else valkey


def settings(folder: Path, url: str, **options: Any) -> Settings:
    return Settings(bundles=folder, redis_url=SecretStr(url), event_log=folder, **options)


def opened(of: Settings) -> AbstractAsyncContextManager[Recorder]:
    url = "" if of.redis_url is None else of.redis_url.get_secret_value()
    redis = None if url == IN_MEMORY else connect(url)
    return open_recorder(of, redis, LetterBundles(), InMemoryAnswerStore(ttl=of.answer_ttl))


def answer(recorder: Recorder, session_id: str | None) -> Answer:
    (answer_id,) = recorder.answer_ids.new([session_id])
    items = RetrievedItems.of([RetrievedItem("a", 1.0, "encoder", 0), RetrievedItem("b", 0.5, "encoder", 0)])
    return Answer(answer_id, NOW_MS, DIGEST, items, scenario=f"scenario-{next(numbers)}")


def view(item_id: str, answer_id: str) -> AppliedEvent:
    return AppliedEvent("visitor", item_id, "view", 1.0, NOW_MS, None, None, answer_id, [item_id])


def logged(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for file in folder.glob(f"{kind}*.jsonl") for line in file.read_text().splitlines()]


async def outcome(recorder: Recorder, scenario: str | None) -> tuple[int, dict[str, int]]:
    report = await recorder.metrics.report(HOUR, ["scenario"])
    counts = report.outcomes[scenario or "",]
    return counts.answers, dict(counts.events)


async def test_answers_and_events_are_recorded_everywhere(tmp_path: Path, url: str) -> None:
    async with opened(settings(tmp_path, url)) as recorder:
        served = answer(recorder, None)
        recorder.served(served, CATALOG)
        assert recorder.answers is not None
        assert await recorder.answers.get(served.id) == served  # written by the periodic flush
        events = [view("a", served.id), view("b", served.id), view("c", served.id)]
        recorder.applied(events)
        recorder.popularity.applied(events)
        await recorder.flush_counts()
        await recorder.flush_popularity()
        assert await outcome(recorder, served.scenario) == (1, {"view": 2})
        assert recorder.popularity.scores["a"] > 0
    assert [line["item_id"] for line in logged(tmp_path, "events")] == ["a", "b", "c"]
    assert [line["recommendation_id"] for line in logged(tmp_path, "answers")] == [served.id]


async def test_a_next_page_is_counted_and_logged_but_not_stored_again(tmp_path: Path, url: str) -> None:
    async with opened(settings(tmp_path, url)) as recorder:
        first = answer(recorder, None)
        page = Answer(page_id(first.id, 1), NOW_MS, DIGEST, RetrievedItems(), scenario=first.scenario, root_id=first.id)
        recorder.served(first, CATALOG)
        await recorder.flush_answers()
        assert recorder.answers is not None
        assert await recorder.answers.claim_next(first.id, 1, page, CATALOG)
        recorder.served_page(page, CATALOG)
        await recorder.flush_counts()
        assert await recorder.answers.pages(first.id) == [first, page]
        assert await outcome(recorder, first.scenario) == (2, {})


async def test_queued_records_are_written_when_the_service_ends(tmp_path: Path, valkey: str) -> None:
    store = RedisSessionStore.connect(valkey, length=5, ttl=HOUR, timeout=HOUR)
    session = await store.append("visitor", (), keeps_answer=True)
    await store.close()
    async with Redis.from_url(valkey) as redis:
        async with opened(settings(tmp_path, valkey)) as recorder:
            served = answer(recorder, "visitor")
            recorder.served(served, CATALOG, session_id="visitor", generation=session.answer_generation)
            recorder.applied([view("a", served.id)])
        assert await redis.hlen(f"onward:session:{{{session_digest('visitor')}}}:served") >= 2
    async with opened(settings(tmp_path, valkey)) as recorder:
        assert await outcome(recorder, served.scenario) == (1, {"view": 1})
    assert len(logged(tmp_path, "events")) == 1


async def test_an_answer_without_a_generation_is_counted_but_not_stored(tmp_path: Path, url: str) -> None:
    async with opened(settings(tmp_path, url)) as recorder:
        served = answer(recorder, "visitor")
        recorder.served(served, CATALOG, session_id="visitor", generation=None)
        await recorder.flush_answers()
        await recorder.flush_counts()
        assert recorder.answers is not None
        assert await recorder.answers.get(served.id) is None
        assert await outcome(recorder, served.scenario) == (1, {})


async def test_a_deployment_can_do_without_answers_and_event_log(tmp_path: Path, url: str) -> None:
    minimal = Settings(bundles=tmp_path, redis_url=SecretStr(url), answer_ttl=timedelta(0))
    async with opened(minimal) as recorder:
        assert recorder.answers is None
        served = answer(recorder, None)
        recorder.served(served, CATALOG)
        recorder.applied([view("a", served.id)])
        await recorder.forget("visitor")
        await recorder.flush_counts()
        assert await outcome(recorder, served.scenario) == (1, {})
    assert not logged(tmp_path, "")


async def test_the_recorder_runs_and_ends_while_the_store_is_down(tmp_path: Path) -> None:
    async with asyncio.timeout(20), opened(settings(tmp_path, f"unix://{tmp_path}/nobody")) as recorder:
        recorder.served(answer(recorder, None), CATALOG)
        recorder.applied([view("a", "?")])
        await recorder.flush_answers()
        await recorder.flush_counts()
        await recorder.flush_popularity()
        assert recorder.popularity.scores == {}
    assert len(logged(tmp_path, "")) == 2
