"""RedisClient: execute commands without retries, within a deadline, over connections that all callers share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha1
from typing import Any, Protocol

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from onward.service.errors import ServiceError, SessionStoreUnavailable
from onward.service.redis_client.address import Address
from onward.service.redis_client.circuit import CircuitBreaker
from onward.service.redis_client.cluster import ClusterClient, SlotMap
from onward.service.redis_client.connection import (
    HANDSHAKE_TIMEOUT_S,
    Argument,
    Command,
    ReconnectingConnection,
    open_connection,
)
from onward.service.redis_client.scan import ScanPage, scan_command, scan_page
from onward.service.redis_client.sentinel import Sentinels

CALL_TIMEOUT = timedelta(seconds=1)
UNDECODABLE = "The store sent a reply that is not one to the call."


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

    async def scan(self, cursor: str, pattern: str, count: int) -> ScanPage:
        """Return some of the keys that match a pattern, after looking at about `count` keys of one server.

        A key that exists all the while is returned at least once, in a cluster unless its slot moves meanwhile. Raises
        RedisError and OSError.

        Args:
            cursor: that of the page before, or FIRST_SCAN; it has the form of FIRST_SCAN.
            pattern: a glob-style pattern.
            count: how many keys to look at.
        """
        ...

    def drop(self, reason: str) -> None:
        """Close the connections, because what they carry cannot be relied on; the next calls open others."""
        ...

    async def aclose(self) -> None:
        """Close the connections; commands in flight fail."""
        ...


class ServerClient:
    """A client of one server. Through Sentinels, each reconnect may lead to another master."""

    def __init__(
        self,
        open_: Callable[[], Awaitable[AbstractConnection]],
        circuit: CircuitBreaker,
        timeout_s: float,
    ) -> None:
        """Take what opens a connection, the circuit breaker of the server, and the time limit of a call."""
        self._open = open_
        self.connection = ReconnectingConnection(self._counted, circuit)
        self._timeout_s = timeout_s
        self.epoch = 0
        """Number of connections opened or attempted; see `RedisClient`."""

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands as one pipeline, in one round trip; see `RedisClient`."""
        if not commands:
            return []
        return await self.connection.execute(commands, asyncio.get_running_loop().time() + self._timeout_s)

    async def scan(self, cursor: str, pattern: str, count: int) -> ScanPage:
        """Scan the server; see `RedisClient`."""
        (reply,) = await self.execute([scan_command(cursor, pattern, count)])
        return scan_page(reply, shard=0, shards=1)

    def drop(self, reason: str) -> None:
        """Close the connection; see `RedisClient`."""
        self.connection.drop(reason)

    async def aclose(self) -> None:
        """Close the connection to the server."""
        await self.connection.aclose()

    def _counted(self) -> Awaitable[AbstractConnection]:
        self.epoch += 1
        return self._open()


class Connector(Protocol):
    """Makes clients of what one URL names. They share what they know of it: that it is down, and which server is which.

    A process has one connector for a URL, so that all its connections together make few attempts in an outage.
    """

    def client(self, timeout: timedelta = CALL_TIMEOUT) -> RedisClient:
        """Return a client, which connects lazily, with the first call.

        No call is retried, and none takes longer than `timeout`.
        """
        ...

    async def aclose(self) -> None:
        """Close what the clients share, once they are closed."""
        ...


class ServerConnector:
    """Makes clients of one server."""

    def __init__(self, pool: ConnectionPool) -> None:
        """Take a factory of connections."""
        self._pool = pool
        self._circuit = CircuitBreaker(_now_s)

    def client(self, timeout: timedelta = CALL_TIMEOUT) -> ServerClient:
        """Return a client with a connection of its own."""
        return ServerClient(self._open, self._circuit, timeout.total_seconds())

    async def aclose(self) -> None:
        """Do nothing: the pool made connections, and kept none."""

    def _open(self) -> Awaitable[AbstractConnection]:
        return open_connection(self._pool.make_connection())  # type: ignore[no-untyped-call]  # redis-py


class SentinelConnector:
    """Makes clients of the master behind Sentinels."""

    def __init__(self, sentinels: Sentinels, circuit: CircuitBreaker) -> None:
        self._sentinels = sentinels
        self._circuit = circuit

    def client(self, timeout: timedelta = CALL_TIMEOUT) -> ServerClient:
        """Return a client with a connection of its own, which follows the master."""
        client = ServerClient(self._sentinels.open, self._circuit, timeout.total_seconds())
        self._sentinels.watch(client.connection, timeout.total_seconds())
        return client

    async def aclose(self) -> None:
        """Stop following the Sentinels."""
        await self._sentinels.aclose()


class ClusterConnector:
    """Makes clients of a cluster, which share one slot map."""

    def __init__(self, slots: SlotMap) -> None:
        self._slots = slots

    def client(self, timeout: timedelta = CALL_TIMEOUT) -> ClusterClient:
        """Return a client with connections of its own."""
        return ClusterClient(self._slots, timeout.total_seconds())

    async def aclose(self) -> None:
        """Close the slot map."""
        await self._slots.aclose()


def open_connector(url: str) -> Connector:
    """Return a connector for a URL, which `Address` parses. Raises ValueError if the URL is unusable."""
    address = Address.parse(url)
    fixed_options = {
        "protocol": 2,
        "socket_timeout": HANDSHAKE_TIMEOUT_S,
        "socket_connect_timeout": HANDSHAKE_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    options = {**address.options, **fixed_options}
    if address.kind == "server":
        return ServerConnector(ConnectionPool(**options))
    is_encrypted = options.pop("connection_class", None) is not None
    if address.kind == "sentinel":
        sentinel_options = {**address.sentinel_options, **fixed_options}
        sentinel_options.pop("connection_class", None)
        circuit = CircuitBreaker(_now_s)
        sentinels = Sentinels(
            address.hosts,
            address.service,
            circuit,
            connection_options=options,
            sentinel_options=sentinel_options,
            is_encrypted=is_encrypted,
        )
        return SentinelConnector(sentinels, circuit)
    nodes = [ClusterNode(host, port) for host, port in address.hosts]
    return ClusterConnector(
        SlotMap(RedisCluster(startup_nodes=nodes, require_full_coverage=False, ssl=is_encrypted, **options))
    )


class OnlyClient:
    """The only client of a connector, which is closed with it."""

    def __init__(self, connector: Connector, timeout: timedelta) -> None:
        self._connector = connector
        self._client = connector.client(timeout)
        self.execute = self._client.execute
        self.scan = self._client.scan
        self.drop = self._client.drop

    @property
    def epoch(self) -> int:
        """The epoch of the client."""
        return self._client.epoch

    async def aclose(self) -> None:
        """Close the client and the connector."""
        await self._client.aclose()
        await self._connector.aclose()


def connect(url: str, timeout: timedelta = CALL_TIMEOUT) -> RedisClient:
    """Return a client for a URL that shares nothing with others. Raises ValueError if the URL is unusable."""
    return OnlyClient(open_connector(url), timeout)


@asynccontextmanager
async def store_call(
    redis: RedisClient, unavailable: type[ServiceError] = SessionStoreUnavailable
) -> AsyncIterator[None]:
    """Turn any failure of the calls in this block, and of decoding their replies, into an error of one class.

    A reply that cannot be decoded is not what the server was asked for, so the connection is dropped.
    """
    try:
        yield
    except ServiceError:
        raise
    except (RedisError, OSError) as error:
        raise unavailable("The store did not answer in time, or refused the call.") from error
    except Exception as error:
        redis.drop(UNDECODABLE)
        raise unavailable(UNDECODABLE) from error


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
        commands: list[Command] = [("EVALSHA", self._digest, len(keys), *keys, *arguments) for keys, arguments in calls]
        if self._waiting or not self._may_send.is_set():
            await self._wait_for_turn()
        self._in_flight += 1
        try:
            replies = await self._redis.execute(commands)
            unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                self._may_send.clear()
                retried = await self._redis.execute([("EVAL", self._text, *commands[place][2:]) for place in unknown])
                for place, reply in zip(unknown, retried, strict=True):
                    replies[place] = reply
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


def _now_s() -> float:
    return asyncio.get_running_loop().time()
