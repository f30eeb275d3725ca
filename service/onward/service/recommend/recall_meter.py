"""RecallMeter: how many items of an exact search the live answers have, measured on some answers in spare time."""

import asyncio
import time
from dataclasses import replace
from typing import NamedTuple

from onward.bundle import Bundle
from onward.service import telemetry
from onward.service.errors import NotReady, RecommendationGone
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.replay import repeated_query
from onward.service.records.answers import Answer

PROBE_S = 0.02
MAX_LAG_S = 0.005
"""A worker is under load if the event loop comes so late to a task that slept for `PROBE_S`."""
REST = 99
"""After a measurement, rest this many times as long as it took: at most 1 % of the time is spent on measuring."""


class Overlap(NamedTuple):
    """How many of the items that an exact search finds an answer has."""

    found: int
    exact: int


class RecallMeter:
    """Repeats one answer in `every` by an exact search in a thread, after the answer was sent.

    No answer waits for it: one is measured at a time, none while the worker is under load, and the others are dropped.
    """

    def __init__(self, live: LiveBundle, *, every: int) -> None:
        self._live = live
        self._every = every
        self._left = every
        self._rests_until_s = 0.0
        self._measuring: asyncio.Task[None] | None = None

    def answered(self, count: int, latest: Answer) -> None:
        """Count answers that were sent; measure the latest one if it is its turn."""
        self._left -= count
        if self._left <= 0:
            self._left = self._every
            self._measure(latest)

    async def close(self) -> None:
        """Finish the measurement in progress."""
        if self._measuring is not None:
            await asyncio.wait([self._measuring])

    def _measure(self, answer: Answer) -> None:
        bundle = _bundle_of(answer, self._live)
        if bundle is None:
            return
        is_measuring = self._measuring is not None and not self._measuring.done()
        if is_measuring or time.monotonic() < self._rests_until_s:
            telemetry.recall_dropped("resting")
        else:
            self._measuring = asyncio.create_task(self._compare(bundle, answer))

    async def _compare(self, bundle: Bundle, answer: Answer) -> None:
        if await _lag_s() > MAX_LAG_S:
            telemetry.recall_dropped("load")
            return
        started_s = time.monotonic()
        try:
            overlap = await asyncio.to_thread(overlap_with_exact, bundle, answer)
        except Exception as error:  # must not end unnoticed
            telemetry.background_failed(overlap_with_exact.__qualname__, error)
        else:
            telemetry.recall_measured(bundle.digest, overlap.found, overlap.exact)
        ended_s = time.monotonic()
        self._rests_until_s = ended_s + REST * (ended_s - started_s)


def overlap_with_exact(bundle: Bundle, answer: Answer) -> Overlap:
    """Repeat an answer of a bundle by an exact search, and count the items that both have."""
    query = repeated_query(answer)
    exact = bundle.retrieve(query.session, replace(query.options, exact=True), user_id=answer.user_id).items.item_ids
    return Overlap(len({*exact} & {*answer.items.item_ids}), len(exact))


def _bundle_of(answer: Answer, live: LiveBundle) -> Bundle | None:
    """Return the live bundle if it gave an answer, with the same changes, by a search of the index alone."""
    try:
        bundle, options = live.bundle, repeated_query(answer).options
    except (NotReady, RecommendationGone):
        return None
    is_search = options.is_plain_search and {*answer.items.sources} == {"encoder"}
    is_unchanged = (bundle.digest, bundle.changes_version) == (answer.bundle, answer.changes_version)
    return bundle if is_search and is_unchanged else None


async def _lag_s() -> float:
    """Return how late the event loop is."""
    started_s = time.monotonic()
    await asyncio.sleep(PROBE_S)
    return time.monotonic() - started_s - PROBE_S
