"""One connection carries the calls of many, and no fault of it gives a caller what is another's."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from onward.service.redis_client import RedisCalls, Script, connect
from onward.service.redis_client.connection import PAUSE_S
from onward.service.redis_client.wire import MAX_IN_FLIGHT, take_stream
from tests.service.redis_client.fault_proxy import Fault, FaultProxy, fault_proxy

TIMEOUT = timedelta(milliseconds=300)  # a busy machine opens a connection within it


@pytest.fixture
async def proxy(valkey: str, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(Path(valkey.removeprefix("unix://")), tmp_path / "proxy") as proxy:
        yield proxy


@pytest.fixture
async def through_proxy(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[RedisCalls]:
    calls = connect(f"unix://{tmp_path / 'proxy'}", TIMEOUT)
    yield calls
    await calls.aclose()


@pytest.fixture
async def patient(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[RedisCalls]:
    calls = connect(f"unix://{tmp_path / 'proxy'}", timedelta(seconds=10))
    yield calls
    await calls.aclose()


async def echo(calls: RedisCalls, text: str) -> None:
    """Ask for what no other caller asks for."""
    (reply,) = await calls.replies([("ECHO", text)])
    assert reply == text.encode()


async def test_the_one_name_that_redis_py_does_not_promise_holds_the_stream(valkey: str) -> None:
    connection = ConnectionPool.from_url(valkey).make_connection()  # type: ignore[no-untyped-call]  # redis-py
    await connection.connect()
    stream = take_stream(connection)
    assert isinstance(stream, asyncio.StreamWriter), "redis-py has changed: see take_stream"
    assert not connection.is_connected, "redis-py has changed: see take_stream"
    stream.close()
    await stream.wait_closed()


async def test_calls_of_one_turn_share_a_connection_and_a_write(valkey: str, calls: RedisCalls) -> None:
    async with Redis.from_url(valkey) as redis:
        await echo(calls, "open")
        before = await redis.info("stats")
        await asyncio.gather(*(echo(calls, f"text-{number}") for number in range(50)))
        after = await redis.info("stats")
    assert after["total_commands_processed"] - before["total_commands_processed"] == 50 + 1
    assert after["total_reads_processed"] - before["total_reads_processed"] == 1 + 1
    assert after["total_connections_received"] == before["total_connections_received"]


async def test_a_refused_command_fails_no_other(calls: RedisCalls) -> None:
    good, refused, other = await calls.replies([("ECHO", "a"), ("NO-COMMAND", "x"), ("ECHO", "b")])
    assert (good, other) == (b"a", b"b")
    assert isinstance(refused, ResponseError)
    assert await calls.replies([]) == []


async def test_a_script_is_sent_whole_only_where_it_is_not_known(valkey: str, calls: RedisCalls) -> None:
    script = Script(calls, "return KEYS[1] .. ARGV[1]")
    async with Redis.from_url(valkey) as redis:
        for _ in range(2):
            await redis.script_flush()
            assert await script(["k"], [1]) == b"k1"
            await redis.script_flush()
            assert await script.all([(["a"], ["1"]), (["b"], [b"2"])]) == [b"a1", b"b2"]
    with pytest.raises(ResponseError, match="compiling"):
        await Script(calls, "nonsense")(["k"], [])


async def test_what_cannot_be_sent_fails_its_caller_alone(calls: RedisCalls) -> None:
    async def send_nonsense() -> None:
        with pytest.raises((TypeError, UnicodeEncodeError)):
            await calls.replies([("ECHO", "ok"), ("ECHO", "\ud800")])

    await asyncio.gather(echo(calls, "a"), send_nonsense(), echo(calls, "b"))


@pytest.mark.parametrize("fault", ["none", "slices"])
async def test_answers_are_never_crossed_when_callers_give_up_at_any_moment(
    proxy: FaultProxy, patient: RedisCalls, fault: Fault
) -> None:
    proxy.fault = fault
    numbers = random.Random(5)
    given_up = 0

    async def ask_or_give_up(text: str) -> None:
        nonlocal given_up
        task = asyncio.create_task(echo(patient, text * numbers.randrange(1, 30)))
        for _ in range(numbers.randrange(30)):
            await asyncio.sleep(0)
        if numbers.random() < 0.5:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            given_up += 1

    for turn in range(20):
        await asyncio.gather(*(ask_or_give_up(f"{turn}:{number};") for number in range(100)))
    assert 200 < given_up < 1_800
    await echo(patient, "still the same connection")
    assert proxy.accepted == 1


@pytest.mark.parametrize("fault", ["silence", "garbage", "reset"])
async def test_a_connection_that_fails_fails_its_calls_in_time_and_gives_them_no_others_answer(
    proxy: FaultProxy, through_proxy: RedisCalls, fault: Fault
) -> None:
    failed = 0

    async def ask(text: str) -> None:
        nonlocal failed
        try:
            await echo(through_proxy, text)
        except (RedisError, OSError):
            failed += 1

    for turn in range(3):
        proxy.fault = "none"
        await asyncio.sleep(2 * PAUSE_S)
        await echo(through_proxy, f"good-{turn}")
        proxy.fault = fault
        async with asyncio.timeout(20 * TIMEOUT.total_seconds()):
            await asyncio.gather(*(ask(f"{turn}:{number}") for number in range(200)))
    assert failed > 200
    assert proxy.accepted <= 2 + 3 * 2, "there is no storm of connections"


async def test_a_late_reply_reaches_nobody(proxy: FaultProxy, through_proxy: RedisCalls, valkey: str) -> None:
    await echo(through_proxy, "open")
    async with Redis.from_url(valkey) as redis:
        await redis.client_pause(900)
        with pytest.raises(RedisTimeoutError):
            await through_proxy.replies([("SET", "late", "1")])
        await redis.client_unpause()
    await echo(through_proxy, "later")
    assert proxy.accepted == 2


async def test_a_reply_that_came_while_the_event_loop_was_held_up_is_in_time(valkey: str) -> None:
    calls = connect(valkey, TIMEOUT)
    await echo(calls, "open")
    waiting = [asyncio.create_task(echo(calls, f"text {number}")) for number in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    held_until_s = time.monotonic() + 2 * TIMEOUT.total_seconds()
    while time.monotonic() < held_until_s:
        pass
    await asyncio.gather(*waiting)
    await calls.aclose()


async def test_one_opening_at_a_time_is_tried_and_failures_are_fast(tmp_path: Path) -> None:
    accepted = 0

    async def accept_and_close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.close()

    async with await asyncio.start_unix_server(accept_and_close, tmp_path / "closing"):
        calls = connect(f"unix://{tmp_path / 'closing'}", TIMEOUT)
        for _ in range(20):
            failures = await asyncio.gather(
                *(calls.replies([("ECHO", "x")]) for _ in range(50)), return_exceptions=True
            )
            assert {type(failure) for failure in failures} == {RedisConnectionError}
        await calls.aclose()
    assert accepted <= 3


async def test_more_calls_than_may_wait_are_refused_at_once(patient: RedisCalls) -> None:
    await echo(patient, "open")
    commands = [("ECHO", "x")] * (MAX_IN_FLIGHT // 2)
    waiting = [asyncio.create_task(patient.replies(commands)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RedisError, match="Too many"):
        await patient.replies([("ECHO", "one more")])
    for replies in await asyncio.gather(*waiting):
        assert len(replies) == MAX_IN_FLIGHT // 2
    await echo(patient, "again")


async def test_a_server_that_became_a_replica_is_left(valkey: str, calls: RedisCalls) -> None:
    async with Redis.from_url(valkey) as redis:
        await echo(calls, "open")
        before = (await redis.info("stats"))["total_connections_received"]
        await redis.replicaof("127.0.0.1", "1")
        try:
            (refused,) = await calls.replies([("SET", "x", "y")])
        finally:
            await redis.replicaof("NO", "ONE")
        assert isinstance(refused, ResponseError)
        await echo(calls, "again")
        assert (await redis.info("stats"))["total_connections_received"] == before + 1


async def test_what_is_in_flight_fails_when_the_connection_is_closed(
    proxy: FaultProxy, through_proxy: RedisCalls
) -> None:
    await echo(through_proxy, "open")
    proxy.fault = "silence"
    waiting = asyncio.create_task(echo(through_proxy, "text"))
    await asyncio.sleep(0.01)
    await through_proxy.aclose()
    with pytest.raises(RedisConnectionError):
        await waiting


async def test_an_opening_that_goes_on_is_given_up_when_the_calls_are_closed(
    proxy: FaultProxy, through_proxy: RedisCalls
) -> None:
    proxy.fault = "silence"
    waiting = asyncio.create_task(echo(through_proxy, "text"))
    await asyncio.sleep(0.01)
    await through_proxy.aclose()
    with pytest.raises(RedisConnectionError):
        await waiting


@pytest.mark.parametrize("user", ["", "onward:secret", "onward:wrong"])
async def test_a_server_with_keys_lets_in_who_has_them(valkey: str, user: str) -> None:
    async with Redis.from_url(valkey) as redis:
        await redis.acl_setuser("default", enabled=True, nopass=True)
        await redis.acl_setuser("onward", enabled=True, passwords=["+secret"], categories=["+@all"], keys=["mine:*"])
        calls = connect(valkey.replace("unix://", f"unix://{user}@") if user else valkey, TIMEOUT)
        try:
            if user.endswith("wrong"):
                with pytest.raises(RedisError):
                    await calls.replies([("GET", "mine:x")])
            else:
                allowed, other = await calls.replies([("GET", "mine:x"), ("GET", "other")])
                assert allowed is None
                assert isinstance(other, ResponseError) == bool(user)
        finally:
            await calls.aclose()
            await redis.acl_deluser("onward")
