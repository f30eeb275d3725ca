"""Served answers can be read until they expire, pages are added once, and events are attributed once."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from onward.bundle import RetrievedItems, Source
from onward.service import telemetry
from onward.service.errors import SessionStoreUnavailable
from onward.service.records import answer_log
from onward.service.records.answer_log import MAX_WAITING, AnswerLog
from onward.service.records.answer_page import AnswerPage, read_pages
from onward.service.records.answer_stores import AnswerStore, InMemoryAnswerStore, RedisAnswerStore
from onward.service.records.answers import MAX_CLAIMS, Answer, AnswerOrigin, AttributionClaim, page_id
from onward.service.redis_client import RedisClient
from onward.service.sessions import RedisSessionStore, session_digest
from tests.service.clock import NOON_S, Clock
from tests.service.records.answer_ids import ANSWER_IDS, new_answer_id, owner_of
from tests.service.records.catalogs import CATALOG, DIGEST, OTHER_DIGEST, LetterBundles

TTL = timedelta(minutes=30)

numbers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, calls: RedisClient, clock: Clock) -> AnswerStore:
    if request.param == "memory":
        return InMemoryAnswerStore(ttl=TTL, clock=clock)
    return RedisAnswerStore(calls, ttl=TTL)


@pytest.fixture
def bundles() -> LetterBundles:
    return LetterBundles()


@pytest.fixture
def log(store: AnswerStore, bundles: LetterBundles, clock: Clock) -> AnswerLog:
    return AnswerLog(store, bundles, ANSWER_IDS, ttl=TTL, clock=clock)


@pytest.fixture
def session_id() -> str:
    return f"visitor-{next(numbers)}"


def answer(answer_id: str, items: str = "abc", **fields: Any) -> Answer:
    scores = tuple([0.1 * rank for rank in range(len(items))])
    source: Source = "encoder"
    retrieved = RetrievedItems(tuple(items), scores, (source,) * len(items), (0,) * len(items))
    return Answer(answer_id, int(NOON_S * 1000), fields.pop("bundle", DIGEST), retrieved, **fields)


async def generation_of(store: AnswerStore, calls: RedisClient, session_id: str) -> str:
    """Return the generation of a session's answers, as the append to the session does."""
    if isinstance(store, InMemoryAnswerStore):
        return store.generation(session_digest(session_id))
    sessions = RedisSessionStore(calls, length=5, ttl=TTL)
    session = await sessions.append(session_id, (), keeps_answer=True)
    assert session.answer_generation is not None
    return session.answer_generation


async def serve(
    log: AnswerLog, calls: RedisClient, session_id: str | None, items: str = "abc", **fields: Any
) -> Answer:
    """Do what the service does for each answer."""
    made = answer(new_answer_id(session_id), items, **fields)
    generation = "" if session_id is None else await generation_of(log._store, calls, session_id)
    log.add(made, CATALOG, session_id=session_id, generation=generation)
    await log.flush()
    return made


def key(answer_id: str) -> str:
    return f"onward:session:{{{owner_of(answer_id)}}}:served"


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
    log: AnswerLog, calls: RedisClient, session_id: str, *, has_session: bool
) -> None:
    plain = await serve(log, calls, session_id if has_session else None)
    full = await serve(log, calls, session_id if has_session else None, **OPTIONAL_FIELDS)
    assert await log.get(plain.id) == plain
    assert await log.get(full.id) == full


async def test_an_unknown_id_has_no_answer(log: AnswerLog, session_id: str) -> None:
    for unknown in (new_answer_id(session_id), new_answer_id(None), "x", "é" * 48, ""):
        assert await log.get(unknown) is None


async def test_a_reader_waits_a_moment_for_an_answer(log: AnswerLog) -> None:
    made = answer(new_answer_id(None))
    reading = asyncio.create_task(log.get(made.id))
    await asyncio.sleep(0.03)
    log.add(made, CATALOG, generation="")
    await log.flush()
    assert await reading == made


async def test_an_answer_expires_after_its_time_to_live(
    log: AnswerLog, calls: RedisClient, session_id: str, clock: Clock
) -> None:
    made = await serve(log, calls, session_id)
    clock.now_s += TTL.total_seconds()
    assert await log.get(made.id) == made
    clock.now_s += 1
    assert await log.get(made.id) is None
    assert await log.attribute([AttributionClaim(made.id, "a", "view")]) == [None]


async def test_forgetting_a_session_deletes_its_answers_only(
    log: AnswerLog, calls: RedisClient, session_id: str
) -> None:
    made, other = await serve(log, calls, session_id), await serve(log, calls, session_id + "'")
    waiting = answer(new_answer_id(session_id))
    log.add(waiting, CATALOG, session_id=session_id, generation=await generation_of(log._store, calls, session_id))
    await log.forget(session_id)
    await log.flush()
    assert await log.get(made.id) is None
    assert await log.get(waiting.id) is None
    assert await log.get(other.id) == other


async def test_pages_are_read_in_order_by_the_id_of_any(log: AnswerLog, calls: RedisClient, session_id: str) -> None:
    first = await serve(log, calls, session_id, "ab")
    other = await serve(log, calls, session_id, "yz")
    pages = [first]
    for items in ("cd", "ef"):
        page = answer(log.next_page_id(pages), items, root_id=first.id)
        assert await log.claim_next(first.id, len(pages), page, CATALOG)
        pages.append(page)
    for page, before in zip(pages, ("", "ab", "abcd"), strict=True):
        assert await log.pages(page.id) == pages
        assert await log.get(page.id) == replace(page, shown_before=tuple(before))
    assert await log.pages(other.id) == [other]


@pytest.mark.parametrize("has_session", [True, False])
async def test_one_of_several_concurrent_callers_adds_a_page(
    log: AnswerLog, calls: RedisClient, session_id: str, *, has_session: bool
) -> None:
    first = await serve(log, calls, session_id if has_session else None)

    async def add_page(caller: int) -> bool:
        page = answer(page_id(first.id, 1), "abcdefgh"[caller], root_id=first.id)
        return await log.claim_next(first.id, 1, page, CATALOG)

    assert sum(await asyncio.gather(*map(add_page, range(8)))) == 1
    assert len(await log.pages(first.id)) == 2


async def test_a_missing_answer_gets_no_next_page(log: AnswerLog, session_id: str) -> None:
    root_id = new_answer_id(session_id)
    page = answer(page_id(root_id, 1), root_id=root_id)
    assert not await log.claim_next(root_id, 1, page, CATALOG)
    assert not await log.claim_next(root_id, 0, page, CATALOG)


async def test_an_answer_is_kept_with_any_number_of_pages(log: AnswerLog, calls: RedisClient, session_id: str) -> None:
    first = await serve(log, calls, session_id)
    for pages in range(1, 60):
        page = answer(page_id(first.id, pages), "abcdefgh"[pages % 8], root_id=first.id)
        assert await log.claim_next(first.id, pages, page, CATALOG)
    assert len(await log.pages(first.id)) == 60


async def test_an_event_is_attributed_once_for_each_answer_item_and_type(
    log: AnswerLog, calls: RedisClient, session_id: str
) -> None:
    shown = await serve(log, calls, session_id, scenario="home", variant="b")
    plain = await serve(log, calls, None)
    home = AnswerOrigin("home", DIGEST, "b")
    claims = {
        AttributionClaim(shown.id, "a", "view"): home,
        AttributionClaim(shown.id, "a", "purchase"): home,
        AttributionClaim(shown.id, "b", "view"): home,
        AttributionClaim(shown.id, "home", "view"): None,
        AttributionClaim(new_answer_id(session_id), "a", "view"): None,
        AttributionClaim("no-answer", "a", "view"): None,
        AttributionClaim(plain.id, "c", "view"): AnswerOrigin("", DIGEST, ""),
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
        log.add(queued, CATALOG, generation="")
    await log.flush()
    assert sum(lost) == 2
    assert await log.get(made[-1].id) == made[-1]
    assert await log.get(made[1].id) is None


async def test_claims_of_an_answer_are_limited(log: AnswerLog, calls: RedisClient) -> None:
    made, other = await serve(log, calls, None), await serve(log, calls, None)
    claims = [AttributionClaim(made.id, "a", f"type-{number}") for number in range(MAX_CLAIMS + 1)]
    assert [origin is not None for origin in await log.attribute(claims)] == [True] * MAX_CLAIMS + [False]
    assert await log.attribute(claims[:1]) == [None]
    assert await log.attribute([AttributionClaim(other.id, "a", "view")]) == [AnswerOrigin("", DIGEST, "")]


async def test_pages_may_be_of_different_bundles(log: AnswerLog, calls: RedisClient, bundles: LetterBundles) -> None:
    first = await serve(log, calls, None, "ab")
    page = answer(page_id(first.id, 1), "cd", bundle=OTHER_DIGEST, root_id=first.id)
    assert await log.claim_next(first.id, 1, page, bundles.catalogs[OTHER_DIGEST])
    assert await log.pages(first.id) == [first, page]
    claims = [AttributionClaim(page.id, "c", "view"), AttributionClaim(page.id, "a", "view")]
    assert await log.attribute(claims) == [AnswerOrigin("", OTHER_DIGEST, ""), None]


async def test_an_answer_is_read_once_for_all_claims_and_others_run_before_the_next(
    log: AnswerLog, calls: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await serve(log, calls, None) for _ in range(3)]
    steps: list[str] = []

    def counted(content: bytes) -> list[AnswerPage]:
        steps.append("read")
        asyncio.get_running_loop().call_soon(steps.append, "other")
        return read_pages(content)

    monkeypatch.setattr(answer_log, "read_pages", counted)
    claims = [AttributionClaim(each.id, item_id, "view") for item_id in "abcd" for each in made]
    assert [origin is not None for origin in await log.attribute(claims)] == [True] * 9 + [False] * 3
    await asyncio.sleep(0)
    assert steps == ["read", "other"] * 3


async def test_an_answer_of_a_bundle_that_is_gone_has_expired(
    log: AnswerLog, calls: RedisClient, bundles: LetterBundles
) -> None:
    made = await serve(log, calls, None)
    del bundles.catalogs[DIGEST]
    assert await log.get(made.id) is None
    assert await log.attribute([AttributionClaim(made.id, "a", "view")]) == [None]


class TestInRedis:
    """Properties of the Redis store only."""

    @pytest.fixture
    def store(self, calls: RedisClient) -> RedisAnswerStore:
        return RedisAnswerStore(calls, ttl=TTL)

    async def test_an_answer_without_a_session_expires(
        self, log: AnswerLog, redis: "Redis", calls: RedisClient
    ) -> None:
        made = await serve(log, calls, None)
        assert 0 < await redis.pttl(key(made.id)) <= TTL / timedelta(milliseconds=1)

    async def test_answers_are_written_in_one_round_trip_and_attributed_to_in_two(
        self, log: AnswerLog, redis: "Redis", calls: RedisClient, session_id: str
    ) -> None:
        async def reads() -> int:
            return int((await redis.info("stats"))["total_reads_processed"])

        made = [await serve(log, calls, session_id)]
        await log.attribute([AttributionClaim(made[0].id, "a", "view")])  # loads the scripts
        generation = await generation_of(log._store, calls, session_id)
        for _ in range(50):
            made.append(answer(new_answer_id(session_id)))
            log.add(made[-1], CATALOG, session_id=session_id, generation=generation)
        before = await reads()
        await log.flush()
        written = await reads()
        origins = await log.attribute([AttributionClaim(each.id, "b", "view") for each in made])
        assert None not in origins
        assert written - before <= 3  # input longer than the server's buffer takes several reads
        assert await reads() - written <= 4

    async def test_the_session_id_is_not_stored(self, log: AnswerLog, redis: "Redis", calls: RedisClient) -> None:
        made = await serve(log, calls, "secret{visitor}")
        assert "secret" not in str(await redis.hgetall(key(made.id)))

    @pytest.mark.parametrize("foreign", [b"x" * 200, b"", b"\x01", b"\x01\x02{}"])
    async def test_foreign_data_is_ignored(
        self, log: AnswerLog, redis: "Redis", calls: RedisClient, session_id: str, foreign: bytes
    ) -> None:
        made = await serve(log, calls, session_id)
        await redis.hset(key(made.id), mapping={b"\x00" * 8: foreign, b"x": b"y"})
        assert await log.get(made.id) == made
        assert await log.get(owner_of(made.id) + "0" * 18) is None
        claims = [AttributionClaim(owner_of(made.id) + "0" * 18, "a", "view"), AttributionClaim(made.id, "a", "view")]
        assert await log.attribute(claims) == [None, AnswerOrigin("", DIGEST, "")]

    async def test_of_a_batch_only_the_refused_answer_is_lost(
        self, log: AnswerLog, redis: "Redis", calls: RedisClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost: list[int] = []
        failures: list[BaseException] = []
        monkeypatch.setattr(telemetry, "records_lost", lambda _, count: lost.append(count))
        monkeypatch.setattr(telemetry, "recording_failed", lambda _, error: failures.append(error))
        made = [answer(new_answer_id(None)) for _ in range(5)]
        await redis.set(key(made[1].id), "no hash")
        for _ in range(2):
            for each in made:
                log.add(each, CATALOG, generation="")
            await log.flush()
        assert lost == [1, 1]
        assert "wrong kind of value" in str(failures[0])
        assert len(failures) == 1
        assert [(await log.pages(each.id))[0] for each in made[:1] + made[2:]] == made[:1] + made[2:]

    async def test_a_failed_write_is_counted_and_logged_once_for_each_outage(
        self, log: AnswerLog, redis: "Redis", calls: RedisClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reported: list[str] = []
        note: Callable[[str], Callable[..., None]] = lambda name: lambda *_: reported.append(name)  # noqa: E731  # three of them
        for name in ("records_lost", "recording_failed", "recording_recovered"):
            monkeypatch.setattr(telemetry, name, note(name))
        made = answer(new_answer_id(None))
        await redis.set(key(made.id), "no hash")
        for _ in range(2):
            log.add(made, CATALOG, generation="")
            await log.flush()
        assert reported == ["recording_failed", "records_lost", "records_lost"]
        with pytest.raises(SessionStoreUnavailable):
            await log.get(made.id)
        await redis.delete(key(made.id))
        log.add(made, CATALOG, generation="")
        await log.flush()
        assert reported[3:] == ["recording_recovered"]
        assert await log.get(made.id) == made
