"""Number the items of a dataset and count their events."""

import narwhals as nw

from onward.training.data.readers.engine import Frame

POSITIONS, SESSIONS = 1 << 24, 1 << 61
"""Upper bounds of a session's number of events, and of session_number * POSITIONS."""


def number_items(known: Frame) -> Frame:
    """Return one row per item: `row`, item_id, popularity (its number of events).

    `row` counts from 1 in order of first appearance; appearances in held-out events come after all others.
    `known` has the columns held_out, session_number, position and item_id.
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
    """Add the item's `row` to the events of a part; 0 if the item is not in `items`."""
    return part.join(items.select("item_id", "row"), on="item_id", how="left").with_columns(
        nw.col("row").fill_null(0).cast(nw.Int32)
    )
