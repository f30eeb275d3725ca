"""Run the steps of a preparation one after another."""

from collections.abc import Callable
from functools import partial

import narwhals as nw

from onward.training.data.preparation.account import Loss
from onward.training.data.preparation.sessions import (
    drop_short_sessions,
    events_of_items,
    number_sessions,
    renumber_positions,
)
from onward.training.data.readers.engine import Engine, Frame


class StepRunner:
    """Materializes frames and counts the events that each step drops.

    A table that is joined to events is materialized first: in one query plan, all events would wait in memory for it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.losses: list[Loss] = []
        self._materialized = 0

    def materialize(self, frame: Frame) -> Frame:
        """See Engine."""
        return self.engine.materialize(frame, self._name())

    def materialize_by_session(self, frame: Frame, step: Callable[[Frame], Frame]) -> Frame:
        """See Engine."""
        return self.engine.materialize_by_session(frame, step, self._name())

    def number(self, events: Frame) -> Frame:
        """Number the sessions in order of time."""
        sessions = self.materialize(number_sessions(events))
        return self.materialize(events.join(sessions, on="session_id", how="inner"))

    def keep_items(self, events: Frame, items: Frame, reason: str, option: str | None) -> Frame:
        """Keep the events of `items`, with positions without gaps; count the dropped ones under `reason`."""
        kept = self.materialize(events_of_items(events, self.materialize(items)))
        lost = count(events) - count(kept)
        self.drop(lost, reason, option, items=lost and distinct(events, "item_id") - distinct(kept, "item_id"))
        return self.materialize_by_session(kept, renumber_positions) if lost else kept

    def keep_long_sessions(self, events: Frame, min_length: int, reason: str, option: str | None) -> Frame:
        """Drop sessions of fewer than `min_length` events; count their events under `reason`."""
        kept = self.materialize_by_session(events, partial(drop_short_sessions, min_length=min_length))
        lost = count(events) - count(kept)
        self.drop(lost, reason, option, sessions=lost and distinct(events, "session_id") - distinct(kept, "session_id"))
        return kept

    def drop(self, events: int, reason: str, option: str | None = None, *, sessions: int = 0, items: int = 0) -> None:
        """Count events as dropped."""
        if events:
            self.losses.append(Loss(reason=reason, events=events, sessions=sessions, items=items, option=option))

    @property
    def dropped(self) -> dict[str, int]:
        """The number of dropped events by reason."""
        dropped: dict[str, int] = {}
        for loss in self.losses:
            dropped[loss.reason] = dropped.get(loss.reason, 0) + loss.events
        return dropped

    def describe_dropped(self) -> str:
        """Describe what was dropped so far, for an error message."""
        dropped = ", ".join(f"{events:,} {reason}" for reason, events in self.dropped.items())
        return f"dropped events: {dropped}" if dropped else "too few sessions"

    def _name(self) -> str:
        self._materialized += 1
        return f"step-{self._materialized}"


def count(frame: Frame) -> int:
    """Count the rows of a frame."""
    return int(frame.select(nw.len()).collect("polars").to_native().item())


def distinct(events: Frame, column: str) -> int:
    """Count the distinct values of a column."""
    return int(events.select(nw.col(column).n_unique()).collect("polars").to_native().item())


def count_sessions(events: Frame) -> int:
    """Count the distinct session numbers of `events`."""
    return int(events.select(nw.col("session_number").n_unique()).collect("polars").to_native().item())
