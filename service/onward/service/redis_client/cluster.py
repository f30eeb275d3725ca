"""ClusterClient: route commands to the nodes of a cluster, over one shared connection for each node."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from onward.service.redis_client.connection import Command, ReconnectingConnection

MAX_REDIRECTIONS = 16
TRY_AGAIN_S = 0.005
REFRESH_INTERVAL_S = 0.5
"""Least time between two refreshes of the slot map, since each takes milliseconds of the event loop."""
MAX_REFRESH_S = 5.0


class ClusterClient:
    """Sends each command to the node that holds its key, by the slot map that redis-py maintains.

    The slot map is refreshed in the background when a node cannot be reached or reports that slots have moved.
    """

    def __init__(self, cluster: RedisCluster, timeout_s: float) -> None:
        """Take a redis-py client, which is used only for its slot map, and the time limit of a call."""
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._connections: dict[str, ReconnectingConnection] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._has_slot_map = False
        self._not_before_s = 0.0
        self.epoch = 0
        """Number of connections opened or attempted, slots moved and slot maps read; see `RedisClient`."""

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, one pipeline for each node, and return the reply to each; see `RedisClient`."""
        if not commands:
            return []
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        if not self._has_slot_map:
            await self._load_slot_map(deadline_s)
        if len(commands) == 1:
            replies = [await self._execute_one(commands[0], deadline_s)]
        else:
            replies = await self._execute_all(commands, deadline_s)
        failures = [reply for reply in replies if isinstance(reply, _NoReply)]
        if failures or any(isinstance(reply, ClusterDownError) for reply in replies):
            self._start_refresh()
        if len(failures) == len(commands):
            raise failures[0].reason
        return [reply.reason if isinstance(reply, _NoReply) else reply for reply in replies]

    async def aclose(self) -> None:
        """Close all connections; commands in flight fail."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await asyncio.gather(*(connection.aclose() for connection in self._connections.values()))
        for nodes in ("nodes_cache", "startup_nodes"):
            await self._cluster.nodes_manager.aclose(nodes)

    async def _execute_all(self, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        positions_by_node: defaultdict[ClusterNode | None, list[int]] = defaultdict(list)
        for position, command in enumerate(commands):
            positions_by_node[self._node(command)].append(position)

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
        (reply,) = await self._execute_at(self._node(command), [command], deadline_s)
        return await self._redirected(command, reply, deadline_s) if _is_redirection(reply) else reply

    async def _execute_at(self, node: ClusterNode | None, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        """Send commands to one node; each reply is a _NoReply if the node cannot be reached."""
        if node is None:
            return [_NoReply(RedisConnectionError("No node of the cluster has the key."))] * len(commands)
        connection = self._connections.get(node.name)
        if connection is None:
            connection = self._connections[node.name] = ReconnectingConnection(lambda: self._new_connection(node))
        try:
            return await connection.execute(commands, deadline_s)
        except RedisError as error:
            return [_NoReply(error)] * len(commands)
        except OSError as error:
            return [_NoReply(RedisConnectionError(f"The node could not be reached: {error!r}"))] * len(commands)

    async def _redirected(self, command: Command, redirection: Any, deadline_s: float) -> Any:
        """Follow redirections until a node accepts the command."""
        self._start_refresh()
        reply = redirection
        for _ in range(MAX_REDIRECTIONS):
            if isinstance(reply, MovedError):
                self.epoch += 1
                await self._cluster.nodes_manager.move_slot(reply)
                (reply,) = await self._execute_at(self._node(command), [command], deadline_s)
            elif isinstance(reply, AskError):
                node = self._cluster.get_node(host=reply.host, port=reply.port)
                reply = (await self._execute_at(node, [("ASKING",), command], deadline_s))[-1]
            elif isinstance(reply, TryAgainError):
                await asyncio.sleep(TRY_AGAIN_S)
                (reply,) = await self._execute_at(self._node(command), [command], deadline_s)
            else:
                break
        return reply

    def _new_connection(self, node: ClusterNode) -> AbstractConnection:
        self.epoch += 1
        return node.connection_class(**node.connection_kwargs, retry=Retry(NoBackoff(), 0))

    def _node(self, command: Command) -> ClusterNode | None:
        """Return the node of the command's key; any node for a key that cannot be encoded, which fails there alone."""
        key = command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
        try:
            return self._cluster.get_node_from_key(str(key).encode(errors="replace").decode())
        except SlotNotCoveredError:
            return None

    async def _load_slot_map(self, deadline_s: float) -> None:
        """Wait for the first slot map. Raises RedisError and OSError."""
        self._start_refresh()
        if self._refreshing is None:
            raise RedisConnectionError("The cluster could not be reached a moment ago.")
        async with asyncio.timeout_at(deadline_s):
            await asyncio.shield(self._refreshing)
        if not self._has_slot_map:
            raise RedisConnectionError("The cluster could not be reached.")

    def _start_refresh(self) -> None:
        """Start to refresh the slot map, unless a refresh is running or has just ended."""
        loop = asyncio.get_running_loop()
        if self._refreshing is None and loop.time() >= self._not_before_s:
            self._refreshing = loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(MAX_REFRESH_S):
                await self._cluster.nodes_manager.initialize()
            self._has_slot_map = True
            self.epoch += 1
            names = {node.name for node in self._cluster.get_nodes()}
            for name in [name for name in self._connections if name not in names]:
                await self._connections.pop(name).aclose()
        except (RedisError, RedisClusterException, OSError):
            pass  # the slot map stays as it was, and the next call that fails starts another refresh
        finally:
            self._not_before_s = asyncio.get_running_loop().time() + REFRESH_INTERVAL_S
            self._refreshing = None


class _NoReply:
    """Stands for the reply of a node that could not be reached."""

    def __init__(self, reason: RedisError) -> None:
        self.reason = reason


def _is_redirection(reply: Any) -> bool:
    return isinstance(reply, (AskError, TryAgainError))
