"""The catalog of a dataset: item numbers, popularity and attributes."""

import narwhals as nw

from onward.training.data.readers.engine import Frame

POSITIONS, SESSIONS = 1 << 24, 1 << 61
"""More than a session has events, and more than session_number * POSITIONS comes to."""


def number_items(known: Frame) -> Frame:
    """One row per item: `row` from 1 in order of first appearance, item_id, popularity (its number of events).

    `known` has held_out, session_number, position and item_id; what is held out comes after all the rest.
    """
    appearance = (
        nw.col("held_out").cast(nw.Int64) * SESSIONS
        + nw.col("session_number") * POSITIONS
        + nw.col("position").cast(nw.Int64)
    )
    return (
        known.select("item_id", appearance.alias("appearance"))
        .group_by("item_id")
        .agg(nw.len().cast(nw.Int64).alias("popularity"), nw.col("appearance").min())
        .with_row_index("row", order_by="appearance")
        .select((nw.col("row").cast(nw.Int32) + 1).cast(nw.Int32).alias("row"), "item_id", "popularity")
    )


def with_rows(part: Frame, items: Frame) -> Frame:
    """A part's events with their `row`, 0 for an item that `items` does not have."""
    return part.join(items.select("item_id", "row"), on="item_id", how="left").with_columns(
        nw.col("row").fill_null(0).cast(nw.Int32)
    )
