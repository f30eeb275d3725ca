"""Servers of a versioned store with the faults that a store may have: one in memory, one a real Redis or Valkey."""

from collections.abc import Mapping
from copy import deepcopy
from datetime import timedelta
from typing import Any, Protocol

from redis.asyncio import Redis

from onward.service.live.versioned_store import InMemoryVersionedStore, RedisVersionedStore, VersionedStore

MAX_NAMES = 2_500
TIMEOUT = timedelta(seconds=5)


class StoreServer(Protocol):
    """Keeps one versioned store."""

    def open(self) -> VersionedStore:
        """Return a worker's client of the store."""
        ...

    async def snapshot(self) -> Mapping[Any, Any]:
        """Return all that is stored."""
        ...

    async def flush(self) -> None:
        """Remove all that is stored; connections stay open."""
        ...

    async def load(self, snapshot: Mapping[Any, Any]) -> None:
        """Store what a snapshot holds; connections stay open."""
        ...

    async def fail_over(self, snapshot: Mapping[Any, Any]) -> None:
        """Go on from a snapshot, with all connections lost, as in a failover; from an empty one, as in a restart."""
        ...


class TickingClock:
    """A clock that goes on by a microsecond with each look at it, and goes back with its store at a failover."""

    def __init__(self) -> None:
        self.ticks = 1_000_000

    def __call__(self) -> float:
        self.ticks += 1
        return self.ticks / 1e6


class MemoryServer:
    """The store in memory. Snapshots include its clock, so that after a failover sequences are assigned again."""

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._store = InMemoryVersionedStore(max_names=max_names, clock=TickingClock())
        self._empty = deepcopy(vars(self._store))

    def open(self) -> VersionedStore:
        return self._store

    async def snapshot(self) -> Mapping[Any, Any]:
        return deepcopy(vars(self._store))

    async def flush(self) -> None:
        kept = {"epoch": self._store.epoch, "_clock": self._store._clock}
        vars(self._store).update(deepcopy(self._empty) | kept)

    async def load(self, snapshot: Mapping[Any, Any]) -> None:
        vars(self._store).update(deepcopy(dict(snapshot)) | {"epoch": self._store.epoch})

    async def fail_over(self, snapshot: Mapping[Any, Any]) -> None:
        await self.flush()
        await self.load(snapshot)
        self._store.epoch += 1


class RedisServerOfStore:
    """The store under a name of a real server."""

    def __init__(self, url: str, name: str, max_names: int = MAX_NAMES) -> None:
        self._url = url
        self.name = name
        self._max_names = max_names

    def open(self) -> RedisVersionedStore:
        return RedisVersionedStore.connect(self._url, self.name, max_names=self._max_names, timeout=TIMEOUT)

    async def keys(self, redis: Redis) -> list[bytes]:
        return [key async for key in redis.scan_iter(f"onward:{{{self.name}}}:*")]

    async def snapshot(self) -> Mapping[Any, Any]:
        async with Redis.from_url(self._url) as redis:
            return {key: await redis.dump(key) for key in await self.keys(redis)}

    async def flush(self) -> None:
        async with Redis.from_url(self._url) as redis:
            for key in await self.keys(redis):
                await redis.delete(key)

    async def load(self, snapshot: Mapping[Any, Any]) -> None:
        async with Redis.from_url(self._url) as redis:
            for key, dump in snapshot.items():
                await redis.restore(key, 0, dump)

    async def fail_over(self, snapshot: Mapping[Any, Any]) -> None:
        await self.flush()
        await self.load(snapshot)
        async with Redis.from_url(self._url) as redis:
            await redis.client_kill_filter(_type="normal", skipme=True)
