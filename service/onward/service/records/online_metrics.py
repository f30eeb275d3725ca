"""Online metrics: answers served and events attributed to them, by scenario, bundle and variant."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from onward.service import telemetry
from onward.service.records.answer_log import AnswerLog
from onward.service.records.answers import Answer, AnswerOrigin, AttributionClaim
from onward.service.records.counters import Counters, Period
from onward.service.records.outage_log import OutageLog
from onward.service.sessions import PURCHASE, VIEW, AppliedEvent

Dimension = Literal["scenario", "bundle", "variant"]

MAX_WAITING = 10_000
MAX_VALUE = 1e12
"""An event's value above this is not added, so that no caller can make a sum useless."""
SHORTEST_WINDOW = timedelta(minutes=1)
LONGEST_WINDOW = timedelta(days=30)

ANSWERS, IMPRESSIONS, UNATTRIBUTED = "answers", "impressions", "unattributed"
EVENTS, VALUE = "events:", "value:"
"""Prefixes of counters for each type of event."""
NO_ORIGIN = AnswerOrigin("", "", "")


@dataclass(slots=True)
class OutcomeCounts:
    """Counts of some answers, and of the events attributed to them."""

    answers: int = 0
    impressions: int = 0
    """Items in the answers."""
    events: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Attributed events, by type."""
    values: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sum of the values of attributed events, by type."""

    @property
    def clicks(self) -> int:
        """Attributed views."""
        return self.events.get(VIEW, 0)

    @property
    def purchases(self) -> int:
        """Attributed purchases."""
        return self.events.get(PURCHASE, 0)

    @property
    def click_through_rate(self) -> float | None:
        """Clicks per item in the answers; None without items."""
        return self.clicks / self.impressions if self.impressions else None

    @property
    def conversion_rate(self) -> float | None:
        """Purchases per click; None without clicks."""
        return self.purchases / self.clicks if self.clicks else None


@dataclass(frozen=True, slots=True)
class MetricsWindow:
    """Counts over whole periods: for each group of answers, and of events that could not be attributed."""

    since: datetime
    period: Period
    outcomes: dict[tuple[str, ...], OutcomeCounts]
    """By the values of the requested dimensions."""
    unattributed: int


class OnlineMetrics:
    """Counts the answers of this process and the events that name an answer; reports on all processes.

    An event is attributed if the answer is still kept and contains the item, once for each answer, item and type;
    otherwise it counts as unattributed. `flush` adds the counts of this process to the shared counters. Between two
    flushes at most `MAX_WAITING` events are queued; the rest is lost.
    """

    def __init__(self, answers: AnswerLog | None, counters: Counters) -> None:
        self._answers = answers
        self._counters = counters
        self._served: defaultdict[AnswerOrigin, list[int]] = defaultdict(lambda: [0, 0])
        self._events: list[AppliedEvent] = []
        self._outages = OutageLog("online metrics")

    def served(self, answer: Answer) -> None:
        """Count an answer."""
        count = self._served[AnswerOrigin.of(answer)]
        count[0] += 1
        count[1] += len(answer.items)

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Queue the events that name an answer, to be attributed by `flush`."""
        for event in events:
            if event.recommendation_id is None:
                continue
            if len(self._events) < MAX_WAITING:
                self._events.append(event)
            else:
                self._outages.count_lost(1)

    async def flush(self) -> None:
        """Attribute the queued events and add all counts to the shared counters."""
        served, self._served = self._served, defaultdict(lambda: [0, 0])
        events, self._events = self._events, []
        if not served and not events:
            return
        amounts: defaultdict[str, float] = defaultdict(float)
        for origin, (answers, impressions) in served.items():
            amounts[_counter(origin, ANSWERS)] += answers
            amounts[_counter(origin, IMPRESSIONS)] += impressions
        with self._outages.writing(len(served) + len(events)):
            for event, event_origin in zip(events, await self._origins(events), strict=True):
                for name, amount in _event_amounts(event, attributed=event_origin is not None):
                    amounts[_counter(event_origin or NO_ORIGIN, name)] += amount
            self._outages.count_lost(await self._counters.add(amounts))

    async def report(self, window: timedelta, by: Collection[Dimension]) -> MetricsWindow:
        """Return the counts of the last `window`, grouped by the dimensions in `by`.

        Raises SessionStoreUnavailable.
        """
        since, period, sums = await self._counters.sums(window)
        outcomes: defaultdict[tuple[str, ...], OutcomeCounts] = defaultdict(OutcomeCounts)
        unattributed = 0
        for counter, amount in sums.items():
            parsed = _parse_counter(counter)
            if parsed is None:
                telemetry.foreign_data_found("counters", 1)
                continue
            origin, name = parsed
            if name == UNATTRIBUTED:
                unattributed += round(amount)
            else:
                group = tuple(value for dimension, value in origin._asdict().items() if dimension in by)
                _add(outcomes[group], name, amount)
        return MetricsWindow(since, period, dict(outcomes), unattributed)

    async def _origins(self, events: Sequence[AppliedEvent]) -> list[AnswerOrigin | None]:
        if self._answers is None or not events:
            return [None] * len(events)
        return await self._answers.attribute(
            [AttributionClaim(event.recommendation_id or "", event.item_id, event.type) for event in events]
        )


def _event_amounts(event: AppliedEvent, *, attributed: bool) -> Iterator[tuple[str, float]]:
    if not attributed:
        yield UNATTRIBUTED, 1
        return
    yield EVENTS + event.type, 1
    if event.value is not None and event.value <= MAX_VALUE:
        yield VALUE + event.type, event.value


def _counter(origin: AnswerOrigin, name: str) -> str:
    return json.dumps([*origin, name], ensure_ascii=False)


def _parse_counter(counter: str) -> tuple[AnswerOrigin, str] | None:
    """Return the origin and the name of a counter; None if it is not one of these."""
    try:
        scenario, bundle, variant, name = json.loads(counter)
        "".join((scenario, bundle, variant, name)).encode()
    except (ValueError, TypeError, RecursionError):
        return None
    return AnswerOrigin(scenario, bundle, variant), name


def _add(counts: OutcomeCounts, name: str, amount: float) -> None:
    if name == ANSWERS:
        counts.answers += round(amount)
    elif name == IMPRESSIONS:
        counts.impressions += round(amount)
    elif name.startswith(EVENTS):
        counts.events[name.removeprefix(EVENTS)] += round(amount)
    elif name.startswith(VALUE):
        counts.values[name.removeprefix(VALUE)] += amount
