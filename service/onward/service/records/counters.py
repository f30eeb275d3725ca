"""Counters for each minute and each hour, in Redis or in memory."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from math import isfinite
from typing import Literal, NamedTuple, Protocol

from redis.exceptions import ResponseError

from onward.service import telemetry
from onward.service.records.outage_log import RecordsRefused
from onward.service.redis_client import RedisClient, Script, execute_or_raise, store_call
from onward.service.tenants import PREFIX

MAX_COUNTERS = 10_000
"""Limit for each period. Callers choose some of the names, such as types of events, and must not fill the store."""


class Period(NamedTuple):
    """A length of time with counters of its own, and how long they are retained."""

    name: Literal["minute", "hour"]
    length: timedelta
    retention: timedelta

    def number(self, time_s: float) -> int:
        """Return the number of the period that contains a time, counted from 1970."""
        return int(time_s // self.length.total_seconds())

    def start(self, number: int) -> datetime:
        """Return the time at which a period starts."""
        return datetime.fromtimestamp(number * self.length.total_seconds(), UTC)


MINUTE = Period("minute", timedelta(minutes=1), timedelta(hours=2))
HOUR = Period("hour", timedelta(hours=1), timedelta(days=31))
PERIODS = (MINUTE, HOUR)


class CounterSums(NamedTuple):
    """Sums of counters over whole periods from `since` until now."""

    since: datetime
    period: Period
    sums: Mapping[str, float]


class Counters(Protocol):
    """Counts by name for each minute of the last two hours and each hour of the last month."""

    async def add(self, amounts: Mapping[str, float]) -> int:
        """Add to the counters of the current minute and hour; return how many additions the limit on names refused.

        Raises SessionStoreUnavailable, or RecordsRefused if the counters of one period could not be added to.
        """
        ...

    async def sums(self, window: timedelta) -> CounterSums:
        """Sum up all minutes that overlap the window; for a window of more than two hours, all hours that do.

        Raises SessionStoreUnavailable.
        """
        ...


class RedisCounters:
    """Shared by all workers and replicas: a hash for each minute and hour; `add` runs one script in one round trip."""

    def __init__(
        self,
        redis: RedisClient,
        *,
        name: str,
        max_counters: int = MAX_COUNTERS,
        clock: Callable[[], float] = time.time,
        prefix: str = PREFIX,
    ) -> None:
        self._redis = redis
        self._prefix = f"{prefix}{{{name}}}"
        self._max_counters = max_counters
        self._clock = clock
        self._add = Script(
            redis, files("onward.service.records").joinpath("add_to_counters.lua").read_text(encoding="utf-8")
        )

    async def add(self, amounts: Mapping[str, float]) -> int:
        """Add to the counters by one run of a script; see `Counters`."""
        now_s = self._clock()
        keys = [self._key(period, period.number(now_s)) for period in PERIODS]
        arguments: list[str | int | float] = [self._max_counters]
        arguments += [int((period.retention + period.length) / timedelta(milliseconds=1)) for period in PERIODS]
        for name, amount in amounts.items():
            arguments += (name, amount)
        async with store_call(self._redis):
            refused, misplaced, reason = await self._add(keys, arguments)
            refused, misplaced, reason = int(refused), int(misplaced), reason.decode()
        if misplaced:
            raise RecordsRefused(refused + misplaced) from ResponseError(reason)
        return refused

    async def sums(self, window: timedelta) -> CounterSums:
        """Read the hashes of all periods in one round trip; see `Counters`."""
        period, numbers = _periods(window, self._clock())
        async with store_call(self._redis):
            replies = await execute_or_raise(
                self._redis, *(("HGETALL", self._key(period, number)) for number in numbers)
            )
            return CounterSums(period.start(numbers[0]), period, _sums(replies))

    def _key(self, period: Period, number: int) -> str:
        return f"{self._prefix}:{period.name}:{number}"


def _sums(replies: Sequence[Sequence[bytes]]) -> dict[str, float]:
    """Sum up hashes of counters, each a list of names and amounts; what is not a counter is left out and reported."""
    sums: defaultdict[str, float] = defaultdict(float)
    foreign = 0
    for reply in replies:
        for name, text in zip(reply[::2], reply[1::2], strict=True):
            amount = _amount(text)
            if amount is None:
                foreign += 1
            else:
                sums[name.decode(errors="replace")] += amount
    if foreign:
        telemetry.foreign_data_found("counters", foreign)
    return sums


def _amount(text: bytes) -> float | None:
    try:
        amount = float(text)
    except ValueError:
        return None
    return amount if isfinite(amount) else None


class InMemoryCounters:
    """The counters of tests and of a service with one process, in a dict."""

    def __init__(self, *, max_counters: int = MAX_COUNTERS, clock: Callable[[], float] = time.time) -> None:
        self._max_counters = max_counters
        self._clock = clock
        self._counters: defaultdict[tuple[Period, int], dict[str, float]] = defaultdict(dict)

    async def add(self, amounts: Mapping[str, float]) -> int:
        """Add to the counters of this process; see `Counters`."""
        now_s = self._clock()
        self._evict_expired(now_s)
        return sum(self._add(self._counters[period, period.number(now_s)], amounts) for period in PERIODS)

    async def sums(self, window: timedelta) -> CounterSums:
        """Sum up the counters of this process; see `Counters`."""
        period, numbers = _periods(window, self._clock())
        sums: defaultdict[str, float] = defaultdict(float)
        for number in numbers:
            for name, amount in self._counters.get((period, number), {}).items():
                sums[name] += amount
        return CounterSums(period.start(numbers[0]), period, sums)

    def _add(self, counters: dict[str, float], amounts: Mapping[str, float]) -> int:
        refused = 0
        for name, amount in amounts.items():
            if name in counters or len(counters) < self._max_counters:
                counters[name] = counters.get(name, 0) + amount
            else:
                refused += 1
        return refused

    def _evict_expired(self, now_s: float) -> None:
        for period, number in list(self._counters):
            if number < period.number(now_s - period.retention.total_seconds()):
                del self._counters[period, number]


def _periods(window: timedelta, now_s: float) -> tuple[Period, range]:
    """Return the kind and the numbers of the periods that overlap a window until now."""
    period = MINUTE if window <= MINUTE.retention else HOUR
    return period, range(period.number(now_s - window.total_seconds()), period.number(now_s) + 1)
