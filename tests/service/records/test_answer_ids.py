"""Ids of answers show nothing of the session, and every worker finds the answer that an id names."""

import hashlib
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from onward.service import telemetry
from onward.service.records.answer_ids import DAY, AnswerIds, RedisSecrets
from onward.service.records.answer_stores import AnswerKey
from onward.service.records.answers import nonce_of
from onward.service.redis_client import RedisClient, connect
from onward.service.sessions import session_digest
from tests.service.clock import Clock

TTL = timedelta(minutes=30)
DAY_S = DAY.total_seconds()


@pytest.fixture
async def prefix(redis: "Redis") -> str:
    await redis.flushdb()
    return "onward:tests-of-ids:"


def worker(calls: RedisClient, prefix: str, clock: Clock, ttl: timedelta = TTL) -> AnswerIds:
    return AnswerIds(RedisSecrets(calls, answer_ttl=ttl, prefix=prefix), answer_ttl=ttl, clock=clock)


def named(answer_id: str, session_id: str) -> AnswerKey:
    return AnswerKey(session_digest(session_id), nonce_of(answer_id))


async def test_an_id_does_not_tell_its_session(clock: Clock) -> None:
    ids = AnswerIds(answer_ttl=TTL, clock=clock)
    made = ids.new(["visitor"] * 50)
    digests = {hashlib.blake2b(b"visitor", digest_size=16).hexdigest(), session_digest("visitor")}
    assert not digests & {answer_id[:32] for answer_id in made}
    assert len({answer_id[:32] for answer_id in made}) == 50  # nor that two answers are of one session
    assert {(await ids.key_of(answer_id)) for answer_id in made} == {named(each, "visitor") for each in made}
    assert await AnswerIds(answer_ttl=TTL, clock=clock).key_of(made[0]) != named(made[0], "visitor")


async def test_an_answer_without_a_session_has_a_key(clock: Clock) -> None:
    ids = AnswerIds(answer_ttl=TTL, clock=clock)
    (answer_id,) = ids.new([None])
    assert await ids.key_of(answer_id) == ids.own_key_of(answer_id)


async def test_an_answer_made_before_midnight_keeps_its_key_after_it(clock: Clock) -> None:
    ids = AnswerIds(answer_ttl=TTL, clock=clock)
    (answer_id,) = ids.new([None])
    key = await ids.key_of(answer_id)
    clock.now_s += DAY_S
    await ids.follow()
    assert ids.own_key_of(answer_id) == key == await ids.key_of(answer_id)


async def test_workers_share_the_secret_of_the_day(calls: RedisClient, prefix: str, clock: Clock) -> None:
    first, second = worker(calls, prefix, clock), worker(calls, prefix, clock)
    await first.follow()
    await second.follow()
    for maker, reader in ((first, second), (second, first)):
        (answer_id,) = maker.new(["visitor"])
        assert await reader.key_of(answer_id) == named(answer_id, "visitor")


async def test_ids_of_the_day_before_are_known_until_their_answers_expire(
    calls: RedisClient, redis: "Redis", prefix: str, clock: Clock
) -> None:
    maker, second = worker(calls, prefix, clock), worker(calls, prefix, clock)
    await maker.follow()
    (answer_id,) = maker.new(["visitor"])
    secrets = {await redis.get(key) async for key in redis.scan_iter(f"{prefix}*")}
    clock.now_s += DAY_S
    await maker.follow()
    (later_id,) = maker.new(["visitor"])
    assert answer_id[48:52] != later_id[48:52]
    for reader in (maker, second, worker(calls, prefix, clock)):  # the latter two have not seen that day's secret
        assert await reader.key_of(answer_id) == named(answer_id, "visitor")
        assert await reader.key_of(later_id) == named(later_id, "visitor")
    kept = {key: await redis.pttl(key) async for key in redis.scan_iter(f"{prefix}*")}
    assert len(kept) == 2
    assert len(secrets) == 1
    assert all(
        DAY_S + TTL.total_seconds() < ttl_ms / 1000 <= 2 * DAY_S + TTL.total_seconds() for ttl_ms in kept.values()
    )
    clock.now_s += 3 * DAY_S
    await maker.follow()
    assert await maker.key_of(answer_id) is None


async def test_workers_whose_clocks_differ_know_each_others_ids(calls: RedisClient, prefix: str) -> None:
    early, late = Clock(), Clock()
    late.now_s += DAY_S
    first, second = worker(calls, prefix, early), worker(calls, prefix, late)
    await first.follow()
    await second.follow()
    for maker, reader in ((first, second), (second, first)):
        (answer_id,) = maker.new(["visitor"])
        assert await reader.key_of(answer_id) == named(answer_id, "visitor")


async def test_a_store_that_lost_the_secret_has_it_again(
    calls: RedisClient, redis: "Redis", prefix: str, clock: Clock
) -> None:
    maker = worker(calls, prefix, clock)
    await maker.follow()
    (answer_id,) = maker.new(["visitor"])
    await redis.flushdb()
    await maker.follow()
    assert await worker(calls, prefix, clock).key_of(answer_id) == named(answer_id, "visitor")


@pytest.mark.parametrize("foreign", [b"", b"short", b"x" * 100, None])
async def test_anything_else_under_the_key_is_replaced(
    calls: RedisClient, redis: "Redis", prefix: str, clock: Clock, foreign: bytes | None
) -> None:
    key = f"{prefix}answer-secret:{int(clock.now_s // DAY_S)}"
    await (redis.rpush(key, "list") if foreign is None else redis.set(key, foreign))
    maker, reader = worker(calls, prefix, clock), worker(calls, prefix, clock)
    await maker.follow()
    await reader.follow()
    (answer_id,) = maker.new(["visitor"])
    assert await reader.key_of(answer_id) == named(answer_id, "visitor")


async def test_without_the_store_ids_are_made_by_a_secret_of_the_process(
    prefix: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    monkeypatch.setattr(telemetry, "recording_failed", lambda what, _error: failures.append(what))
    nobody = connect("unix:///nobody")
    ids = worker(nobody, prefix, clock)
    for _ in range(2):
        await ids.follow()
    (answer_id,) = ids.new(["visitor"])
    assert ids.own_key_of(answer_id) == named(answer_id, "visitor")
    assert failures == ["answer secrets"]
    await nobody.aclose()


async def test_ids_of_earlier_builds_of_0_2_name_their_answers(calls: RedisClient, prefix: str, clock: Clock) -> None:
    plain = session_digest("visitor") + "0123456789abcdef" + "03"
    assert await worker(calls, prefix, clock).key_of(plain) == named(plain, "visitor")


@pytest.mark.parametrize("text", ["", "x", "é" * 54, "0" * 48, "0" * 53, "0" * 54 + "\n", "A" * 54])
async def test_other_texts_name_no_answer(calls: RedisClient, prefix: str, clock: Clock, text: str) -> None:
    assert await worker(calls, prefix, clock).key_of(text) is None


async def test_only_days_that_answers_may_be_of_are_looked_up(prefix: str, clock: Clock) -> None:
    nobody = connect("unix:///nobody")  # a call would raise SessionStoreUnavailable
    ids = worker(nobody, prefix, clock)
    today = int(clock.now_s // DAY_S)
    for day in (today - 3, today + 2, today - 40_000):
        assert await ids.key_of("0" * 48 + f"{day % 65536:04x}" + "00") is None
    await nobody.aclose()
