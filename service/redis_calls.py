"""How Redis is called: without retries, never for long, and where it is called often, without the client's own cost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.errors import SessionStoreUnavailable

MAX_CONNECTIONS = 8
LONGEST_CALL = timedelta(seconds=1)

Argument = str | bytes | int


def connect(url: str, timeout: timedelta = LONGEST_CALL, *, max_connections: int = MAX_CONNECTIONS) -> "Redis":
    """Name the server; nothing is sent before the first call. No call is retried and none waits past `timeout`."""
    timeout_s = timeout.total_seconds()
    pool = BlockingConnectionPool.from_url(
        url,
        protocol=2,
        max_connections=max_connections,
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


async def replies(redis: "Redis", commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
    """Send commands in one go and return the reply to each, a ResponseError for one that was refused.

    It takes about half of the processor time of the client's own calls. The connections, their keys, encryption and
    reconnecting are the client's; one that is left in the middle of a reply is closed, so that no other call reads it.
    Raises RedisError and OSError.
    """
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()
    try:
        packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # its stub has no int
        await connection.send_packed_command([packed], check_health=False)
        return [await _reply(connection) for _ in commands]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as refusal:
        return refusal


class Script:
    """A server-side script, sent whole only to a server that does not have it."""

    def __init__(self, redis: "Redis", text: str) -> None:
        self._redis = redis
        self._script = redis.register_script(text)

    async def __call__(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run it. Raises RedisError and OSError."""
        (reply,) = await replies(self._redis, [("EVALSHA", self._script.sha, len(keys), *keys, *arguments)])
        if isinstance(reply, NoScriptError):
            return await self._script(keys, arguments)
        if isinstance(reply, ResponseError):
            raise reply
        return reply
