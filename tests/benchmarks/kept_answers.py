"""Memory of sessions and kept answers in the store: `python -m tests.benchmarks.kept_answers BUNDLE`.

Appends events to sessions, makes answers for them over a bundle, and keeps both in a private server as the service
does. Prints a line of JSON: what the server says that they take, its own overhead included.
"""

import asyncio
import json
import random
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer
from redis.asyncio import Redis

from onward.bundle import Bundle, Options, SessionView
from onward.service.live.bundle_ids import BundleIds
from onward.service.records.answer_ids import AnswerIds
from onward.service.records.answer_log import AnswerLog
from onward.service.records.answer_stores import RedisAnswerStore
from onward.service.records.answers import Answer
from onward.service.redis_client import connect
from onward.service.sessions import Event, RedisSessionStore, session_digest
from onward.training.hardware import machine
from tests.redis_servers import redis_servers

TTL = timedelta(minutes=30)
K = 20
ALL = 0
EVENTS = (1, 5, 10, 50)


async def bytes_of_a_session(url: str, events: int) -> int:
    """Store a session with so many events; return the server's memory for all of its keys."""
    client = connect(url)
    store = RedisSessionStore(client, length=50, ttl=TTL)
    name, now_ms = f"visitor-of-{events}-events", int(time.time() * 1000)
    for number in range(events):
        await store.append(name, [Event(f"item-{number:07}", "view", now_ms + number)])
    async with Redis.from_url(url) as redis:
        keys = [key async for key in redis.scan_iter(f"onward:session:{{{session_digest(name)}}}:*")]
        size = sum([await redis.memory_usage(key, ALL) or 0 for key in keys])
    await client.aclose()
    return size


async def bytes_per_answer(url: str, bundle: Bundle, *, sessions: int, answers: int, items: int) -> list[float]:
    """Keep answers of several sessions; return the server's memory for each answer, by session."""
    client, generator = connect(url), random.Random(1)
    ids = BundleIds(Path(), kept=TTL)
    ids.serve(bundle)
    answer_ids = AnswerIds(answer_ttl=TTL)
    log = AnswerLog(RedisAnswerStore(client, ttl=TTL), ids, answer_ids, ttl=TTL)
    store = RedisSessionStore(client, length=50, ttl=TTL)
    sizes = []
    async with Redis.from_url(url) as redis:
        for name in (f"visitor-{number}" for number in range(sessions)):
            for answer_id in answer_ids.new([name] * answers):
                session = await store.append(name, (), keeps_answer=True)
                viewed = bundle.catalog.item_ids(generator.sample(range(1, bundle.manifest.items + 1), items))
                retrieved = bundle.retrieve(SessionView(viewed), Options(K)).items
                made = Answer(
                    answer_id, int(time.time() * 1000), bundle.digest, retrieved, tuple(viewed), options={"k": K}
                )
                log.add(made, bundle.catalog, session_id=name, generation=session.answer_generation or "")
                await log.flush()
                if await log.get(answer_id) != made:
                    raise AssertionError("the kept answer is another one")
            key = f"onward:session:{{{session_digest(name)}}}:served"
            sizes.append((await redis.memory_usage(key, ALL) or 0) / answers)
    await client.aclose()
    return sizes


def main(
    bundle: Annotated[Path, typer.Argument(exists=True, help="A bundle.")],
    sessions: Annotated[int, typer.Option(help="Number of sessions.", min=1)] = 20,
    answers: Annotated[int, typer.Option(help="Answers of a session, each of 20 items.", min=1)] = 10,
    items: Annotated[int, typer.Option(help="Items of a session.", min=1)] = 10,
) -> None:
    """Print the memory of an answer as one line of JSON."""
    loaded = Bundle.load(bundle)
    with tempfile.TemporaryDirectory(prefix="onward-answers-") as folder, redis_servers(Path(folder), 1) as (server,):
        measured = bytes_per_answer(server.url, loaded, sessions=sessions, answers=answers, items=items)
        sizes = asyncio.run(measured)
        session_sizes = {events: asyncio.run(bytes_of_a_session(server.url, events)) for events in EVENTS}
        info = server.execute("info")
    result = {
        "benchmark": "kept_answers",
        **machine("redis"),
        "server": f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}",
        "allocator": info["mem_allocator"],
        "items_of_the_catalog": loaded.manifest.items,
        "answers": answers,
        "items_of_a_session": items,
        "bytes_of_a_session_by_events": session_sizes,
        "bytes_per_answer": {"mean": round(mean(sizes), 1), "largest": round(max(sizes), 1)},
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
