"""LivePopularity: popularity of items by recent events, whose weights decay exponentially with age."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from math import isfinite
from typing import Protocol

from onward.service.records.outage_log import OutageLog
from onward.service.redis_client import RedisClient, Script, store_call
from onward.service.sessions import AppliedEvent
from onward.service.tenants import PREFIX

MAX_ITEMS = 10_000
MAX_POPULAR = 1_000


class PopularityStore(Protocol):
    """Sums event weights by item; sums halve in every half-life, and beyond a limit the lightest items are dropped."""

    async def add(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        """Add weights as of now; return the 1,000 heaviest items and their weights, of equal ones the last by id first.

        Raises SessionStoreUnavailable.
        """
        ...


class LivePopularity:
    """Popularity by the events of all processes; each `flush` adds those of this process.

    Events without a positive weight are ignored. Between two flushes at most `MAX_ITEMS` items are counted;
    events of any more items are lost.
    """

    def __init__(self, store: PopularityStore, *, half_life: timedelta, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._half_life_s = half_life.total_seconds()
        self._clock = clock
        self._weights: defaultdict[str, float] = defaultdict(float)
        self.scores: Mapping[str, float] = {}
        """The weights of the most popular items as of the last flush; a new object after each flush."""
        self._outages = OutageLog("popularity")

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Count the weights of events, to be added by `flush`; a late event counts with its decayed weight."""
        now_s = self._clock()
        for event in events:
            if event.weight <= 0:
                continue
            if event.item_id not in self._weights and len(self._weights) >= MAX_ITEMS:
                self._outages.count_lost(1)
            else:
                age_s = max(0.0, now_s - event.timestamp_ms / 1000)
                self._weights[event.item_id] += event.weight * 0.5 ** (age_s / self._half_life_s)

    async def flush(self) -> None:
        """Add the counted weights to the store and read the most popular items."""
        weights, self._weights = self._weights, defaultdict(float)
        with self._outages.writing(len(weights)):
            self.scores = await self._store.add(weights)


class RedisPopularityStore:
    """Shared by all workers and replicas: a sorted set; `add` runs one script in one round trip.

    Weights decay by the clock of the server.
    """

    def __init__(
        self,
        redis: RedisClient,
        *,
        half_life: timedelta,
        max_items: int = MAX_ITEMS,
        name: str = "popularity",
        prefix: str = PREFIX,
    ) -> None:
        self._redis = redis
        self._half_life_ms = int(half_life / timedelta(milliseconds=1))
        self._max_items = max_items
        self._keys = [f"{prefix}{{{name}}}:weights", f"{prefix}{{{name}}}:scale"]
        self._script = Script(
            redis, files("onward.service.records").joinpath("live_popularity.lua").read_text(encoding="utf-8")
        )

    async def add(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        """Add and read by one run of a script; see `PopularityStore`."""
        arguments: list[str | int | float] = [
            self._half_life_ms,
            self._max_items,
            MAX_POPULAR,
        ]
        for item_id, weight in weights.items():
            arguments += (item_id, weight)
        async with store_call(self._redis):
            scale, *heaviest = await self._script(self._keys, arguments)
            weights = {
                item_id.decode(errors="replace"): float(weight) / float(scale)
                for item_id, weight in zip(heaviest[::2], heaviest[1::2], strict=True)
            }
        return {item_id: weight for item_id, weight in weights.items() if isfinite(weight)}


class InMemoryPopularityStore:
    """The popularity store of tests and of a service with one process, in a dict."""

    def __init__(
        self, *, half_life: timedelta, max_items: int = MAX_ITEMS, clock: Callable[[], float] = time.time
    ) -> None:
        self._half_life_s = half_life.total_seconds()
        self._max_items = max_items
        self._clock = clock
        self._weights: dict[str, float] = {}
        self._as_of_s = clock()

    async def add(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        """Decay all weights to now, then add; reading alone changes nothing. See `PopularityStore`."""
        now_s = self._clock()
        decay = 0.5 ** (max(0.0, now_s - self._as_of_s) / self._half_life_s)
        decayed = {item_id: weight * decay for item_id, weight in self._weights.items()}
        for item_id, weight in weights.items():
            decayed[item_id] = decayed.get(item_id, 0.0) + weight
        heaviest = sorted(decayed.items(), key=lambda item: (item[1], item[0]), reverse=True)[: self._max_items]
        if weights:
            self._weights, self._as_of_s = dict(heaviest), now_s
        return dict(heaviest[:MAX_POPULAR])
