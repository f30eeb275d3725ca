"""How records beside the answers reach Redis: by connections of their own, and never for long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import SessionStoreUnavailable

MAX_CONNECTIONS = 8
LONGEST_CALL = timedelta(seconds=1)


def connect(url: str, timeout: timedelta = LONGEST_CALL) -> "Redis":
    """Name the server; nothing is sent before the first call. No call is retried and none waits past `timeout`."""
    timeout_s = timeout.total_seconds()
    pool = BlockingConnectionPool.from_url(
        url,
        protocol=2,
        max_connections=MAX_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


@asynccontextmanager
async def redis_call(longest: timedelta = LONGEST_CALL) -> AsyncIterator[None]:
    """Call Redis in this block. Raises SessionStoreUnavailable where it fails or takes longer."""
    try:
        async with asyncio.timeout(longest.total_seconds()):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise SessionStoreUnavailable("The store did not answer as it should in time.") from error
