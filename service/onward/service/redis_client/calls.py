"""RedisCalls: how Redis is called, without retries, never for long and without the cost of a client's own calls."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha1
from typing import Any, Protocol

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from onward.service.errors import SessionStoreUnavailable
from onward.service.redis_client.address import Address
from onward.service.redis_client.cluster import ClusterCalls
from onward.service.redis_client.connection import SharedConnection
from onward.service.redis_client.wire import Argument, Command

LONGEST_CALL = timedelta(seconds=1)


class RedisCalls(Protocol):
    """Connections that all callers share, to a server, to the master that Sentinels name or to a cluster."""

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one go and return the reply to each, a RedisError for one that was refused.

        A command has its key at its second place. In a cluster what was sent to a node that does not answer is refused.
        Raises RedisError and OSError where there is no reply at all.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections; what is in flight fails."""
        ...


class ServerCalls:
    """Calls of one server, which may be another one after each time that the connection was lost."""

    def __init__(self, pool: ConnectionPool, timeout_s: float, *clients: Sentinel) -> None:
        """Take what makes connections, how long a call may take, and what else is to be closed in the end."""
        self._connection = SharedConnection(pool.make_connection)
        self._timeout_s = timeout_s
        self._clients = clients

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip."""
        if not commands:
            return []
        return await self._connection.replies(commands, asyncio.get_running_loop().time() + self._timeout_s)

    async def aclose(self) -> None:
        """Close the connection, and those to Sentinels."""
        await self._connection.aclose()
        for client in self._clients:
            await client.aclose()


def connect(url: str, timeout: timedelta = LONGEST_CALL) -> RedisCalls:
    """Name the server, as `Address` reads it; nothing is sent before the first call.

    No call is repeated and none waits past `timeout`. Raises ValueError.
    """
    address, timeout_s = Address.parse(url), timeout.total_seconds()
    ours = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    options = {**address.options, **ours}
    if address.kind == "server":
        return ServerCalls(ConnectionPool(**options), timeout_s)
    is_encrypted = options.pop("connection_class", None) is not None
    if address.kind == "sentinel":
        of_sentinels = {**address.sentinel_options, **ours}
        of_sentinels.pop("connection_class", None)
        sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py
            address.hosts, sentinel_kwargs={**of_sentinels, "ssl": is_encrypted}
        )
        pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # redis-py
            address.service, sentinels, **options, ssl=is_encrypted
        )
        return ServerCalls(pool, timeout_s, sentinels)
    nodes = [ClusterNode(host, port) for host, port in address.hosts]
    cluster = RedisCluster(startup_nodes=nodes, require_full_coverage=False, ssl=is_encrypted, **options)
    return ClusterCalls(cluster, timeout_s)


@asynccontextmanager
async def redis_call() -> AsyncIterator[None]:
    """Call Redis in this block. Raises SessionStoreUnavailable where it fails or takes too long."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise SessionStoreUnavailable("The store did not answer as it should in time.") from error


async def ask(redis: RedisCalls, *commands: Command) -> list[Any]:
    """Send commands in one go and return the reply to each. Raises RedisError, if only one is refused, and OSError."""
    replies = await redis.replies(commands)
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
    return replies


class Script:
    """A server-side script, sent whole only to a server that does not have it."""

    def __init__(self, redis: RedisCalls, text: str) -> None:
        self._redis = redis
        self._text = text
        self._digest = sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run it, once; all keys are in one slot. Raises RedisError and OSError."""
        (reply,) = await self._redis.replies([("EVALSHA", self._digest, len(keys), *keys, *arguments)])
        if isinstance(reply, NoScriptError):
            (reply,) = await ask(self._redis, ("EVAL", self._text, len(keys), *keys, *arguments))
        if isinstance(reply, RedisError):
            raise reply
        return reply

    async def all(self, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Run it several times in one go, each with its own keys and arguments; see `RedisCalls.replies`."""
        runs = [(len(keys), *keys, *arguments) for keys, arguments in calls]
        replies = await self._redis.replies([("EVALSHA", self._digest, *run) for run in runs])
        missed = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missed:
            again = await self._redis.replies([("EVAL", self._text, *runs[place]) for place in missed])
            for place, reply in zip(missed, again, strict=True):
                replies[place] = reply
        return replies
