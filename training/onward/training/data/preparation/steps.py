"""The steps of a preparation, computed one after another."""

from collections.abc import Callable
from functools import partial

import narwhals as nw

from onward.training.data.preparation.sessions import close_ranks, drop_short_sessions, number_sessions, only_items
from onward.training.data.readers.engine import Engine, Frame


class Steps:
    """Settles frames, and keeps count of the events that each step drops.

    What is joined to events is settled first: in one plan with them, it would hold up all of them in memory.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dropped: dict[str, int] = {}
        self._settled = 0

    def settle(self, frame: Frame) -> Frame:
        """See Engine."""
        return self.engine.settle(frame, self._name())

    def settle_by_session(self, frame: Frame, step: Callable[[Frame], Frame]) -> Frame:
        """See Engine."""
        return self.engine.settle_by_session(frame, step, self._name())

    def number(self, events: Frame) -> Frame:
        """Put sessions in order of time; positions without gaps."""
        events = self.settle_by_session(events, close_ranks)
        sessions = self.settle(number_sessions(events))
        return self.settle(events.join(sessions, on="session_id", how="inner"))

    def keep_items(self, events: Frame, items: Frame, reason: str) -> Frame:
        """Drop the events of all but some `items`, for a reason."""
        kept = self.settle(only_items(events, self.settle(items)))
        self.drop(count(events) - count(kept), reason)
        return kept

    def keep_long_sessions(self, events: Frame, min_length: int, reason: str) -> Frame:
        """Drop the sessions of fewer than `min_length` events, for a reason."""
        kept = self.settle_by_session(events, partial(drop_short_sessions, min_length=min_length))
        self.drop(count(events) - count(kept), reason)
        return kept

    def drop(self, events: int, reason: str) -> None:
        """Count events as dropped."""
        if events:
            self.dropped[reason] = self.dropped.get(reason, 0) + events

    def told_dropped(self) -> str:
        """What was dropped so far, for an error message."""
        dropped = ", ".join(f"{events:,} {reason}" for reason, events in self.dropped.items())
        return f"dropped events: {dropped}" if dropped else "too few sessions"

    def _name(self) -> str:
        self._settled += 1
        return f"step-{self._settled}"


def count(frame: Frame) -> int:
    """The number of rows."""
    return int(frame.select(nw.len()).collect("polars").to_native().item())


def count_sessions(events: Frame) -> int:
    """The number of sessions that are numbered in `events`."""
    return int(events.select(nw.col("session_number").n_unique()).collect("polars").to_native().item())
