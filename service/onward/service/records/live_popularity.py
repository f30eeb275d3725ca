"""LivePopularity: what visitors do now, each event counting for less as it grows older."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Protocol

from onward.service.records.outage_log import OutageLog
from onward.service.redis_client import RedisCalls, Script, redis_call
from onward.service.sessions import AppliedEvent

MAX_ITEMS = 10_000
READ_ITEMS = 1_000


class PopularityStore(Protocol):
    """Sums up the weights of events by item; each halves in every half-life. Of many items the lightest are dropped."""

    async def add(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        """Add weights as of now and return the 1,000 heaviest items with theirs. Raises SessionStoreUnavailable."""
        ...


class LivePopularity:
    """What this process is told of events, summed up with what all others are, every second.

    Events of negative weight count as nothing. Of more than `MAX_ITEMS` items in a second the rest is lost.
    """

    def __init__(self, store: PopularityStore, *, half_life: timedelta, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._half_life_s = half_life.total_seconds()
        self._clock = clock
        self._weights: defaultdict[str, float] = defaultdict(float)
        self._scores: Mapping[str, float] = {}
        self._outages = OutageLog("popularity")

    def scores(self) -> Mapping[str, float]:
        """Return the weights of the most popular items, as of the last flush; another object after each."""
        return self._scores

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Have the weights of events added; one that came late counts as what is left of it."""
        now_s = self._clock()
        for event in events:
            if event.weight <= 0:
                continue
            if event.item_id not in self._weights and len(self._weights) >= MAX_ITEMS:
                self._outages.lost(1)
            else:
                age_s = max(0.0, now_s - event.timestamp_ms / 1000)
                self._weights[event.item_id] += event.weight * 0.5 ** (age_s / self._half_life_s)

    async def flush(self) -> None:
        """Add what waits and read what is popular."""
        weights, self._weights = self._weights, defaultdict(float)
        with self._outages.noted(len(weights)):
            self._scores = await self._store.add(weights)


class RedisPopularityStore:
    """Shared by every worker and replica: a sorted set; one script, one round trip to add and read."""

    def __init__(
        self,
        redis: RedisCalls,
        *,
        half_life: timedelta,
        kept: int = MAX_ITEMS,
        clock: Callable[[], float] = time.time,
        name: str = "popularity",
    ) -> None:
        self._half_life_ms = int(half_life / timedelta(milliseconds=1))
        self._kept = kept
        self._clock = clock
        self._keys = [f"onward:{{{name}}}:weights", f"onward:{{{name}}}:scale"]
        self._script = Script(
            redis, files("onward.service.records").joinpath("popularity.lua").read_text(encoding="utf-8")
        )

    async def add(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        """One run of the script."""
        arguments: list[str | int | float] = [int(self._clock() * 1000), self._half_life_ms, self._kept, READ_ITEMS]
        for item_id, weight in weights.items():
            arguments += (item_id, weight)
        async with redis_call():
            scale, *found = await self._script(self._keys, arguments)
        return {
            item_id.decode(): float(weight) / float(scale)
            for item_id, weight in zip(found[::2], found[1::2], strict=True)
        }


class InMemoryPopularityStore:
    """For tests and a service of one process: the same promise, in a dict."""

    def __init__(self, *, half_life: timedelta, kept: int = MAX_ITEMS, clock: Callable[[], float] = time.time) -> None:
        self._half_life_s = half_life.total_seconds()
        self._kept = kept
        self._clock = clock
        self._weights: dict[str, float] = {}
        self._as_of_s = clock()

    async def add(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        """Lessen all, then add."""
        now_s = self._clock()
        left = 0.5 ** (max(0.0, now_s - self._as_of_s) / self._half_life_s)
        lessened = {item_id: weight * left for item_id, weight in self._weights.items()}
        for item_id, weight in weights.items():
            lessened[item_id] = lessened.get(item_id, 0.0) + weight
        heaviest = sorted(lessened.items(), key=lambda item: -item[1])[: self._kept]
        self._weights, self._as_of_s = dict(heaviest), now_s
        return dict(heaviest[:READ_ITEMS])
