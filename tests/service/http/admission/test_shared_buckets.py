"""Shared buckets on a real server: what several workers admit together, and what happens in an outage."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing, contextmanager
from datetime import timedelta
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.testclient import TestClient

from onward.service.app import create_app
from onward.service.errors import SessionStoreUnavailable
from onward.service.http.admission.shared_buckets import RETRY_S, Buckets, RedisBuckets, SharedBuckets, Taken
from onward.service.rate_limit import RateLimit
from onward.service.redis_client import RedisClient, connect
from onward.service.settings import IN_MEMORY, Settings
from tests.redis_servers import RedisServer, redis_servers
from tests.service.clock import Clock
from tests.service.http.admission.test_admission import ALWAYS_ADMITTED, DIGESTS, GUARDED, KEYS, with_key
from tests.service.process import wait_until

TIMEOUT = timedelta(seconds=0.3)


async def spend(buckets: SharedBuckets, caller: str) -> float:
    wait_s = buckets.spend(caller)
    return await wait_s if isawaitable(wait_s) else wait_s


async def admitted(buckets: SharedBuckets, caller: str, requests: int) -> int:
    """Spend without a pause between; return how many of the requests were admitted."""
    return sum([not await spend(buckets, caller) for _ in range(requests)])


class CountedBuckets:
    """Counts the calls, and remembers how many tokens were asked for at most."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self.calls = self.most = 0

    async def take(self, caller: str, tokens: int) -> Taken:
        self.calls, self.most = self.calls + 1, max(self.most, tokens)
        return await self._buckets.take(caller, tokens)


@pytest.fixture
async def clients(valkey: str) -> AsyncIterator[list[RedisClient]]:
    """Clients of one server, one for each of four workers."""
    async with AsyncExitStack() as running:
        yield [await running.enter_async_context(aclosing(connect(valkey))) for _ in range(4)]


def of(text: str, request: pytest.FixtureRequest, client: RedisClient, **options: Any) -> SharedBuckets:
    """Return a worker's buckets, with keys of this test alone."""
    limit = RateLimit.parse(text)
    return SharedBuckets(limit, RedisBuckets(client, limit, prefix=f"onward:{request.node.name}:"), **options)


class TestLimit:
    async def test_workers_together_admit_no_more_than_the_limit_at_once(
        self, clients: list[RedisClient], request: pytest.FixtureRequest
    ) -> None:
        workers = [of("400/day", request, client) for client in clients]
        counts = await asyncio.gather(*(admitted(worker, "caller", 20) for worker in workers for _ in range(20)))
        assert 320 <= sum(counts) <= 400, "at most a 20th of the limit lies in the lease of each worker"
        assert await admitted(workers[0], "other", 5) == 5

    @pytest.mark.parametrize("text", ["1/day", "3/hour", "7/hour", "19/day"])
    async def test_a_small_limit_is_spent_to_the_last_token(
        self, text: str, clients: list[RedisClient], request: pytest.FixtureRequest
    ) -> None:
        workers = [of(text, request, client) for client in clients]
        counts = await asyncio.gather(*(admitted(worker, "caller", 10) for worker in workers))
        assert sum(counts) == RateLimit.parse(text).requests

    async def test_a_rate_is_kept_over_time(self, clients: list[RedisClient], request: pytest.FixtureRequest) -> None:
        workers = [of("100/second", request, client) for client in clients]
        began_s, counts = time.monotonic(), [0] * len(workers)

        async def insist(number: int) -> None:
            while time.monotonic() < began_s + 1:
                counts[number] += not await spend(workers[number], "caller")
                await asyncio.sleep(0.001)

        await asyncio.gather(*(insist(number) for number in (0, 0, 1, 2, 3)))
        took_s = time.monotonic() - began_s
        assert 100 <= sum(counts) <= 100 + 100 * (took_s + workers[0].lease_s)

    async def test_the_wait_is_that_until_the_next_token(
        self, clients: list[RedisClient], request: pytest.FixtureRequest
    ) -> None:
        first, second = (of("4/minute", request, client) for client in clients[:2])
        assert await admitted(first, "caller", 3) + await admitted(second, "caller", 2) == 4
        assert 10 < await spend(first, "caller") <= 15

    async def test_limits_that_differ_as_in_a_rolling_update_do_not_meet(
        self, clients: list[RedisClient], request: pytest.FixtureRequest
    ) -> None:
        old, new = of("2/day", request, clients[0]), of("5/second", request, clients[1])
        assert await admitted(old, "caller", 3) == 2
        assert await admitted(new, "caller", 3) == 3


class TestCalls:
    async def test_a_caller_with_traffic_hardly_ever_waits_for_the_store(self, calls: RedisClient) -> None:
        limit = RateLimit.parse("20000/day")
        counted = CountedBuckets(RedisBuckets(calls, limit, prefix="onward:test-calls:"))
        assert await admitted(SharedBuckets(limit, counted), "caller", 4_000) == 4_000
        assert counted.calls <= 16
        assert counted.most == 20_000 // 20

    async def test_requests_that_wait_together_share_a_call(self, calls: RedisClient) -> None:
        limit = RateLimit.parse("60/day")
        counted = CountedBuckets(RedisBuckets(calls, limit, prefix="onward:test-together:"))
        buckets = SharedBuckets(limit, counted)
        waits = await asyncio.gather(*(spend(buckets, "caller") for _ in range(100)))
        assert (waits.count(0.0), counted.calls) == (60, 2)
        await admitted(buckets, "caller", 50)
        assert counted.calls == 2, "a refused caller does not reach the store"

    async def test_a_request_that_is_given_up_takes_no_token_from_those_that_wait(self, calls: RedisClient) -> None:
        limit = RateLimit.parse("10/day")
        buckets = SharedBuckets(limit, RedisBuckets(calls, limit, prefix="onward:test-given-up:"))
        requests = [asyncio.ensure_future(spend(buckets, "caller")) for _ in range(11)]
        await asyncio.sleep(0)
        requests[0].cancel()
        assert [await request for request in requests[1:]] == [0.0] * 10

    async def test_tokens_of_a_lease_are_spent_in_time_or_lost(
        self, calls: RedisClient, clock: Clock, request: pytest.FixtureRequest
    ) -> None:
        buckets = of("200/day", request, calls, clock=clock)
        counts = [await admitted(buckets, "caller", 100)]
        clock.advance(timedelta(seconds=1.1))
        counts.append(await admitted(buckets, "caller", 100))
        assert 180 <= sum(counts) < 200
        assert await spend(buckets, "caller") > 0

    async def test_callers_unseen_for_longest_are_forgotten(
        self, calls: RedisClient, request: pytest.FixtureRequest
    ) -> None:
        buckets = of("2/day", request, calls, max_callers=3)
        for caller in "abcde":
            assert await admitted(buckets, caller, 3) == 2
        assert await spend(buckets, "a") > 0, "the server has not forgotten it"
        assert len(buckets._leases) == 3

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3_000)), max_size=60))
    def test_no_order_of_requests_and_pauses_exceeds_the_limit(self, requests: list[tuple[int, int]]) -> None:
        asyncio.run(keep_to_the_limit(requests))


class BucketsOfOneClock:
    """A twin of the script, with the exact arithmetic of a token bucket."""

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        self._limit, self._clock = limit, clock
        self._tokens, self._seen_s = float(limit.requests), clock()

    async def take(self, caller: str, tokens: int) -> Taken:
        assert caller == "caller"
        now_s, rate = self._clock(), self._limit.requests / self._limit.period_s
        self._tokens = min(self._limit.requests, self._tokens + (now_s - self._seen_s) * rate)
        self._seen_s = now_s
        taken = min(tokens, int(self._tokens))
        self._tokens -= taken
        return Taken(taken, 0.0 if taken else (1 - self._tokens) / rate)


async def keep_to_the_limit(requests: list[tuple[int, int]]) -> None:
    """Send requests to three workers, each after a pause in ms; check the bound in every time between two of them."""
    limit, clock = RateLimit.parse("40/minute"), Clock()
    store = BucketsOfOneClock(limit, clock)
    workers = [SharedBuckets(limit, store, clock=clock) for _ in range(3)]
    times_s: list[float] = []
    for worker, pause_ms in requests:
        clock.now_s += pause_ms / 1000
        times_s += [clock.now_s for _ in range(8) if not await spend(workers[worker], "caller")]
    for first, begin_s in enumerate(times_s):
        for last in range(first, len(times_s)):
            allowed = 40 + (times_s[last] - begin_s + workers[0].lease_s) * 40 / 60
            assert last - first + 1 <= allowed + 1e-6


class TestServer:
    async def test_the_clocks_of_workers_do_not_matter(
        self, clients: list[RedisClient], request: pytest.FixtureRequest
    ) -> None:
        early, late = Clock(), Clock()
        late.advance(timedelta(days=400))
        workers = [
            of("10/day", request, client, clock=clock) for client, clock in zip(clients, (early, late), strict=False)
        ]
        assert sum([await admitted(worker, "caller", 7) for worker in workers]) == 10

    async def test_a_clock_of_the_server_that_was_set_back_refuses_nobody_for_long(
        self, calls: RedisClient, redis: Redis
    ) -> None:
        buckets = RedisBuckets(calls, RateLimit.parse("10/minute"), prefix="onward:test-set-back:")
        await redis.set(buckets.key("caller"), (time.time() + 10 * 86_400) * 1e6)
        taken = await buckets.take("caller", 1)
        assert taken.tokens == 0
        assert taken.wait_s == pytest.approx(6, abs=0.01)

    async def test_a_key_that_holds_something_else_counts_as_a_full_bucket(
        self, calls: RedisClient, redis: Redis
    ) -> None:
        buckets = RedisBuckets(calls, RateLimit.parse("10/minute"), prefix="onward:test-foreign:")
        await redis.set(buckets.key("caller"), "no number")
        assert await buckets.take("caller", 20) == (10, 0)

    @pytest.mark.parametrize("text", ["1/second", "3/minute", "1000/second", "999999999/second", "999999999/day"])
    async def test_a_full_bucket_holds_the_limit_and_its_key_expires_when_it_is_full_again(
        self, text: str, calls: RedisClient, redis: Redis
    ) -> None:
        limit = RateLimit.parse(text)
        buckets = RedisBuckets(calls, limit, prefix="onward:test-full:")
        assert await buckets.take("caller", 10**9) == (limit.requests, 0)
        assert limit.period_s - 30 < await redis.pttl(buckets.key("caller")) / 1000 <= limit.period_s

    async def test_a_key_names_no_caller_and_lies_in_one_slot(self, calls: RedisClient) -> None:
        buckets = RedisBuckets(calls, RateLimit.parse("1/second"))
        assert re.fullmatch(r"onward:\{rate:1/second:[0-9a-f]{32}\}", buckets.key("203.0.113.7"))
        assert buckets.key("203.0.113.7") != buckets.key("203.0.113.8")


class TestOutage:
    async def test_each_worker_counts_by_itself_until_the_store_is_back(self, tmp_path: Path, clock: Clock) -> None:
        limit = RateLimit.parse("10/hour")
        with redis_servers(tmp_path, 1) as (server,), structlog.testing.capture_logs() as log:
            async with aclosing(connect(server.url, TIMEOUT)) as client:
                buckets = SharedBuckets(limit, RedisBuckets(client, limit), clock=clock)
                assert await admitted(buckets, "caller", 4) == 4
                server.kill()
                assert await admitted(buckets, "caller", 10) == 6, "what it had admitted counts"
                assert await spend(buckets, "caller") == pytest.approx(360)
                assert await admitted(buckets, "other", 11) == 10
                assert [line["event"] for line in log] == ["rate limit counted by each worker"]
                server.start()
                await until_shared(buckets, clock, server)
                assert await admitted(buckets, "new", 11) == 10
        assert [line["event"] for line in log].count("rate limit counted by each worker") == 1

    async def test_a_store_that_hangs_delays_one_request_of_a_caller_in_a_while(
        self, tmp_path: Path, clock: Clock
    ) -> None:
        limit = RateLimit.parse("1000/hour")
        with redis_servers(tmp_path, 1) as (server,), paused(server):
            async with aclosing(connect(server.url, TIMEOUT)) as client:
                buckets = SharedBuckets(limit, RedisBuckets(client, limit), clock=clock)
                for _ in range(3):
                    began_s = time.monotonic()
                    assert await admitted(buckets, "caller", 50) == 50
                    assert time.monotonic() - began_s < 25 * TIMEOUT.total_seconds()
                    clock.advance(timedelta(seconds=RETRY_S + 0.1))

    async def test_while_one_request_tries_a_failed_store_the_others_go_on(self, clock: Clock) -> None:
        class Recovering:
            calls, is_back = 0, asyncio.Event()

            async def take(self, _caller: str, tokens: int) -> Taken:
                self.calls += 1
                if self.calls == 1:
                    raise SessionStoreUnavailable
                await self.is_back.wait()
                return Taken(tokens, 0)

        store = Recovering()
        buckets = SharedBuckets(RateLimit.parse("20/hour"), store, clock=clock)
        assert await admitted(buckets, "caller", 2) == 2
        clock.advance(timedelta(seconds=RETRY_S + 0.1))
        trying = asyncio.ensure_future(spend(buckets, "caller"))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert await admitted(buckets, "caller", 20) == 18
        assert not trying.done()
        store.is_back.set()
        assert await trying == 0
        assert await admitted(buckets, "caller", 1) == 1

    async def test_the_metrics_count_the_calls_that_failed(self, clock: Clock) -> None:
        limit = RateLimit.parse("3/hour")
        async with aclosing(connect("redis://127.0.0.1:1", TIMEOUT)) as client:
            buckets = SharedBuckets(limit, RedisBuckets(client, limit), clock=clock)
            assert await admitted(buckets, "caller", 5) == 3
        samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
        assert any(
            sample.name == "onward_store_failures_total" and sample.labels["store"] == "rate_limit"
            for sample in samples
        )


async def until_shared(buckets: SharedBuckets, clock: Clock, server: RedisServer) -> None:
    """Wait until the calls of a worker reach the server again."""
    for _ in range(200):
        clock.advance(timedelta(seconds=RETRY_S))
        await spend(buckets, "probe")
        if server.execute("keys", "onward:*"):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the store is not asked again")


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    pid = int(server.execute("info", "server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def services(bundles: Path, url: str, count: int, **settings: Any) -> Iterator[list[TestClient]]:
    """Run services in this process that share a store and count in it."""
    with ExitStack() as running:
        clients = []
        for _ in range(count):
            deployment = Settings(bundles=bundles, redis_url=SecretStr(url), rate_limit_scope="deployment", **settings)
            client = running.enter_context(TestClient(create_app(deployment), raise_server_exceptions=False))
            wait_until(lambda client=client: client.get("/health/ready").status_code == 200)
            clients.append(client)
        yield clients


class TestService:
    def test_services_share_the_limit_of_a_key(self, bundles: Path, tmp_path: Path) -> None:
        with (
            redis_servers(tmp_path, 1) as (server,),
            services(bundles, server.url, 2, rate_limit=RateLimit.parse("3/hour"), api_keys=DIGESTS) as clients,
        ):
            statuses = [clients[number % 2].get(GUARDED, headers=with_key(KEYS[0])).status_code for number in range(5)]
            assert statuses == [200, 200, 200, 429, 429]
            refused = clients[0].post("/v1/recommendations", content=b"whatever", headers=with_key(KEYS[0]))
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
            assert 1100 < int(refused.headers["retry-after"]) <= 1200
            assert 'onward_refused_requests_total{code="too_many_requests"}' in clients[0].get("/metrics").text
            assert {client.get(path).status_code for client in clients for path in ALWAYS_ADMITTED} == {200}
            assert {client.get(GUARDED, headers=with_key("wrong")).status_code for client in clients} == {403}
            assert clients[1].get(GUARDED, headers=with_key(KEYS[1])).status_code == 200
            names = b" ".join(server.execute("keys", "*rate*")).decode()
            assert names.count("{rate:3/hour:") == 2
            assert not any(secret in names for secret in (*KEYS, *DIGESTS))
            server.kill()
            statuses = [
                client.get(GUARDED, headers=with_key(KEYS[1])).status_code for client in clients for _ in "abcd"
            ]
            assert statuses == [200, 200, 200, 429, 200, 200, 429, 429]

    def test_in_memory_the_worker_is_the_deployment(self, bundles: Path) -> None:
        with services(bundles, IN_MEMORY, 1, rate_limit=RateLimit.parse("2/hour")) as (client,):
            assert [client.get(GUARDED).status_code for _ in range(3)] == [200, 200, 429]
