"""Answers that version 0.1 keeps in Redis are read and continued beside today's, which 0.1 cannot break."""

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from onward.bundle import RankingDetails, RetrievedItems
from onward.service.records.answer_lists import AnswerLists
from onward.service.records.answer_log import AnswerLog
from onward.service.records.answer_stores import RedisAnswerStore
from onward.service.records.answers import Answer, AnswerOrigin, AttributionClaim
from onward.service.redis_client import RedisClient
from onward.service.sessions import RedisSessionStore, session_digest
from tests.service.records.answer_ids import ANSWER_IDS, new_answer_id
from tests.service.records.catalogs import CATALOG, DIGEST, LetterBundles

TTL = timedelta(minutes=30)
NOW_MS = int(time.time() * 1000)
OWNER = session_digest("visitor of 0.1")
LIST = f"onward:session:{{{OWNER}}}:answers"
FIRST, SECOND, UNWRITTEN = "0123456789abcdef", "1123456789abcdef", "2123456789abcdef"
ENTRIES = [
    FIRST,
    f'{FIRST}{FIRST}{{"id":"{OWNER}{FIRST}","made_ms":{NOW_MS},"bundle":"b1","items":{{"item_ids":["x","y"],'
    '"scores":[2.5,0.1],"sources":"encoder","interests":[1,0],"moved":[[2.0,0.5,1],[0.1,0.0,null]]},'
    '"session_items":["q"],"options":{"k":2,"exclude":["z"]},"scenario":"home","scenario_version":3}\nview y',
    f'{SECOND}{FIRST}{{"id":"{OWNER}{SECOND}","made_ms":{NOW_MS},"bundle":"b2","items":{{"item_ids":["v"],'
    f'"scores":[0.1],"sources":"popular","interests":null}},"root_id":"{OWNER}{FIRST}"}}',
    UNWRITTEN,
]
"""As 0.1 writes them: a reserved place before each first page, and claims after the JSON."""

PAGES = [
    Answer(
        OWNER + FIRST,
        NOW_MS,
        "b1",
        RetrievedItems(
            ("x", "y"),
            (2.5, 0.1),
            ("encoder", "encoder"),
            (1, 0),
            (RankingDetails(2.0, 0.5, 1), RankingDetails(0.1, 0.0, None)),
        ),
        session_items=("q",),
        options={"k": 2, "exclude": ["z"]},
        scenario="home",
        scenario_version=3,
    ),
    Answer(OWNER + SECOND, NOW_MS, "b2", RetrievedItems(("v",), (0.1,), ("popular",), (None,)), root_id=OWNER + FIRST),
]


@pytest.fixture
async def log(calls: RedisClient, redis: "Redis") -> AsyncIterator[AnswerLog]:
    await redis.rpush(LIST, *ENTRIES)
    store, lists = RedisAnswerStore(calls, ttl=TTL), AnswerLists(calls, ttl=TTL)
    yield AnswerLog(store, LetterBundles(), ANSWER_IDS, ttl=TTL, lists=lists)
    await redis.delete(LIST)


async def test_pages_of_0_1_are_read_and_continued_in_its_form(log: AnswerLog, redis: "Redis") -> None:
    assert await log.pages(OWNER + FIRST) == await log.pages(OWNER + SECOND) == PAGES
    page = Answer(log.next_page_id(PAGES), NOW_MS, DIGEST, PAGES[1].items, root_id=OWNER + FIRST)
    assert not await log.claim_next(OWNER + FIRST, 1, page, CATALOG)
    assert await log.claim_next(OWNER + FIRST, 2, page, CATALOG)
    assert await log.pages(OWNER + FIRST) == [*PAGES, page]
    (entry,) = await redis.lrange(LIST, -1, -1)
    assert str(entry).startswith("b'" + page.id[32:] + FIRST + '{"id":"' + page.id)
    assert await log.pages(OWNER + UNWRITTEN) == []


async def test_events_are_attributed_to_answers_of_both_kinds(log: AnswerLog) -> None:
    items = RetrievedItems(("a",), (0.5,), ("popular",), (None,))
    today = Answer(new_answer_id(None), NOW_MS, DIGEST, items)
    log.add(today, CATALOG, generation="")
    await log.flush()
    claims = {
        AttributionClaim(OWNER + FIRST, "y", "view"): None,
        AttributionClaim(OWNER + FIRST, "x", "view"): AnswerOrigin("home", "b1", ""),
        AttributionClaim(today.id, "a", "view"): AnswerOrigin("", DIGEST, ""),
        AttributionClaim(OWNER + UNWRITTEN, "a", "view"): None,
    }
    assert await log.attribute(list(claims)) == list(claims.values())
    assert await log.attribute(list(claims)) == [None] * 4


async def test_sessions_of_both_versions_share_a_store(log: AnswerLog, redis: "Redis", calls: RedisClient) -> None:
    sessions = RedisSessionStore(calls, length=5, ttl=TTL)
    before: list[Any] = await redis.lrange(LIST, 0, -1)
    session = await sessions.append("visitor of 0.1", (), keeps_answer=True)
    today = Answer(new_answer_id("visitor of 0.1"), NOW_MS, DIGEST, PAGES[1].items)
    log.add(today, CATALOG, generation=session.answer_generation or "")
    await log.flush()
    assert await redis.lrange(LIST, 0, -1) == before
    await redis.linsert(
        LIST, "AFTER", UNWRITTEN, UNWRITTEN + UNWRITTEN + "{}"
    )  # as 0.1 writes to the place it reserved
    assert await log.pages(today.id) == [today]
    await sessions.delete("visitor of 0.1")
    await log.forget("visitor of 0.1")
    assert not await redis.exists(LIST, LIST.replace(":answers", ":served"))
