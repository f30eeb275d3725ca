"""Events to sessions: cut, sort, filter. Pure functions of lazy frames, the same for every engine.

An event of a session has session_id, item_id, timestamp_ms (null without times) and `arrival`, its place in the
input. `with_positions` adds position (from 0) and `ended_ms`, the time of the last event of its session.
"""

import narwhals as nw

from onward.training.data.readers.engine import SOURCE_ROW, Engine, Frame

ROWS_PER_SOURCE = 1 << 40
"""More rows than any file has, so that source * ROWS_PER_SOURCE + row sorts all events in input order."""


def valid_events(events: Frame) -> Frame:
    """Return the events without a problem, with their `arrival`."""
    arrival = nw.col("source").cast(nw.Int64) * ROWS_PER_SOURCE + nw.col(SOURCE_ROW)
    return events.filter(nw.col("problem").is_null()).select(
        "session_id", "item_id", "timestamp_ms", "sequence", "event", "weight", arrival.alias("arrival")
    )


def cut_at_gaps(engine: Engine, events: Frame, gap_ms: int) -> Frame:
    """Cut the events of each user (the user id is in session_id) into sessions USER-0, USER-1, ... at longer gaps."""
    order = ("timestamp_ms", "sequence", "arrival")
    previous_ms = nw.col("timestamp_ms").shift(1).over("session_id", order_by=order)
    after_gap = (nw.col("timestamp_ms") - previous_ms > gap_ms).fill_null(False).cast(nw.Int64)
    number = nw.col("after_gap").cum_sum().over("session_id", order_by=order)
    events = events.with_columns(after_gap.alias("after_gap")).with_columns(number.alias("number"))
    return engine.cut_sessions(events, "number").drop("after_gap", "number")


def with_positions(events: Frame, *, position_counts: bool = True) -> Frame:
    """Add `position`, by the log's position column if it counts, else by time; ties keep the order of the input.

    Also add `ended_ms`, the time of the session's last event, which stays the same when events are dropped later.
    """
    first, second = ("sequence", "timestamp_ms") if position_counts else ("timestamp_ms", "sequence")
    order = (first, second, "arrival")
    position = nw.col("arrival").cum_count().over("session_id", order_by=order) - 1
    return events.with_columns(
        position.cast(nw.Int32).alias("position"),
        nw.col("timestamp_ms").max().over("session_id").alias("ended_ms"),
    ).drop("sequence")


def sessions_out_of_order(events: Frame) -> Frame:
    """Return one row (session_id) per session whose positions go down while its times go up."""
    previous = nw.col("sequence").shift(1).over("session_id", order_by=("timestamp_ms", "sequence", "arrival"))
    return events.filter(nw.col("sequence") < previous).select("session_id").unique()


def renumber_positions(events: Frame) -> Frame:
    """Renumber `position` from 0 after events were dropped."""
    position = nw.col("arrival").cum_count().over("session_id", order_by="position") - 1
    return events.with_columns(position.cast(nw.Int32).alias("position"))


def drop_short_sessions(events: Frame, min_length: int) -> Frame:
    """Keep sessions of at least `min_length` events."""
    lengths = events.group_by("session_id").agg(nw.len().alias("length"))
    return events.join(lengths.filter(nw.col("length") >= min_length).select("session_id"), on="session_id", how="semi")


def frequent_items(events: Frame, min_support: int = 1) -> Frame:
    """Return one row (item_id) per item with at least `min_support` events."""
    supports = events.group_by("item_id").agg(nw.len().alias("support"))
    return supports.filter(nw.col("support") >= min_support).select("item_id")


def events_of_items(events: Frame, items: Frame) -> Frame:
    """Keep the events whose item is in `items`."""
    return events.join(items, on="item_id", how="semi")


def number_sessions(events: Frame) -> Frame:
    """Return one row per session: session_id, length and session_number, from 0 in order of `ended_ms`.

    Sessions that ended at the same time, or have no times, keep the order of the input.
    """
    return (
        events.group_by("session_id")
        .agg(
            nw.len().alias("length"),
            nw.col("ended_ms").max(),
            nw.col("arrival").min().alias("first_arrival"),
        )
        .with_row_index("session_number", order_by=("ended_ms", "first_arrival"))
        .select("session_id", "length", nw.col("session_number").cast(nw.Int64))
    )
