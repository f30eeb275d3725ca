"""Served answers can be read until they expire, pages are added once, and events are attributed once."""

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from onward.bundle import RetrievedItem, RetrievedItems
from onward.bundle.search.retrieval import RankingDetails
from onward.service import telemetry
from onward.service.errors import SessionStoreUnavailable
from onward.service.records.answer_stores import InMemoryAnswerStore, RedisAnswerStore
from onward.service.records.answers import (
    MAX_WAITING,
    Answer,
    AnswerLog,
    AnswerOrigin,
    AnswerStore,
    AttributionClaim,
    new_page_id,
    nonce_of,
    owner_of,
)
from onward.service.redis_client import RedisClient
from tests.service.clock import NOON_S, Clock
from tests.service.records.answer_ids import new_answer_id

TTL = timedelta(minutes=30)

numbers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, calls: RedisClient, clock: Clock) -> AnswerStore:
    if request.param == "memory":
        return InMemoryAnswerStore(ttl=TTL, clock=clock)
    return RedisAnswerStore(calls, ttl=TTL, clock=clock)


@pytest.fixture
def log(store: AnswerStore) -> AnswerLog:
    return AnswerLog(store)


@pytest.fixture
def session_id() -> str:
    return f"visitor-{next(numbers)}"


def answer(answer_id: str, items: str = "abc", **fields: Any) -> Answer:
    retrieved = RetrievedItems.of(RetrievedItem(item, 0.1 * rank, "encoder", 0) for rank, item in enumerate(items))
    return Answer(answer_id, int(NOON_S * 1000), "digest", retrieved, **fields)


EVERY_FIELD = Answer(
    "a" * 48,
    int(NOON_S * 1000),
    "digest",
    RetrievedItems(
        ("x", '"'),
        (0.1, 2.0),
        ("encoder", "pinned"),
        (3, None),
        (RankingDetails(0.1, 0.5, 2), RankingDetails(0.0, 0.0, None)),
    ),
    session_items=("y", "日本"),
    purchased=("y",),
    hidden=("z",),
    user_id="u",
    options={"k": 2, "filter": {"attribute": "price", "range": {"max": 3}}},
    changes_version=7,
    scenario="home",
    scenario_version=1,
    variant="b",
    root_id="b" * 48,
    shown_before=("w",),
)


@pytest.mark.parametrize(
    "original", [EVERY_FIELD, answer("c" * 48), answer("d" * 48, items="")], ids=["every field", "plain", "no items"]
)
def test_json_of_an_answer_round_trips(original: Answer) -> None:
    adapter = TypeAdapter(Answer)
    assert adapter.validate_json(original.json()) == original
    plain = json.loads(adapter.dump_json(original, exclude_defaults=True))
    assert {name: value for name, value in json.loads(original.json()).items() if name != "items"} == {
        name: value for name, value in plain.items() if name != "items"
    }
    assert None not in [getattr(EVERY_FIELD, field.name) or None for field in dataclass_fields(Answer)]


def test_a_column_of_equal_values_is_written_as_one_value() -> None:
    equal, mixed = (json.loads(made.json())["items"] for made in (answer("c" * 48), EVERY_FIELD))
    assert (equal["sources"], equal["interests"]) == ("encoder", 0)
    assert (mixed["sources"], mixed["interests"]) == (["encoder", "pinned"], [3, None])


@pytest.mark.parametrize(
    "items", [[], "abc", {"item_ids": "abc", "scores": 1}, {"item_ids": ["a"], "scores": [1], "sources": "none"}]
)
def test_malformed_items_are_a_validation_error(items: Any) -> None:
    foreign = {"id": "a" * 48, "made_ms": 1, "bundle": "digest", "items": items}
    with pytest.raises(ValidationError):
        TypeAdapter(Answer).validate_json(json.dumps(foreign))


async def serve(log: AnswerLog, redis: "Redis", session_id: str | None, items: str = "abc", **fields: Any) -> Answer:
    """Do what the service does for each answer: the session reserves a place, the answer is written to it."""
    made = answer(new_answer_id(session_id), items, **fields)
    if session_id is not None:
        await reserve(redis, made.id)
    log.add(made, reserved=session_id is not None)
    await log.flush()
    return made


async def reserve(redis: "Redis", answer_id: str) -> None:
    await redis.rpush(key(answer_id), nonce_of(answer_id))


def key(answer_id: str) -> str:
    return f"onward:session:{{{owner_of(answer_id)}}}:answers"


OPTIONAL_FIELDS: dict[str, Any] = {
    "session_items": ("ítem|{1}:*", "b"),
    "purchased": ("b",),
    "hidden": ("c",),
    "user_id": "user-7",
    "options": {"k": 3, "filter": {"attribute": "price", "range": {"max": 0.1}}},
    "changes_version": 12,
    "scenario": "home",
    "scenario_version": 4,
    "variant": "b",
}


@pytest.mark.parametrize("has_session", [True, False])
async def test_an_answer_is_read_as_it_was_written(
    log: AnswerLog, redis: "Redis", session_id: str, *, has_session: bool
) -> None:
    plain = await serve(log, redis, session_id if has_session else None)
    full = await serve(log, redis, session_id if has_session else None, **OPTIONAL_FIELDS)
    assert await log.get(plain.id) == plain
    assert await log.get(full.id) == full


async def test_an_unknown_id_has_no_answer(log: AnswerLog, session_id: str) -> None:
    for unknown in (new_answer_id(session_id), new_answer_id(None), "x", "é" * 48, ""):
        assert await log.get(unknown) is None


async def test_a_reader_waits_a_moment_for_an_answer(log: AnswerLog, redis: "Redis", session_id: str) -> None:
    made = answer(new_answer_id(session_id))
    await reserve(redis, made.id)
    log.add(made, reserved=True)
    reading = asyncio.create_task(log.get(made.id))
    await asyncio.sleep(0.03)
    await log.flush()
    assert await reading == made


async def test_an_answer_expires_after_its_time_to_live(
    log: AnswerLog, redis: "Redis", session_id: str, clock: Clock
) -> None:
    made = await serve(log, redis, session_id)
    clock.now_s += TTL.total_seconds()
    assert await log.get(made.id) == made
    clock.now_s += 1
    assert await log.get(made.id) is None
    assert await log.attribute([AttributionClaim(made.id, "a", "view")]) == [None]


async def test_forgetting_a_session_deletes_its_answers_only(log: AnswerLog, redis: "Redis", session_id: str) -> None:
    made, other = await serve(log, redis, session_id), await serve(log, redis, session_id + "'")
    waiting = answer(new_answer_id(session_id))
    await reserve(redis, waiting.id)
    log.add(waiting, reserved=True)
    await log.forget(session_id)
    await log.flush()
    assert await log.get(made.id) is None
    assert await log.get(waiting.id) is None
    assert await log.get(other.id) == other


async def test_pages_are_read_in_order_by_the_id_of_any(log: AnswerLog, redis: "Redis", session_id: str) -> None:
    first = await serve(log, redis, session_id, "ab")
    other = await serve(log, redis, session_id, "yz")
    pages = [first]
    for items in ("cd", "ef"):
        page = answer(new_page_id(first.id), items, root_id=first.id)
        assert await log.claim_next(first.id, len(pages), page)
        pages.append(page)
    for page, before in zip(pages, ("", "ab", "abcd"), strict=True):
        assert await log.pages(page.id) == pages
        assert await log.get(page.id) == replace(page, shown_before=tuple(before))
    assert await log.pages(other.id) == [other]


@pytest.mark.parametrize("has_session", [True, False])
async def test_one_of_several_concurrent_callers_adds_a_page(
    log: AnswerLog, redis: "Redis", session_id: str, *, has_session: bool
) -> None:
    first = await serve(log, redis, session_id if has_session else None)

    async def add_page(caller: int) -> bool:
        page = answer(new_page_id(first.id), str(caller), root_id=first.id)
        return await log.claim_next(first.id, 1, page)

    assert sum(await asyncio.gather(*map(add_page, range(8)))) == 1
    assert len(await log.pages(first.id)) == 2


async def test_a_missing_answer_gets_no_next_page(log: AnswerLog, session_id: str) -> None:
    root_id = new_answer_id(session_id)
    page = answer(new_page_id(root_id), root_id=root_id)
    assert not await log.claim_next(root_id, 1, page)
    assert not await log.claim_next(root_id, 0, page)


async def test_an_answer_is_kept_with_any_number_of_pages(log: AnswerLog, redis: "Redis", session_id: str) -> None:
    first = await serve(log, redis, session_id)
    for pages in range(1, 60):
        page = answer(new_page_id(first.id), str(pages), root_id=first.id)
        assert await log.claim_next(first.id, pages, page)
    assert len(await log.pages(first.id)) == 60


async def test_an_event_is_attributed_once_for_each_answer_item_and_type(
    log: AnswerLog, redis: "Redis", session_id: str
) -> None:
    shown = await serve(log, redis, session_id, scenario="home", variant="b")
    plain = await serve(log, redis, None)
    home = AnswerOrigin("home", "digest", "b")
    claims = {
        AttributionClaim(shown.id, "a", "view"): home,
        AttributionClaim(shown.id, "a", "purchase"): home,
        AttributionClaim(shown.id, "b", "view"): home,
        AttributionClaim(shown.id, "home", "view"): None,
        AttributionClaim(new_answer_id(session_id), "a", "view"): None,
        AttributionClaim("no-answer", "a", "view"): None,
        AttributionClaim(plain.id, "c", "view"): AnswerOrigin("", "digest", ""),
    }
    twice = [claim for claim in claims for _ in range(2)]
    assert await log.attribute(twice) == [origin for expected in claims.values() for origin in (expected, None)]
    assert await log.attribute(list(claims)) == [None] * len(claims)
    assert await log.get(shown.id) == shown


async def test_answers_beyond_the_queue_limit_are_lost_oldest_first_and_counted(
    log: AnswerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    monkeypatch.setattr(telemetry, "records_lost", lambda what, count: lost.append(count))
    made = [answer(new_answer_id(None)) for _ in range(MAX_WAITING + 2)]
    for queued in made:
        log.add(queued, reserved=False)
    await log.flush()
    assert sum(lost) == 2
    assert await log.get(made[-1].id) == made[-1]
    assert await log.get(made[1].id) is None


class TestInRedis:
    """Properties of the Redis store only."""

    @pytest.fixture
    def store(self, calls: RedisClient) -> RedisAnswerStore:
        return RedisAnswerStore(calls, ttl=TTL, clock=lambda: NOON_S)

    async def test_an_answer_of_a_deleted_session_is_dropped(
        self, log: AnswerLog, redis: "Redis", session_id: str
    ) -> None:
        gone, later = answer(new_answer_id(session_id)), answer(new_answer_id(session_id))
        await reserve(redis, gone.id)
        log.add(gone, reserved=True)
        await redis.delete(key(gone.id))
        await reserve(redis, later.id)  # the session starts again before the answer is written
        await log.flush()
        assert await redis.lrange(key(gone.id), 0, -1) == [nonce_of(later.id).encode()]

    async def test_an_answer_without_a_session_expires(self, log: AnswerLog, redis: "Redis") -> None:
        made = await serve(log, redis, None)
        assert 0 < await redis.pttl(key(made.id)) <= TTL / timedelta(milliseconds=1)

    async def test_queued_answers_are_written_in_one_round_trip(
        self, log: AnswerLog, redis: "Redis", calls: RedisClient, session_id: str
    ) -> None:
        await calls.execute([("EXISTS", "nothing")])  # opens the connection
        for _ in range(50):
            made = answer(new_answer_id(session_id))
            await reserve(redis, made.id)
            log.add(made, reserved=True)
        before = (await redis.info("stats"))["total_reads_processed"]
        await log.flush()
        after = (await redis.info("stats"))["total_reads_processed"]
        assert after - before <= 5  # input longer than the server's buffer takes several reads

    async def test_the_session_id_is_not_stored(self, log: AnswerLog, redis: "Redis") -> None:
        made = await serve(log, redis, "secret{visitor}")
        assert "secret" not in str(await redis.lrange(key(made.id), 0, -1))

    @pytest.mark.parametrize("foreign", [b"x" * 200, b"", b"0" * 32 + b"{}"])
    async def test_foreign_data_is_ignored(
        self, log: AnswerLog, redis: "Redis", session_id: str, foreign: bytes
    ) -> None:
        await redis.rpush(key(new_answer_id(session_id)), foreign)
        made = await serve(log, redis, session_id)
        assert await log.get(made.id) == made
        assert await log.get(owner_of(made.id) + "0" * 16) is None
        claims = [AttributionClaim(owner_of(made.id) + "0" * 16, "a", "view"), AttributionClaim(made.id, "a", "view")]
        assert await log.attribute(claims) == [None, AnswerOrigin("", "digest", "")]

    async def test_of_a_batch_only_the_refused_answer_is_lost(
        self, log: AnswerLog, redis: "Redis", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost: list[int] = []
        failures: list[BaseException] = []
        monkeypatch.setattr(telemetry, "records_lost", lambda _, count: lost.append(count))
        monkeypatch.setattr(telemetry, "recording_failed", lambda _, error: failures.append(error))
        made = [answer(new_answer_id(None)) for _ in range(5)]
        await redis.set(key(made[1].id), "no list")
        for _ in range(2):
            for each in made:
                log.add(each, reserved=False)
            await log.flush()
        assert lost == [1, 1]
        assert "wrong kind of value" in str(failures[0])
        assert len(failures) == 1
        assert [(await log.pages(each.id))[0] for each in made[:1] + made[2:]] == made[:1] + made[2:]

    async def test_a_failed_write_is_counted_and_logged_once_for_each_outage(
        self, log: AnswerLog, redis: "Redis", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reported: list[str] = []
        note: Callable[[str], Callable[..., None]] = lambda name: lambda *_: reported.append(name)  # noqa: E731  # three of them
        for name in ("records_lost", "recording_failed", "recording_recovered"):
            monkeypatch.setattr(telemetry, name, note(name))
        made = answer(new_answer_id(None))
        await redis.set(key(made.id), "no list")
        for _ in range(2):
            log.add(made, reserved=False)
            await log.flush()
        assert reported == ["records_lost", "recording_failed", "records_lost"]
        with pytest.raises(SessionStoreUnavailable):
            await log.get(made.id)
        await redis.delete(key(made.id))
        log.add(made, reserved=False)
        await log.flush()
        assert reported[3:] == ["recording_recovered"]
        assert await log.get(made.id) == made
