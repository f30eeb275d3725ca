"""Calls of all callers are multiplexed on one connection, and no fault gives a caller the reply of another."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from onward.service.redis_client import Command, RedisClient, Script, connect
from onward.service.redis_client.circuit import FIRST_PAUSE_S, MAX_PAUSE_S, CircuitBreaker
from onward.service.redis_client.connection import (
    GRACE_S,
    MAX_IN_FLIGHT,
    ReconnectingConnection,
    open_connection,
    take_stream,
)
from tests.service.redis_client.fault_proxy import Fault, FaultProxy, fault_proxy

TIMEOUT = timedelta(milliseconds=300)  # long enough to connect on a busy machine


class ForgetfulServer:
    """Stands in for a client whose server loses its scripts once, before the tenth command."""

    epoch = 0

    def __init__(self) -> None:
        self.received = 0

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        self.received += len(commands)
        lost = self.received == 10
        for _ in range(5):
            await asyncio.sleep(0)
        return [NoScriptError() if lost else 1 for _ in commands]


@pytest.fixture
async def proxy(valkey: str, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(Path(valkey.removeprefix("unix://")), tmp_path / "proxy") as proxy:
        yield proxy


@pytest.fixture
async def through_proxy(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[RedisClient]:
    calls = connect(f"unix://{tmp_path / 'proxy'}", TIMEOUT)
    yield calls
    await calls.aclose()


@pytest.fixture
async def patient(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[RedisClient]:
    calls = connect(f"unix://{tmp_path / 'proxy'}", timedelta(seconds=10))
    yield calls
    await calls.aclose()


async def echo(calls: RedisClient, text: str) -> None:
    """Request a reply that no other caller expects."""
    (reply,) = await calls.execute([("ECHO", text)])
    assert reply == text.encode()


async def test_redis_py_has_the_private_attributes_that_take_stream_needs(valkey: str) -> None:
    connection = ConnectionPool.from_url(valkey).make_connection()  # type: ignore[no-untyped-call]  # redis-py
    await connection.connect()
    stream = take_stream(connection)
    assert isinstance(stream, asyncio.StreamWriter), "redis-py has changed: see take_stream"
    assert not connection.is_connected, "redis-py has changed: see take_stream"
    stream.close()
    await stream.wait_closed()


async def test_calls_of_one_event_loop_iteration_share_a_connection_and_a_write(
    valkey: str, calls: RedisClient
) -> None:
    async with Redis.from_url(valkey) as redis:
        await echo(calls, "open")
        before = await redis.info("stats")
        await asyncio.gather(*(echo(calls, f"text-{number}") for number in range(50)))
        after = await redis.info("stats")
    info, mark = 1, 1
    assert after["total_commands_processed"] - before["total_commands_processed"] == 50 + mark + info
    assert after["total_reads_processed"] - before["total_reads_processed"] == 1 + 1
    assert after["total_connections_received"] == before["total_connections_received"]


async def test_a_refused_command_does_not_fail_others(calls: RedisClient) -> None:
    good, refused, other = await calls.execute([("ECHO", "a"), ("NO-COMMAND", "x"), ("ECHO", "b")])
    assert (good, other) == (b"a", b"b")
    assert isinstance(refused, ResponseError)
    assert await calls.execute([]) == []


async def test_the_text_of_a_script_is_sent_only_if_the_server_lacks_it(valkey: str, calls: RedisClient) -> None:
    script = Script(calls, "return KEYS[1] .. ARGV[1]")
    async with Redis.from_url(valkey) as redis:
        for _ in range(2):
            await redis.script_flush()
            assert await script(["k"], [1]) == b"k1"
            await redis.script_flush()
            assert await script.run_all([(["a"], ["1"]), (["b"], [b"2"])]) == [b"a1", b"b2"]
    with pytest.raises(ResponseError, match="compiling"):
        await Script(calls, "nonsense")(["k"], [])


async def test_an_unencodable_command_fails_by_itself(calls: RedisClient) -> None:
    async def send_unencodable() -> None:
        good, surrogate, other, nothing = await calls.execute(
            [("ECHO", "ok"), ("ECHO", "\ud800"), ("ECHO", "fine"), ("ECHO", None)]  # type: ignore[list-item]  # wrong
        )
        assert (good, other) == (b"ok", b"fine")
        assert isinstance(surrogate, DataError)
        assert isinstance(nothing, DataError)
        (alone,) = await calls.execute([("ECHO", "\ud800")])
        assert isinstance(alone, DataError)

    await asyncio.gather(echo(calls, "a"), send_unencodable(), echo(calls, "b"))


async def test_calls_that_the_server_did_not_know_are_run_in_the_order_in_which_they_were_made(
    valkey: str, proxy: FaultProxy, patient: RedisClient
) -> None:
    script = Script(patient, "redis.call('RPUSH', KEYS[1], ARGV[1]) return redis.call('LLEN', KEYS[1])")
    key = "calls-in-order"
    async with Redis.from_url(valkey) as redis:
        await redis.delete(key)
        proxy.fault = "slices"  # replies arrive one after another
        for turn in range(10):
            await script([key], [turn * 100])
            await redis.script_flush()
            running = []
            for number in range(1, 60):
                running.append(asyncio.create_task(script([key], [turn * 100 + number])))
                await asyncio.sleep(0 if number % 3 else 0.0005)
            await asyncio.gather(*running)
        pushed = [int(number) for number in await redis.lrange(key, 0, -1)]
        await redis.delete(key)
    assert pushed == [turn * 100 + number for turn in range(10) for number in range(60)]


async def test_calls_that_waited_for_a_lost_script_are_sent_although_others_keep_coming() -> None:
    server = ForgetfulServer()
    script = Script(server, "return 1")  # type: ignore[arg-type]  # a script only executes commands
    running: list[asyncio.Task[int]] = []
    for _ in range(1_000):
        running += [asyncio.create_task(script(["key"], [])) for _ in range(3)]
        await asyncio.sleep(0)
    assert server.received > 2_500
    assert await asyncio.gather(*running) == [1] * 3_000


@pytest.mark.parametrize("fault", ["none", "slices"])
async def test_replies_reach_their_own_callers_when_calls_are_cancelled_at_random(
    proxy: FaultProxy, patient: RedisClient, fault: Fault
) -> None:
    proxy.fault = fault
    numbers = random.Random(5)
    cancelled = 0

    async def echo_or_cancel(text: str) -> None:
        nonlocal cancelled
        task = asyncio.create_task(echo(patient, text * numbers.randrange(1, 30)))
        for _ in range(numbers.randrange(30)):
            await asyncio.sleep(0)
        if numbers.random() < 0.5:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            cancelled += 1

    for turn in range(20):
        await asyncio.gather(*(echo_or_cancel(f"{turn}:{number};") for number in range(100)))
    assert 200 < cancelled < 1_800
    await echo(patient, "still the same connection")
    assert proxy.accepted == 1


@pytest.mark.parametrize("fault", ["silence", "garbage", "reset"])
async def test_a_faulty_connection_fails_its_calls_in_time_without_crossing_replies(
    proxy: FaultProxy, through_proxy: RedisClient, fault: Fault
) -> None:
    failed = 0

    async def try_echo(text: str) -> None:
        nonlocal failed
        try:
            await echo(through_proxy, text)
        except (RedisError, OSError):
            failed += 1

    for turn in range(3):
        proxy.fault = "none"
        await asyncio.sleep(MAX_PAUSE_S)
        await echo(through_proxy, f"good-{turn}")
        proxy.fault = fault
        async with asyncio.timeout(20 * TIMEOUT.total_seconds()):
            await asyncio.gather(*(try_echo(f"{turn}:{number}") for number in range(200)))
    assert failed > 200
    assert proxy.accepted <= 2 + 3 * 2, "there is no storm of connections"


async def test_an_overdue_call_fails_alone_if_its_reply_still_comes(
    proxy: FaultProxy, through_proxy: RedisClient, valkey: str
) -> None:
    await echo(through_proxy, "open")
    async with Redis.from_url(valkey) as redis:
        await redis.client_pause(30_000, all=False)
        overdue = asyncio.create_task(through_proxy.execute([("SET", "late", "1")]))
        await asyncio.sleep(TIMEOUT.total_seconds() / 2)
        later = asyncio.create_task(echo(through_proxy, "later"))
        with pytest.raises(RedisTimeoutError):
            await overdue
        await redis.client_unpause()
        await later
    await echo(through_proxy, "again")
    assert proxy.accepted == 1


async def test_a_connection_is_closed_when_a_reply_is_overdue_by_the_time_of_grace(
    proxy: FaultProxy, through_proxy: RedisClient, valkey: str
) -> None:
    await echo(through_proxy, "open")
    async with Redis.from_url(valkey) as redis:
        await redis.client_pause(30_000, all=False)
        waited_s = 0.0
        while waited_s < TIMEOUT.total_seconds() + 2 * GRACE_S:
            with pytest.raises((RedisError, OSError)):
                await asyncio.wait_for(through_proxy.execute([("SET", "late", "1")]), 2 * TIMEOUT.total_seconds())
            await asyncio.sleep(0.05)
            waited_s += 0.05
        await redis.client_unpause()
    await asyncio.sleep(2 * MAX_PAUSE_S)
    await echo(through_proxy, "later")
    assert proxy.accepted > 1


async def test_a_call_is_overdue_in_time_while_an_earlier_one_has_its_grace(
    through_proxy: RedisClient, valkey: str
) -> None:
    await echo(through_proxy, "open")
    async with Redis.from_url(valkey) as redis:
        await redis.client_pause(30_000, all=False)
        for _ in range(2):
            with pytest.raises(RedisTimeoutError):
                async with asyncio.timeout(TIMEOUT.total_seconds() + GRACE_S / 2):
                    await through_proxy.execute([("SET", "late", "1")])
            await asyncio.sleep(GRACE_S / 4)
        await redis.client_unpause()


@pytest.mark.parametrize("fault", ["lost", "repeated"])
async def test_a_reply_that_is_lost_or_repeated_shifts_no_other_to_another_caller(
    proxy: FaultProxy, through_proxy: RedisClient, fault: Fault
) -> None:
    await echo(through_proxy, "open")
    proxy.fault = fault
    texts = [f"text-{number}" for number in range(20)]
    replies = await asyncio.gather(*(through_proxy.execute([("ECHO", text)]) for text in texts), return_exceptions=True)
    for text, reply in zip(texts, replies, strict=True):
        assert isinstance(reply, RedisError) or reply == [text.encode()]
    assert any(isinstance(reply, RedisError) for reply in replies)


async def test_an_account_that_may_not_echo_is_served(valkey: str) -> None:
    async with Redis.from_url(valkey) as redis:
        await redis.acl_setuser("silent", enabled=True, nopass=True, commands=["+get"], keys=["*"])
        calls = connect(valkey.replace("unix://", "unix://silent:x@"), TIMEOUT)
        assert await calls.execute([("GET", "nothing"), ("GET", "nothing")]) == [None, None]
        await calls.aclose()
        await redis.acl_deluser("silent")


async def test_a_reply_received_while_the_event_loop_was_blocked_is_in_time(valkey: str) -> None:
    calls = connect(valkey, TIMEOUT)
    await echo(calls, "open")
    waiting = [asyncio.create_task(echo(calls, f"text {number}")) for number in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    blocked_until_s = time.monotonic() + 2 * TIMEOUT.total_seconds()
    while time.monotonic() < blocked_until_s:
        pass
    await asyncio.gather(*waiting)
    await calls.aclose()


async def test_one_attempt_to_connect_is_made_at_a_time_and_failures_are_fast(tmp_path: Path) -> None:
    accepted = 0

    async def accept_and_close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.close()

    async with await asyncio.start_unix_server(accept_and_close, tmp_path / "closing"):
        calls = connect(f"unix://{tmp_path / 'closing'}", TIMEOUT)
        for _ in range(20):
            failures = await asyncio.gather(
                *(calls.execute([("ECHO", "x")]) for _ in range(50)), return_exceptions=True
            )
            assert {type(failure) for failure in failures} == {RedisConnectionError}
        await calls.aclose()
    assert accepted <= 3


async def test_calls_beyond_the_limit_in_flight_are_refused_at_once(patient: RedisClient) -> None:
    await echo(patient, "open")
    commands = [("ECHO", "x")] * (MAX_IN_FLIGHT // 2)
    waiting = [asyncio.create_task(patient.execute(commands)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RedisError, match="Too many"):
        await patient.execute([("ECHO", "one more")])
    for replies in await asyncio.gather(*waiting):
        assert len(replies) == MAX_IN_FLIGHT // 2
    await echo(patient, "again")


async def test_the_connection_to_a_server_that_became_a_replica_is_closed(valkey: str, calls: RedisClient) -> None:
    async with Redis.from_url(valkey) as redis:
        await echo(calls, "open")
        before = (await redis.info("stats"))["total_connections_received"]
        await redis.replicaof("127.0.0.1", "1")
        try:
            (refused,) = await calls.execute([("SET", "x", "y")])
        finally:
            await redis.replicaof("NO", "ONE")
        assert isinstance(refused, ResponseError)
        await asyncio.sleep(FIRST_PAUSE_S)
        await echo(calls, "again")
        assert (await redis.info("stats"))["total_connections_received"] == before + 1


async def test_calls_in_flight_fail_when_the_client_is_closed(proxy: FaultProxy, through_proxy: RedisClient) -> None:
    await echo(through_proxy, "open")
    proxy.fault = "silence"
    waiting = asyncio.create_task(echo(through_proxy, "text"))
    await asyncio.sleep(0.01)
    await through_proxy.aclose()
    with pytest.raises(RedisConnectionError):
        await waiting


async def test_an_attempt_to_connect_is_cancelled_when_the_client_is_closed(
    proxy: FaultProxy, through_proxy: RedisClient
) -> None:
    proxy.fault = "silence"
    waiting = asyncio.create_task(echo(through_proxy, "text"))
    await proxy.connected.wait()
    await asyncio.sleep(0.01)
    await through_proxy.aclose()
    with pytest.raises(RedisConnectionError):
        await waiting


async def test_an_attempt_that_is_cancelled_before_it_runs_keeps_no_other_from_the_server(valkey: str) -> None:
    pool = ConnectionPool.from_url(valkey)
    circuit, clock = CircuitBreaker(asyncio.get_running_loop().time), asyncio.get_running_loop().time
    closed, other = (
        ReconnectingConnection(lambda: open_connection(pool.make_connection()), circuit)  # type: ignore[no-untyped-call]  # redis-py
        for _ in range(2)
    )
    circuit.failed(circuit.begin())
    await asyncio.sleep(FIRST_PAUSE_S)
    failure, _ = await asyncio.gather(closed.execute([("PING",)], clock() + 1), closed.aclose(), return_exceptions=True)
    assert isinstance(failure, RedisConnectionError)
    await asyncio.sleep(2 * FIRST_PAUSE_S)
    assert await other.execute([("PING",)], clock() + 1) == [b"PONG"]
    await other.aclose()


@pytest.mark.parametrize("user", ["", "onward:secret", "onward:wrong"])
async def test_users_and_passwords_of_a_url_authenticate(valkey: str, user: str) -> None:
    async with Redis.from_url(valkey) as redis:
        await redis.acl_setuser("default", enabled=True, nopass=True)
        await redis.acl_setuser("onward", enabled=True, passwords=["+secret"], categories=["+@all"], keys=["mine:*"])
        calls = connect(valkey.replace("unix://", f"unix://{user}@") if user else valkey, TIMEOUT)
        try:
            if user.endswith("wrong"):
                with pytest.raises(RedisError):
                    await calls.execute([("GET", "mine:x")])
            else:
                allowed, other = await calls.execute([("GET", "mine:x"), ("GET", "other")])
                assert allowed is None
                assert isinstance(other, ResponseError) == bool(user)
        finally:
            await calls.aclose()
            await redis.acl_deluser("onward")
