"""What became of answers: how often they led to events, by scenario, bundle and variant, over a time."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from onward.service.records.answers import Answer, AnswerLog, Claim, Origin
from onward.service.records.counters import Counters, Period
from onward.service.records.outage_log import OutageLog
from onward.service.sessions import AppliedEvent

Dimension = Literal["scenario", "bundle", "variant"]

MAX_WAITING = 10_000
MAX_VALUE = 1e12
"""Of an event; a larger one is not summed up, so that no caller can spoil a sum for good."""
SHORTEST_WINDOW = timedelta(minutes=1)
LONGEST_WINDOW = timedelta(days=30)

ANSWERS, IMPRESSIONS, UNATTRIBUTED = "answers", "impressions", "unattributed"
EVENTS, VALUE = "events:", "value:"
"""What the names of counters of events of a type begin with."""
NO_ORIGIN = Origin("", "", "")


@dataclass(slots=True)
class Outcome:
    """What became of some answers."""

    answers: int = 0
    impressions: int = 0
    """Items that the answers held."""
    events: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By type, those that the answers led to."""
    values: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """The sum of these events' values, by type."""


@dataclass(frozen=True, slots=True)
class Report:
    """Outcomes by what was asked for, over whole periods, and events that name an answer without stemming from it."""

    since: datetime
    period: Period
    outcomes: dict[tuple[str, ...], Outcome]
    unattributed: int


class OnlineMetrics:
    """Counts what this process answers and the events that name an answer, and reports on all processes.

    Such an event counts where the answer is still kept and showed the item, once for each answer, item and type;
    else it is unattributed. What waits is counted every second; of more than `MAX_WAITING` events the rest is lost.
    """

    def __init__(self, answers: AnswerLog | None, counters: Counters) -> None:
        self._answers = answers
        self._counters = counters
        self._served: defaultdict[Origin, list[int]] = defaultdict(lambda: [0, 0])
        self._events: list[AppliedEvent] = []
        self._outages = OutageLog("online metrics")

    def served(self, answer: Answer) -> None:
        """Count an answer."""
        count = self._served[Origin.of(answer)]
        count[0] += 1
        count[1] += len(answer.items)

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Have the events counted that name the answer that led to them."""
        for event in events:
            if event.recommendation_id is None:
                continue
            if len(self._events) < MAX_WAITING:
                self._events.append(event)
            else:
                self._outages.lost(1)

    async def flush(self) -> None:
        """Count what waits."""
        served, self._served = self._served, defaultdict(lambda: [0, 0])
        events, self._events = self._events, []
        if not served and not events:
            return
        amounts: defaultdict[str, float] = defaultdict(float)
        for origin, (answers, impressions) in served.items():
            amounts[_counter(origin, ANSWERS)] += answers
            amounts[_counter(origin, IMPRESSIONS)] += impressions
        with self._outages.noted(len(served) + len(events)):
            for event, led in zip(events, await self._origins(events), strict=True):
                for name, amount in _counted(event, attributed=led is not None):
                    amounts[_counter(led or NO_ORIGIN, name)] += amount
            self._outages.lost(await self._counters.add(amounts))

    async def report(self, window: timedelta, by: Collection[Dimension]) -> Report:
        """Sum up what happened within `window` until now, told apart by some dimensions.

        Raises SessionStoreUnavailable.
        """
        since, period, sums = await self._counters.sums(window)
        outcomes: defaultdict[tuple[str, ...], Outcome] = defaultdict(Outcome)
        unattributed = 0
        for counter, amount in sums.items():
            origin, name = _read(counter)
            if name == UNATTRIBUTED:
                unattributed += round(amount)
            else:
                group = tuple(value for dimension, value in origin._asdict().items() if dimension in by)
                _add(outcomes[group], name, amount)
        return Report(since, period, dict(outcomes), unattributed)

    async def _origins(self, events: Sequence[AppliedEvent]) -> list[Origin | None]:
        if self._answers is None or not events:
            return [None] * len(events)
        return await self._answers.attribute(
            [Claim(event.recommendation_id or "", event.item_id, event.type) for event in events]
        )


def _counted(event: AppliedEvent, *, attributed: bool) -> Iterator[tuple[str, float]]:
    if not attributed:
        yield UNATTRIBUTED, 1
        return
    yield EVENTS + event.type, 1
    if event.value is not None and event.value <= MAX_VALUE:
        yield VALUE + event.type, event.value


def _counter(origin: Origin, name: str) -> str:
    return json.dumps([*origin, name], ensure_ascii=False)


def _read(counter: str) -> tuple[Origin, str]:
    *origin, name = json.loads(counter)
    return Origin(*origin), name


def _add(outcome: Outcome, name: str, amount: float) -> None:
    if name == ANSWERS:
        outcome.answers += round(amount)
    elif name == IMPRESSIONS:
        outcome.impressions += round(amount)
    elif name.startswith(EVENTS):
        outcome.events[name.removeprefix(EVENTS)] += round(amount)
    else:
        outcome.values[name.removeprefix(VALUE)] += amount
