"""Fixtures that run every test of session stores over each implementation."""

import itertools
import random
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from onward.service.sessions import SessionStore
from tests.service.sessions.stores import open_store

STORES = ["memory", "redis"]

numbers = itertools.count()


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(kind: str, valkey: str) -> AsyncIterator[SessionStore]:
    store = open_store(kind, valkey)
    yield store
    await store.close()


@pytest.fixture
def session_id() -> str:
    return f"session-{next(numbers)}-{random.random()}"


@pytest.fixture
async def redis(valkey: str) -> AsyncIterator["Redis"]:
    """A client of the server, whose data is deleted first."""
    async with Redis.from_url(valkey) as redis:
        await redis.flushall()
        yield redis
