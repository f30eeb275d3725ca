"""Counters by the minute and by the hour, in Redis or in memory."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Literal, NamedTuple, Protocol

from onward.service.redis_client import RedisCalls, Script, ask, redis_call

MAX_COUNTERS = 10_000
"""Of one period: what callers can make up, such as types of events, must not fill the store."""


class Period(NamedTuple):
    """A stretch of time with counters of its own, and how long these are kept."""

    name: Literal["minute", "hour"]
    length: timedelta
    kept: timedelta

    def number(self, moment_s: float) -> int:
        """Return which of the periods since 1970 a moment lies in."""
        return int(moment_s // self.length.total_seconds())

    def start(self, number: int) -> datetime:
        """Return when a period began."""
        return datetime.fromtimestamp(number * self.length.total_seconds(), UTC)


MINUTE = Period("minute", timedelta(minutes=1), timedelta(hours=2))
HOUR = Period("hour", timedelta(hours=1), timedelta(days=31))
PERIODS = (MINUTE, HOUR)


class Sums(NamedTuple):
    """Counters over a time."""

    since: datetime
    period: Period
    sums: Mapping[str, float]


class Counters(Protocol):
    """Sums by name over the last two hours by the minute, over the last month by the hour."""

    async def add(self, amounts: Mapping[str, float]) -> int:
        """Add to the counters of this minute and hour, return how many of them there was no room for.

        Raises SessionStoreUnavailable.
        """
        ...

    async def sums(self, window: timedelta) -> Sums:
        """Sum up all minutes or, for a window of more than two hours, all hours that lie in it, if only in part.

        Raises SessionStoreUnavailable.
        """
        ...


class RedisCounters:
    """Shared by every worker and replica: a hash for each minute and hour; one script, one round trip to add."""

    def __init__(
        self, redis: RedisCalls, *, name: str, most: int = MAX_COUNTERS, clock: Callable[[], float] = time.time
    ) -> None:
        self._redis = redis
        self._prefix = f"onward:{{{name}}}"
        self._most = most
        self._clock = clock
        self._add = Script(redis, files("onward.service.records").joinpath("count.lua").read_text(encoding="utf-8"))

    async def add(self, amounts: Mapping[str, float]) -> int:
        """One run of the script."""
        now_s = self._clock()
        keys = [self._key(period, period.number(now_s)) for period in PERIODS]
        arguments: list[str | int | float] = [self._most]
        arguments += [int((period.kept + period.length) / timedelta(milliseconds=1)) for period in PERIODS]
        for name, amount in amounts.items():
            arguments += (name, amount)
        async with redis_call():
            return int(await self._add(keys, arguments))

    async def sums(self, window: timedelta) -> Sums:
        """One round trip."""
        period, numbers = _covered(window, self._clock())
        async with redis_call():
            replies = await ask(self._redis, *(("HGETALL", self._key(period, number)) for number in numbers))
        sums: defaultdict[str, float] = defaultdict(float)
        for reply in replies:
            for name, amount in zip(reply[::2], reply[1::2], strict=True):
                sums[name.decode()] += float(amount)
        return Sums(period.start(numbers[0]), period, sums)

    def _key(self, period: Period, number: int) -> str:
        return f"{self._prefix}:{period.name}:{number}"


class InMemoryCounters:
    """For tests and a service of one process: the same promise, in a dict."""

    def __init__(self, *, most: int = MAX_COUNTERS, clock: Callable[[], float] = time.time) -> None:
        self._most = most
        self._clock = clock
        self._counters: defaultdict[tuple[Period, int], dict[str, float]] = defaultdict(dict)

    async def add(self, amounts: Mapping[str, float]) -> int:
        """Add in this process."""
        now_s = self._clock()
        self._forget_expired(now_s)
        return sum(self._add(self._counters[period, period.number(now_s)], amounts) for period in PERIODS)

    async def sums(self, window: timedelta) -> Sums:
        """Sum up in this process."""
        period, numbers = _covered(window, self._clock())
        sums: defaultdict[str, float] = defaultdict(float)
        for number in numbers:
            for name, amount in self._counters.get((period, number), {}).items():
                sums[name] += amount
        return Sums(period.start(numbers[0]), period, sums)

    def _add(self, counters: dict[str, float], amounts: Mapping[str, float]) -> int:
        refused = 0
        for name, amount in amounts.items():
            if name in counters or len(counters) < self._most:
                counters[name] = counters.get(name, 0) + amount
            else:
                refused += 1
        return refused

    def _forget_expired(self, now_s: float) -> None:
        for period, number in list(self._counters):
            if number < period.number(now_s - period.kept.total_seconds()):
                del self._counters[period, number]


def _covered(window: timedelta, now_s: float) -> tuple[Period, range]:
    """Return the periods that a window up to now lies in."""
    period = MINUTE if window <= MINUTE.kept else HOUR
    return period, range(period.number(now_s - window.total_seconds()), period.number(now_s) + 1)
