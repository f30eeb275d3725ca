"""ClusterCalls: a shared connection to each node of a cluster that is called."""

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

from onward.service.redis_client.connection import SharedConnection
from onward.service.redis_client.wire import Command

MAX_REDIRECTIONS = 16
TRY_AGAIN_S = 0.005
MAP_PAUSE_S = 0.5
"""From one reading of the map to the next, since it takes milliseconds of the event loop."""
LONGEST_MAP_S = 5.0


class ClusterCalls:
    """Sends each command to the node that has its key, by the map of slots that redis-py reads.

    The map is read anew, beside the calls, when a node is lost or says that it changed.
    """

    def __init__(self, cluster: RedisCluster, timeout_s: float) -> None:
        """Take a cluster's client, of which only the map is used, and how long a call may take."""
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._connections: dict[str, SharedConnection] = {}
        self._reading: asyncio.Task[None] | None = None
        self._is_known = False
        self._not_before_s = 0.0

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, those of one node in one go, and return the reply to each; see `RedisCalls`."""
        if not commands:
            return []
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        if not self._is_known:
            await self._know(deadline_s)
        if len(commands) == 1:
            found = [await self._reply(commands[0], deadline_s)]
        else:
            found = await self._replies(commands, deadline_s)
        failures = [reply for reply in found if isinstance(reply, _NoReply)]
        if failures or any(isinstance(reply, ClusterDownError) for reply in found):
            self._read_map()
        if len(failures) == len(commands):
            raise failures[0].reason
        return [reply.reason if isinstance(reply, _NoReply) else reply for reply in found]

    async def aclose(self) -> None:
        """Close all connections; what is in flight fails."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await asyncio.gather(*(connection.aclose() for connection in self._connections.values()))
        for nodes in ("nodes_cache", "startup_nodes"):
            await self._cluster.nodes_manager.aclose(nodes)

    async def _replies(self, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        places: defaultdict[ClusterNode | None, list[int]] = defaultdict(list)
        for place, command in enumerate(commands):
            places[self._node(command)].append(place)

        async def ask(node: ClusterNode | None, own: list[int]) -> list[Any]:
            return await self._ask(node, [commands[place] for place in own], deadline_s)

        answers = await asyncio.gather(*(ask(node, own) for node, own in places.items()))
        found: dict[int, Any] = {}
        for own, replies in zip(places.values(), answers, strict=True):
            found.update(zip(own, replies, strict=True))
        for place, reply in found.items():
            if _is_elsewhere(reply):
                found[place] = await self._redirected(commands[place], reply, deadline_s)
        return [found[place] for place in range(len(commands))]

    async def _reply(self, command: Command, deadline_s: float) -> Any:
        (reply,) = await self._ask(self._node(command), [command], deadline_s)
        return await self._redirected(command, reply, deadline_s) if _is_elsewhere(reply) else reply

    async def _ask(self, node: ClusterNode | None, commands: Sequence[Command], deadline_s: float) -> list[Any]:
        """Ask one node; each reply is _NoReply where it cannot be reached."""
        if node is None:
            return [_NoReply(RedisConnectionError("No node of the cluster has the key."))] * len(commands)
        connection = self._connections.get(node.name)
        if connection is None:
            connection = self._connections[node.name] = SharedConnection(lambda: _new_connection(node))
        try:
            return await connection.replies(commands, deadline_s)
        except RedisError as error:
            return [_NoReply(error)] * len(commands)
        except OSError as error:
            return [_NoReply(RedisConnectionError(f"The node could not be asked: {error!r}"))] * len(commands)

    async def _redirected(self, command: Command, refusal: Any, deadline_s: float) -> Any:
        """Follow the cluster to where the command's key is."""
        self._read_map()
        reply = refusal
        for _ in range(MAX_REDIRECTIONS):
            if isinstance(reply, MovedError):
                await self._cluster.nodes_manager.move_slot(reply)
                (reply,) = await self._ask(self._node(command), [command], deadline_s)
            elif isinstance(reply, AskError):
                node = self._cluster.get_node(host=reply.host, port=reply.port)
                reply = (await self._ask(node, [("ASKING",), command], deadline_s))[-1]
            elif isinstance(reply, TryAgainError):
                await asyncio.sleep(TRY_AGAIN_S)
                (reply,) = await self._ask(self._node(command), [command], deadline_s)
            else:
                break
        return reply

    def _node(self, command: Command) -> ClusterNode | None:
        key = command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
        try:
            return self._cluster.get_node_from_key(str(key))
        except SlotNotCoveredError:
            return None

    async def _know(self, deadline_s: float) -> None:
        """Wait for the first map."""
        self._read_map()
        if self._reading is None:
            raise RedisConnectionError("The cluster could not be reached a moment ago.")
        async with asyncio.timeout_at(deadline_s):
            await asyncio.shield(self._reading)
        if not self._is_known:
            raise RedisConnectionError("The cluster could not be reached.")

    def _read_map(self) -> None:
        """Begin to read the map, unless that is being done or was just done."""
        loop = asyncio.get_running_loop()
        if self._reading is None and loop.time() >= self._not_before_s:
            self._reading = loop.create_task(self._map_read())

    async def _map_read(self) -> None:
        try:
            async with asyncio.timeout(LONGEST_MAP_S):
                await self._cluster.nodes_manager.initialize()
            self._is_known = True
            names = {node.name for node in self._cluster.get_nodes()}
            for name in [name for name in self._connections if name not in names]:
                await self._connections.pop(name).aclose()
        except (RedisError, RedisClusterException, OSError):
            pass  # the map stays as it was, and the next call that fails has it read again
        finally:
            self._not_before_s = asyncio.get_running_loop().time() + MAP_PAUSE_S
            self._reading = None


class _NoReply:
    """Stands for the reply of a node that could not be asked."""

    def __init__(self, reason: RedisError) -> None:
        self.reason = reason


def _is_elsewhere(reply: Any) -> bool:
    return isinstance(reply, (AskError, TryAgainError))


def _new_connection(node: ClusterNode) -> AbstractConnection:
    return node.connection_class(**node.connection_kwargs, retry=Retry(NoBackoff(), 0))
