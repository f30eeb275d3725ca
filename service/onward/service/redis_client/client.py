"""RedisClient: execute commands without retries, within a deadline, over connections that all callers share."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha1
from typing import Any, Protocol

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from onward.service.errors import SessionStoreUnavailable
from onward.service.redis_client.address import Address
from onward.service.redis_client.cluster import ClusterClient
from onward.service.redis_client.connection import Argument, Command, ReconnectingConnection

CALL_TIMEOUT = timedelta(seconds=1)


class RedisClient(Protocol):
    """A client of a server, of the master behind Sentinels, or of a cluster; safe to share between tasks."""

    @property
    def epoch(self) -> int:
        """A number that grows when a connection is opened and when slots of a cluster may have moved.

        While it stays the same, so does the server; another one may lack what was last written, as after a failover.
        """
        ...

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands as one pipeline and return the reply to each; a refused command has a RedisError as its reply.

        The second element of a command is its key. In a cluster, commands for a node that does not answer have a
        RedisError as their reply, too. Raises RedisError or OSError if no command got a reply.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections; commands in flight fail."""
        ...


class ServerClient:
    """A client of one server. Through Sentinels, each reconnect may lead to another master."""

    def __init__(self, pool: ConnectionPool, timeout_s: float, *sentinels: Sentinel) -> None:
        """Take a factory of connections, the time limit of a call, and the clients to close with this one."""
        self._pool = pool
        self._connection = ReconnectingConnection(self._new_connection)
        self._timeout_s = timeout_s
        self._sentinels = sentinels
        self.epoch = 0
        """Number of connections opened or attempted; see `RedisClient`."""

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands as one pipeline, in one round trip; see `RedisClient`."""
        if not commands:
            return []
        return await self._connection.execute(commands, asyncio.get_running_loop().time() + self._timeout_s)

    async def aclose(self) -> None:
        """Close the connection to the server and those to the Sentinels."""
        await self._connection.aclose()
        for sentinel in self._sentinels:
            await sentinel.aclose()

    def _new_connection(self) -> AbstractConnection:
        self.epoch += 1
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        return connection


def connect(url: str, timeout: timedelta = CALL_TIMEOUT) -> RedisClient:
    """Return a client for a URL, which `Address` parses. It connects lazily, with the first call.

    No call is retried, and none takes longer than `timeout`. Raises ValueError if the URL is unusable.
    """
    address, timeout_s = Address.parse(url), timeout.total_seconds()
    fixed_options = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    options = {**address.options, **fixed_options}
    if address.kind == "server":
        return ServerClient(ConnectionPool(**options), timeout_s)
    is_encrypted = options.pop("connection_class", None) is not None
    if address.kind == "sentinel":
        sentinel_options = {**address.sentinel_options, **fixed_options}
        sentinel_options.pop("connection_class", None)
        sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py
            address.hosts, sentinel_kwargs={**sentinel_options, "ssl": is_encrypted}
        )
        pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # redis-py
            address.service, sentinels, **options, ssl=is_encrypted
        )
        return ServerClient(pool, timeout_s, sentinels)
    nodes = [ClusterNode(host, port) for host, port in address.hosts]
    cluster = RedisCluster(startup_nodes=nodes, require_full_coverage=False, ssl=is_encrypted, **options)
    return ClusterClient(cluster, timeout_s)


@asynccontextmanager
async def redis_call() -> AsyncIterator[None]:
    """Turn a failure or timeout of the calls in this block into SessionStoreUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise SessionStoreUnavailable("The store did not answer in time, or refused the call.") from error


async def execute_or_raise(redis: RedisClient, *commands: Command) -> list[Any]:
    """Send commands as one pipeline and return the replies. Raises RedisError if any is refused, and OSError."""
    replies = await redis.execute(commands)
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
    return replies


class Script:
    """A server-side Lua script, called by its digest; its text is sent only to a server that does not know it.

    Calls run in the order in which they were made. So after the first one that the server did not know, new calls wait
    until all earlier ones have been answered, those that were sent again included.
    """

    def __init__(self, redis: RedisClient, text: str) -> None:
        self._redis = redis
        self._text = text
        self._digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._in_flight = 0
        self._waiting = 0
        self._may_send = asyncio.Event()
        self._may_send.set()

    async def __call__(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run the script once; all keys are in one hash slot. Raises RedisError and OSError."""
        (reply,) = await self.run_all([(keys, arguments)])
        if isinstance(reply, RedisError):
            raise reply
        return reply

    async def run_all(self, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Run the script for each pair of keys and arguments, as one pipeline; see `RedisClient.execute`."""
        runs = [(len(keys), *keys, *arguments) for keys, arguments in calls]
        if self._waiting or not self._may_send.is_set():
            await self._wait_for_turn()
        self._in_flight += 1
        try:
            replies = await self._redis.execute([("EVALSHA", self._digest, *run) for run in runs])
            unknown = [position for position, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                self._may_send.clear()
                retried = await self._redis.execute([("EVAL", self._text, *runs[position]) for position in unknown])
                for position, reply in zip(unknown, retried, strict=True):
                    replies[position] = reply
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._may_send.set()
        return replies

    async def _wait_for_turn(self) -> None:
        self._waiting += 1
        try:
            if self._may_send.is_set():
                await asyncio.sleep(0)  # the waiting calls go on in this iteration of the event loop, and are earlier
            while not self._may_send.is_set():
                await self._may_send.wait()
        finally:
            self._waiting -= 1
