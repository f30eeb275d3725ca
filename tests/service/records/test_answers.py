"""What was served is found again for a while, pages never repeat, and an event counts once for its answer."""

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import fields, replace
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
    AnswerStore,
    Claim,
    Origin,
    new_page_id,
    nonce_of,
    owner_of,
)
from onward.service.redis_client import RedisCalls
from tests.service.clock import NOON_S, Clock
from tests.service.records.answer_ids import new_answer_id

TTL = timedelta(minutes=30)

numbers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, calls: RedisCalls, clock: Clock) -> AnswerStore:
    if request.param == "memory":
        return InMemoryAnswerStore(ttl=TTL, clock=clock)
    return RedisAnswerStore(calls, ttl=TTL, clock=clock)


@pytest.fixture
def log(store: AnswerStore) -> AnswerLog:
    return AnswerLog(store)


@pytest.fixture
def session_id() -> str:
    return f"visitor-{next(numbers)}"


def answer(answer_id: str, items: str = "abc", **known: Any) -> Answer:
    shown = RetrievedItems.of(RetrievedItem(item, 0.1 * place, "encoder", 0) for place, item in enumerate(items))
    return Answer(answer_id, int(NOON_S * 1000), "digest", shown, **known)


WHOLE = Answer(
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


@pytest.mark.parametrize("kept", [WHOLE, answer("c" * 48), answer("d" * 48, items="")], ids=["whole", "plain", "none"])
def test_an_answer_is_read_as_it_was_written(kept: Answer) -> None:
    adapter = TypeAdapter(Answer)
    assert adapter.validate_json(kept.json()) == kept
    plain = json.loads(adapter.dump_json(kept, exclude_defaults=True))
    assert {name: value for name, value in json.loads(kept.json()).items() if name != "items"} == {
        name: value for name, value in plain.items() if name != "items"
    }
    assert None not in [getattr(WHOLE, each.name) or None for each in fields(Answer)]


def test_what_all_items_share_is_written_once_and_what_they_do_not_item_by_item() -> None:
    plain, whole = (json.loads(kept.json())["items"] for kept in (answer("c" * 48), WHOLE))
    assert (plain["sources"], plain["interests"]) == ("encoder", 0)
    assert (whole["sources"], whole["interests"]) == (["encoder", "pinned"], [3, None])


@pytest.mark.parametrize(
    "items", [[], "abc", {"item_ids": "abc", "scores": 1}, {"item_ids": ["a"], "scores": [1], "sources": "none"}]
)
def test_what_is_no_answer_is_not_read_as_one(items: Any) -> None:
    foreign = {"id": "a" * 48, "made_ms": 1, "bundle": "digest", "items": items}
    with pytest.raises(ValidationError):
        TypeAdapter(Answer).validate_json(json.dumps(foreign))


async def serve(log: AnswerLog, redis: "Redis", session_id: str | None, items: str = "abc", **known: Any) -> Answer:
    """What the service does for each answer: the session reserves a place, the answer follows."""
    made = answer(new_answer_id(session_id), items, **known)
    if session_id is not None:
        await reserve(redis, made.id)
    log.add(made, reserved=session_id is not None)
    await log.flush()
    return made


async def reserve(redis: "Redis", answer_id: str) -> None:
    await redis.rpush(key(answer_id), nonce_of(answer_id))


def key(answer_id: str) -> str:
    return f"onward:session:{{{owner_of(answer_id)}}}:answers"


FULL: dict[str, Any] = {
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


@pytest.mark.parametrize("of_session", [True, False])
async def test_an_answer_comes_back_bit_for_bit(
    log: AnswerLog, redis: "Redis", session_id: str, *, of_session: bool
) -> None:
    plain = await serve(log, redis, session_id if of_session else None)
    full = await serve(log, redis, session_id if of_session else None, **FULL)
    assert await log.get(plain.id) == plain
    assert await log.get(full.id) == full


async def test_an_unknown_id_is_no_answer(log: AnswerLog, session_id: str) -> None:
    for unknown in (new_answer_id(session_id), new_answer_id(None), "x", "é" * 48, ""):
        assert await log.get(unknown) is None


async def test_an_answer_is_found_that_is_written_a_moment_later(
    log: AnswerLog, redis: "Redis", session_id: str
) -> None:
    made = answer(new_answer_id(session_id))
    await reserve(redis, made.id)
    log.add(made, reserved=True)
    found = asyncio.create_task(log.get(made.id))
    await asyncio.sleep(0.03)
    await log.flush()
    assert await found == made


async def test_an_answer_is_kept_for_its_time_to_live(
    log: AnswerLog, redis: "Redis", session_id: str, clock: Clock
) -> None:
    made = await serve(log, redis, session_id)
    clock.now_s += TTL.total_seconds()
    assert await log.get(made.id) == made
    clock.now_s += 1
    assert await log.get(made.id) is None
    assert await log.attribute([Claim(made.id, "a", "view")]) == [None]


async def test_answers_are_forgotten_with_their_session_and_no_others(
    log: AnswerLog, redis: "Redis", session_id: str
) -> None:
    made, others = await serve(log, redis, session_id), await serve(log, redis, session_id + "'")
    waiting = answer(new_answer_id(session_id))
    await reserve(redis, waiting.id)
    log.add(waiting, reserved=True)
    await log.forget(session_id)
    await log.flush()
    assert await log.get(made.id) is None
    assert await log.get(waiting.id) is None
    assert await log.get(others.id) == others


async def test_pages_come_in_order_whichever_is_asked_for(log: AnswerLog, redis: "Redis", session_id: str) -> None:
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


@pytest.mark.parametrize("of_session", [True, False])
async def test_of_many_who_make_the_same_page_one_keeps_it(
    log: AnswerLog, redis: "Redis", session_id: str, *, of_session: bool
) -> None:
    first = await serve(log, redis, session_id if of_session else None)

    async def turn(caller: int) -> bool:
        page = answer(new_page_id(first.id), str(caller), root_id=first.id)
        return await log.claim_next(first.id, 1, page)

    assert sum(await asyncio.gather(*map(turn, range(8)))) == 1
    assert len(await log.pages(first.id)) == 2


async def test_there_is_no_next_page_of_what_is_gone(log: AnswerLog, session_id: str) -> None:
    root_id = new_answer_id(session_id)
    page = answer(new_page_id(root_id), root_id=root_id)
    assert not await log.claim_next(root_id, 1, page)
    assert not await log.claim_next(root_id, 0, page)


async def test_an_answer_stays_for_all_its_pages(log: AnswerLog, redis: "Redis", session_id: str) -> None:
    first = await serve(log, redis, session_id)
    for pages in range(1, 60):
        page = answer(new_page_id(first.id), str(pages), root_id=first.id)
        assert await log.claim_next(first.id, pages, page)
    assert len(await log.pages(first.id)) == 60


async def test_an_event_counts_once_for_each_answer_item_and_type(
    log: AnswerLog, redis: "Redis", session_id: str
) -> None:
    shown = await serve(log, redis, session_id, scenario="home", variant="b")
    plain = await serve(log, redis, None)
    home = Origin("home", "digest", "b")
    claims = {
        Claim(shown.id, "a", "view"): home,
        Claim(shown.id, "a", "purchase"): home,
        Claim(shown.id, "b", "view"): home,
        Claim(shown.id, "home", "view"): None,
        Claim(new_answer_id(session_id), "a", "view"): None,
        Claim("no-answer", "a", "view"): None,
        Claim(plain.id, "c", "view"): Origin("", "digest", ""),
    }
    twice = [claim for claim in claims for _ in range(2)]
    assert await log.attribute(twice) == [origin for wanted in claims.values() for origin in (wanted, None)]
    assert await log.attribute(list(claims)) == [None] * len(claims)
    assert await log.get(shown.id) == shown


async def test_of_more_answers_than_may_wait_the_oldest_are_lost_and_counted(
    log: AnswerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    monkeypatch.setattr(telemetry, "records_lost", lambda what, count: lost.append(count))
    made = [answer(new_answer_id(None)) for _ in range(MAX_WAITING + 2)]
    for one in made:
        log.add(one, reserved=False)
    await log.flush()
    assert sum(lost) == 2
    assert await log.get(made[-1].id) == made[-1]
    assert await log.get(made[1].id) is None


class TestInRedis:
    """What only a shared server can get wrong."""

    @pytest.fixture
    def store(self, calls: RedisCalls) -> RedisAnswerStore:
        return RedisAnswerStore(calls, ttl=TTL, clock=lambda: NOON_S)

    async def test_nothing_comes_back_once_the_session_is_deleted(
        self, log: AnswerLog, redis: "Redis", session_id: str
    ) -> None:
        gone, later = answer(new_answer_id(session_id)), answer(new_answer_id(session_id))
        await reserve(redis, gone.id)
        log.add(gone, reserved=True)
        await redis.delete(key(gone.id))
        await reserve(redis, later.id)  # the session begins anew before the answer is written
        await log.flush()
        assert await redis.lrange(key(gone.id), 0, -1) == [nonce_of(later.id).encode()]

    async def test_an_answer_without_a_session_expires(self, log: AnswerLog, redis: "Redis") -> None:
        made = await serve(log, redis, None)
        assert 0 < await redis.pttl(key(made.id)) <= TTL / timedelta(milliseconds=1)

    async def test_what_waits_is_written_in_one_round_trip(
        self, log: AnswerLog, redis: "Redis", calls: RedisCalls, session_id: str
    ) -> None:
        await calls.replies([("EXISTS", "nothing")])  # from now on its connection is open
        for _ in range(50):
            made = answer(new_answer_id(session_id))
            await reserve(redis, made.id)
            log.add(made, reserved=True)
        before = (await redis.info("stats"))["total_reads_processed"]
        await log.flush()
        after = (await redis.info("stats"))["total_reads_processed"]
        assert after - before <= 5  # what is longer than the server's buffer is read in pieces

    async def test_no_session_id_is_to_be_read(self, log: AnswerLog, redis: "Redis") -> None:
        made = await serve(log, redis, "secret{visitor}")
        assert "secret" not in str(await redis.lrange(key(made.id), 0, -1))

    @pytest.mark.parametrize("foreign", [b"x" * 200, b"", b"0" * 32 + b"{}"])
    async def test_foreign_data_counts_as_nothing(
        self, log: AnswerLog, redis: "Redis", session_id: str, foreign: bytes
    ) -> None:
        await redis.rpush(key(new_answer_id(session_id)), foreign)
        made = await serve(log, redis, session_id)
        assert await log.get(made.id) == made
        assert await log.get(owner_of(made.id) + "0" * 16) is None
        claims = [Claim(owner_of(made.id) + "0" * 16, "a", "view"), Claim(made.id, "a", "view")]
        assert await log.attribute(claims) == [None, Origin("", "digest", "")]

    async def test_an_answer_that_the_server_does_not_take_is_lost_and_counted_and_told_once(
        self, log: AnswerLog, redis: "Redis", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        note: Callable[[str], Callable[..., None]] = lambda name: lambda *_: told.append(name)  # noqa: E731  # three alike
        for name in ("records_lost", "recording_failed", "recording_works_again"):
            monkeypatch.setattr(telemetry, name, note(name))
        made = answer(new_answer_id(None))
        await redis.set(key(made.id), "no list")
        for _ in range(2):
            log.add(made, reserved=False)
            await log.flush()
        assert told == ["records_lost", "recording_failed", "records_lost"]
        with pytest.raises(SessionStoreUnavailable):
            await log.get(made.id)
        await redis.delete(key(made.id))
        log.add(made, reserved=False)
        await log.flush()
        assert told[3:] == ["recording_works_again"]
        assert await log.get(made.id) == made
