"""Events to sessions: cut, order, filter. Pure functions of lazy frames, the same for every engine.

A session's event has session_id, item_id, timestamp_ms (null without times), position (from 0) and
`arrival`, its place in the input; once in order also `ended_ms`, the time of its session's last event.
"""

import narwhals as nw

from onward.training.data.readers.engine import SOURCE_ROW, Frame

ROWS_PER_SOURCE = 1 << 40
"""More than any one file has, so that source * ROWS_PER_SOURCE + row tells the order of all events."""


def sound_events(events: Frame) -> Frame:
    """The events without a problem, with their `arrival`."""
    arrival = nw.col("source").cast(nw.Int64) * ROWS_PER_SOURCE + nw.col(SOURCE_ROW)
    return events.filter(nw.col("problem").is_null()).select(
        "session_id", "item_id", "timestamp_ms", "sequence", arrival.alias("arrival")
    )


def cut_at_gaps(events: Frame, gap_ms: int) -> Frame:
    """Events of users (their id in session_id) as sessions: a new one, USER-0, USER-1, ..., after each longer gap."""
    order = ("timestamp_ms", "sequence", "arrival")
    previous_ms = nw.col("timestamp_ms").shift(1).over("session_id", order_by=order)
    after_gap = (nw.col("timestamp_ms") - previous_ms > gap_ms).fill_null(False).cast(nw.Int64)
    number = nw.col("after_gap").cum_sum().over("session_id", order_by=order)
    return (
        events.with_columns(after_gap.alias("after_gap"))
        .with_columns(nw.concat_str(["session_id", number.cast(nw.String)], separator="-").alias("session_id"))
        .drop("after_gap")
    )


def in_order(events: Frame) -> Frame:
    """Add `position`: by the position column where there is one, else by time, equal ones in the input's order.

    And `ended_ms`, when the session's last event was, whichever events are dropped later.
    """
    order = ("sequence", "timestamp_ms", "arrival")
    position = nw.col("arrival").cum_count().over("session_id", order_by=order) - 1
    return events.with_columns(
        position.cast(nw.Int32).alias("position"),
        nw.col("timestamp_ms").max().over("session_id").alias("ended_ms"),
    ).drop("sequence")


def close_ranks(events: Frame) -> Frame:
    """Count `position` anew after events were taken out."""
    position = nw.col("arrival").cum_count().over("session_id", order_by="position") - 1
    return events.with_columns(position.cast(nw.Int32).alias("position"))


def drop_short_sessions(events: Frame, min_length: int) -> Frame:
    """Only sessions of at least `min_length` events."""
    lengths = events.group_by("session_id").agg(nw.len().alias("length"))
    return events.join(lengths.filter(nw.col("length") >= min_length).select("session_id"), on="session_id", how="semi")


def items_of(events: Frame, min_support: int = 1) -> Frame:
    """One row per item of at least `min_support` events: item_id."""
    supports = events.group_by("item_id").agg(nw.len().alias("support"))
    return supports.filter(nw.col("support") >= min_support).select("item_id")


def only_items(events: Frame, items: Frame) -> Frame:
    """The events whose item is one of `items`."""
    return events.join(items, on="item_id", how="semi")


def number_sessions(events: Frame) -> Frame:
    """One row per session: session_id, length and session_number, from 0 in order of their `ended_ms`.

    Those that ended at once, or have no times, are in the order of the input.
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
