"""ClusterClient: route commands to the nodes of a cluster by a SlotMap, over one shared connection for each node."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from onward.service.redis_client.circuit import CircuitBreaker
from onward.service.redis_client.connection import Command, ReconnectingConnection, open_connection
from onward.service.redis_client.scan import ScanPage, scan_command, scan_page, shard_of

MAX_REDIRECTIONS = 16
TRY_AGAIN_S = 0.005
REFRESH_INTERVAL_S = 0.5
"""Least time between two refreshes of the slot map, since each takes milliseconds of the event loop."""
FAILED_REFRESH_INTERVAL_S = 3.0
"""The same if no node answered the last one; attempts to reach the nodes themselves go on meanwhile."""
MAX_REFRESH_S = 5.0


class SlotMap:
    """Which node has a key: the slot map that redis-py maintains, and a circuit breaker for each node.

    It is refreshed in the background when a node cannot be reached or reports that slots have moved. All clients of a
    process share it.
    """

    def __init__(self, cluster: RedisCluster) -> None:
        """Take a redis-py client, which is used only for its slot map."""
        self._cluster = cluster
        self._circuits: dict[str, CircuitBreaker] = {}
        self._first_circuit = CircuitBreaker(_now_s)
        self._refreshing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._not_before_s = 0.0
        self.is_loaded = False
        self.version = 0
        """Number of slots moved and slot maps read."""

    def node(self, command: Command) -> ClusterNode | None:
        """Return the node of the command's key; any node for a key that cannot be encoded, which fails there alone."""
        key = command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
        try:
            return self._cluster.get_node_from_key(str(key).encode(errors="replace").decode())
        except SlotNotCoveredError:
            return None

    def node_at(self, host: str, port: int) -> ClusterNode | None:
        """Return a node by its address, None if the map does not have it."""
        return self._cluster.get_node(host=host, port=port)

    def node_names(self) -> set[str]:
        """Return the names of all nodes."""
        return {node.name for node in self._cluster.get_nodes()}

    def masters(self) -> list[ClusterNode]:
        """Return the nodes that have slots of their own, in an order that stays the same."""
        return sorted(self._cluster.get_primaries(), key=lambda node: node.name)

    def circuit(self, node: ClusterNode) -> CircuitBreaker:
        """Return the circuit breaker of a node."""
        return self._circuits.setdefault(node.name, CircuitBreaker(_now_s))

    async def load(self, deadline_s: float) -> None:
        """Wait for the first slot map. Raises RedisError and OSError."""
        self.start_refresh()
        if self._refreshing is None:
            raise RedisConnectionError("The cluster could not be reached a moment ago.") from self._failure
        async with asyncio.timeout_at(deadline_s):
            await asyncio.shield(self._refreshing)
        if not self.is_loaded:
            raise RedisConnectionError("The cluster could not be reached.") from self._failure

    async def move(self, moved: MovedError) -> None:
        """Take in that a slot has moved."""
        self.version += 1
        await self._cluster.nodes_manager.move_slot(moved)

    def start_refresh(self) -> None:
        """Start to refresh the map, unless a refresh is running or has just ended."""
        if self._refreshing is not None or _now_s() < self._not_before_s:
            return
        try:
            era = 0 if self.is_loaded else self._first_circuit.begin()
        except RedisConnectionError:
            return
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh(era))

    async def aclose(self) -> None:
        """Close the connections that read the map."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        for nodes in ("nodes_cache", "startup_nodes"):
            await self._cluster.nodes_manager.aclose(nodes)

    async def _refresh(self, era: int) -> None:
        interval_s = REFRESH_INTERVAL_S
        try:
            async with asyncio.timeout(MAX_REFRESH_S):
                await self._cluster.nodes_manager.initialize()
            self.is_loaded = True
            self.version += 1
        except Exception as error:  # the map stays as it was, and the next call that fails starts another refresh
            self._failure = error
            self._first_circuit.failed(era, error)
            interval_s = FAILED_REFRESH_INTERVAL_S if self.is_loaded else 0.0
        finally:
            self._not_before_s = _now_s() + interval_s
            self._refreshing = None


class ClusterClient:
    """Sends each command to the node that holds its key."""

    def __init__(self, slots: SlotMap, timeout_s: float) -> None:
        """Take the slot map and the time limit of a call."""
        self._slots = slots
        self._timeout_s = timeout_s
        self._connections: dict[str, ReconnectingConnection] = {}
        self._slots_version = 0
        self._opened = 0

    @property
    def epoch(self) -> int:
        """Number of connections opened or attempted, slots moved and slot maps read; see `RedisClient`."""
        return self._opened + self._slots.version

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, one pipeline for each node, and return the reply to each; see `RedisClient`."""
        if not commands:
            return []
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        if not self._slots.is_loaded:
            await self._slots.load(deadline_s)
        if self._slots_version != self._slots.version:
            await self._close_absent_nodes()
        if len(commands) == 1:
            replies = [await self._execute_one(commands[0], deadline_s)]
        else:
            replies = await self._execute_all(commands, deadline_s)
        failures = [reply for reply in replies if isinstance(reply, _NoReply)]
        if failures or any(isinstance(reply, ClusterDownError) for reply in replies):
            self._slots.start_refresh()
        if len(failures) == len(commands):
            raise failures[0].reason
        return [reply.reason if isinstance(reply, _NoReply) else reply for reply in replies]

    async def scan(self, cursor: str, pattern: str, count: int) -> ScanPage:
        """Scan one master after another; see `RedisClient`."""
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        if not self._slots.is_loaded:
            await self._slots.load(deadline_s)
        masters, shard = self._slots.masters(), shard_of(cursor)
        if shard >= len(masters):
            return ScanPage([], None)
        (reply,) = await self._execute_at(masters[shard], [scan_command(cursor, pattern, count)], deadline_s)
        if isinstance(reply, _NoReply):
            raise reply.reason
        return scan_page(reply, shard=shard, shards=len(masters))

    def drop(self, reason: str) -> None:
        """Close the connections, so that the next calls open others; see `RedisClient`."""
        for connection in self._connections.values():
            connection.drop(reason)

    async def aclose(self) -> None:
        """Close all connections; commands in flight fail."""
        await asyncio.gather(*(connection.aclose() for connection in self._connections.values()))

    async def _close_absent_nodes(self) -> None:
        self._slots_version = self._slots.version
        names = self._slots.node_names()
        for name in [name for name in self._connections if name not in names]:
            await self._connections.pop(name).aclose()

    async def _execute_all(self, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        positions_by_node: defaultdict[ClusterNode | None, list[int]] = defaultdict(list)
        for position, command in enumerate(commands):
            positions_by_node[self._slots.node(command)].append(position)

        async def execute(node: ClusterNode | None, positions: list[int]) -> list[Any]:
            return await self._execute_at(node, [commands[position] for position in positions], deadline_s)

        replies_by_node = await asyncio.gather(*(execute(*group) for group in positions_by_node.items()))
        replies: dict[int, Any] = {}
        for positions, node_replies in zip(positions_by_node.values(), replies_by_node, strict=True):
            replies.update(zip(positions, node_replies, strict=True))
        for position, reply in replies.items():
            if _is_redirection(reply):
                replies[position] = await self._redirected(commands[position], reply, deadline_s)
        return [replies[position] for position in range(len(commands))]

    async def _execute_one(self, command: Command, deadline_s: float) -> Any:
        (reply,) = await self._execute_at(self._slots.node(command), [command], deadline_s)
        return await self._redirected(command, reply, deadline_s) if _is_redirection(reply) else reply

    async def _execute_at(self, node: ClusterNode | None, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        """Send commands to one node; each reply is a _NoReply if the node cannot be reached."""
        if node is None:
            return [_NoReply(RedisConnectionError("No node of the cluster has the key."))] * len(commands)
        connection = self._connections.get(node.name)
        if connection is None:
            connection = ReconnectingConnection(self._opener(node), self._slots.circuit(node))
            self._connections[node.name] = connection
        try:
            return await connection.execute(commands, deadline_s)
        except RedisError as error:
            return [_NoReply(error)] * len(commands)
        except OSError as error:
            return [_NoReply(RedisConnectionError(f"The node could not be reached: {error!r}"))] * len(commands)

    async def _redirected(self, command: Command, redirection: Any, deadline_s: float) -> Any:
        """Follow redirections until a node accepts the command."""
        self._slots.start_refresh()
        reply = redirection
        for _ in range(MAX_REDIRECTIONS):
            if isinstance(reply, MovedError):
                await self._slots.move(reply)
                (reply,) = await self._execute_at(self._slots.node(command), [command], deadline_s)
            elif isinstance(reply, AskError):
                node = self._slots.node_at(reply.host, reply.port)
                reply = (await self._execute_at(node, [("ASKING",), command], deadline_s))[-1]
            elif isinstance(reply, TryAgainError):
                await asyncio.sleep(TRY_AGAIN_S)
                (reply,) = await self._execute_at(self._slots.node(command), [command], deadline_s)
            else:
                break
        return reply

    def _opener(self, node: ClusterNode) -> Callable[[], Awaitable[AbstractConnection]]:
        def opened() -> Awaitable[AbstractConnection]:
            self._opened += 1
            connection: AbstractConnection = node.connection_class(
                **node.connection_kwargs, retry=Retry(NoBackoff(), 0)
            )
            return open_connection(connection)

        return opened


class _NoReply:
    """Stands for the reply of a node that could not be reached."""

    def __init__(self, reason: RedisError) -> None:
        self.reason = reason


def _is_redirection(reply: Any) -> bool:
    return isinstance(reply, (AskError, TryAgainError))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
