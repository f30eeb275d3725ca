"""Cost of one call to Redis: `python -m tests.benchmarks.redis_calls`.

A call appends an item to a short session and reads it: with redis-py in several ways, and as the service does it. All
run against a private server over TCP and over a Unix socket, one call at a time and with 32 in flight, in turn, round
by round. Prints one line of JSON with the medians: processor time of client and server per call in us, and calls per
second, which are less reliable where cores are shared.
"""

import asyncio
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
import uvloop
from redis.asyncio import Redis

from onward.service.redis_client import Script, connect
from onward.service.sessions import Event, RedisSessionStore
from onward.training.hardware import machine
from tests.redis_servers import redis_servers

SESSIONS = 500
LENGTH = 20
TTL_MS = 1_800_000
IN_FLIGHT = 32
WARM_UP = 64
SCRIPT = """\
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -20, -1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('LRANGE', KEYS[1], 0, -1)
"""

Call = Callable[[str], Awaitable[Any]]


def redis_py_calls(redis: "Redis") -> Iterator[tuple[str, Call]]:
    """Yield the ways of redis-py, by name."""

    async def separate(key: str) -> Any:
        await redis.rpush(key, "item-1")
        await redis.ltrim(key, -LENGTH, -1)
        await redis.pexpire(key, TTL_MS)
        return await redis.lrange(key, 0, -1)

    async def pipeline(key: str) -> Any:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.rpush(key, "item-1")
            pipe.ltrim(key, -LENGTH, -1)
            pipe.pexpire(key, TTL_MS)
            pipe.lrange(key, 0, -1)
            return await pipe.execute()

    script = redis.register_script(SCRIPT)

    yield "redis-py: four calls", separate
    yield "redis-py: pipeline", pipeline
    yield "redis-py: script", lambda key: script([key], ["item-1", TTL_MS])


async def ways(url: str, running: AsyncExitStack) -> dict[str, Call]:
    """Return all ways to measure, by name."""
    redis = await running.enter_async_context(Redis.from_url(url, protocol=2))
    calls = connect(url)
    running.push_async_callback(calls.aclose)
    script = Script(calls, SCRIPT)
    store = RedisSessionStore.connect(
        url, length=LENGTH, ttl=timedelta(milliseconds=TTL_MS), timeout=timedelta(seconds=5)
    )
    running.push_async_callback(store.close)
    event = Event("item-1", "view", 1_795_320_187_673)
    return {
        **dict(redis_py_calls(redis)),
        "shared connection: script": lambda key: script([key], ["item-1", TTL_MS]),
        "session store: append": lambda key: store.append(key, [event], keeps_answer=True),
        "session store: read": lambda key: store.append(key, ()),
    }


async def measure(call: Call, keys: Sequence[str], in_flight: int, redis: "Redis") -> tuple[float, float, float]:
    """Return the processor time of client and server per call, in us, and calls per second."""

    async def call_each(own_keys: Sequence[str]) -> None:
        for key in own_keys:
            await call(key)

    server_s, client_s, started_s = await server_time_s(redis), time.thread_time(), time.perf_counter()
    await asyncio.gather(*(call_each(keys[place::in_flight]) for place in range(in_flight)))
    wall_s, client_s = time.perf_counter() - started_s, time.thread_time() - client_s
    server_s = await server_time_s(redis) - server_s
    return client_s / len(keys) * 1e6, server_s / len(keys) * 1e6, len(keys) / wall_s


async def server_time_s(redis: "Redis") -> float:
    """Return the processor time of the server so far, in seconds."""
    cpu = await redis.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


async def compare(url: str, calls: int, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Measure all ways in turn; return figures by name and calls in flight."""
    samples: defaultdict[tuple[str, int], list[tuple[float, float, float]]] = defaultdict(list)
    numbers = cycle(range(SESSIONS))
    async with AsyncExitStack() as running:
        redis = await running.enter_async_context(Redis.from_url(url))
        for _ in range(rounds):
            for name, call in (await ways(url, running)).items():
                for in_flight in (1, IN_FLIGHT):
                    prefix = "store" if "store" in name else "list"
                    keys = [f"{prefix}-{next(numbers)}" for _ in range(calls)]
                    await measure(call, keys[:WARM_UP], in_flight, redis)
                    samples[name, in_flight].append(await measure(call, keys, in_flight, redis))
    table: defaultdict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (name, in_flight), figures in samples.items():
        client_us, server_us, per_s = (median(values) for values in zip(*figures, strict=True))
        table[name][f"{in_flight} in flight"] = {
            "client_us": round(client_us, 1),
            "server_us": round(server_us, 1),
            "calls_per_s": round(per_s),
        }
    return dict(table)


def main(
    calls: Annotated[int, typer.Option(help="Calls of each way per round.", min=IN_FLIGHT)] = 2_000,
    rounds: Annotated[int, typer.Option(help="Rounds in which the ways take turns.", min=1)] = 5,
) -> None:
    """Print the cost of each way as one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="onward-redis-") as folder:
        socket = Path(folder) / "socket"
        with redis_servers(Path(folder), 1, "--unixsocket", str(socket)) as (server,):
            transports = {
                transport: uvloop.run(compare(url, calls, rounds))
                for transport, url in (("tcp", server.url), ("unix socket", f"unix://{socket}"))
            }
    result = {
        "benchmark": "redis_calls",
        **machine("redis", "hiredis", "uvloop"),
        "calls": calls,
        "rounds": rounds,
        **transports,
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
