"""Impressions without a click: the items that a visitor was shown before an event and did not take.

Of each event of training and validation the newest of them are kept, in `train_shown.parquet` and
`validation_shown.parquet`: one row (event, row) each, by the number of the event in the file of its part.
"""

from pathlib import Path

import narwhals as nw
import polars as pl

from onward.training.data.dataset import ITEMS_FILE, SHOWN_PARTS, shown_file
from onward.training.data.preparation.prepare_options import DEFAULT_GAP_MS
from onward.training.data.preparation.steps import count
from onward.training.data.readers.engine import SOURCE_ROW, Engine, Frame
from onward.training.data.readers.events import EVENT_TYPE, IMPRESSIONS, NO_INTERACTION

PER_EVENT = 10
MOST = 8_000_000
"""Impressions that are looked at: of more, every n-th row."""
COLUMNS = ("session_id", "item_id", "timestamp_ms")


def impressions(events: Frame) -> Frame:
    """Return the impressions among the events that were read, which are no interactions."""
    is_type = nw.col("event").str.to_lowercase().is_in(list(IMPRESSIONS))
    is_left_out = nw.col("problem").str.starts_with(EVENT_TYPE) | (nw.col("problem") == NO_INTERACTION)
    has_all = ~nw.any_horizontal(*(nw.col(name).is_null() for name in COLUMNS), ignore_nulls=False)
    shown = events.filter(is_type & is_left_out & has_all)
    return shown.filter(nw.col(SOURCE_ROW) % (1 + count(shown) // MOST) == 0).select(*COLUMNS)


def write_shown_items(engine: Engine, shown: Frame, folder: Path, scratch: Path, gap_ms: int | None) -> int:
    """Write the items that were shown before each event of a dataset's parts; return their number in training.

    An impression belongs to the visitor's next event, if it follows within the idle time that ends a session (30
    minutes without one). An item that the session holds is none.

    Args:
        engine: the engine of the frame.
        shown: the impressions; their `session_id` is the user if sessions were cut at gaps.
        folder: the dataset, whose parts are written.
        scratch: the folder for intermediate files.
        gap_ms: idle time at which sessions were cut; None if they have ids.
    """
    engine.write(shown, scratch / "shown.parquet", sort_by=["timestamp_ms"], columns=COLUMNS)
    items = pl.scan_parquet(folder / ITEMS_FILE).select("item_id", "row")
    rows = pl.scan_parquet(scratch / "shown.parquet").join(items, on="item_id").drop("item_id")
    rows = rows.rename({"session_id": "visitor"}).with_columns(shown_ms=pl.col("timestamp_ms")).sort("timestamp_ms")
    written = 0
    for part in SHOWN_PARTS:
        file = folder / f"{part}.parquet"
        if not file.exists():
            continue
        of_part = _before_events(rows, pl.scan_parquet(file), gap_ms).collect(engine="streaming")
        if len(of_part):
            of_part.write_parquet(shown_file(folder, part))
        written += len(of_part) if part == "train" else 0
    return written


def _before_events(rows: pl.LazyFrame, events: pl.LazyFrame, gap_ms: int | None) -> pl.LazyFrame:
    events = events.select("session_id", "timestamp_ms", pl.col("row").alias("taken")).with_row_index("event")
    visitor = pl.col("session_id") if gap_ms is None else pl.col("session_id").str.replace(r"-\d+$", "")
    following = events.with_columns(visitor=visitor, event_ms="timestamp_ms").drop("taken").sort("timestamp_ms")
    taken = events.select("session_id", row="taken").unique()
    return (
        rows.join_asof(following, on="timestamp_ms", by="visitor", strategy="forward", check_sortedness=False)
        .filter(pl.col("event_ms") - pl.col("shown_ms") <= (gap_ms or DEFAULT_GAP_MS))
        .join(taken, on=["session_id", "row"], how="anti")
        .group_by("event", "row")
        .agg(pl.col("shown_ms").max())
        .filter(pl.col("shown_ms").rank("ordinal", descending=True).over("event") <= PER_EVENT)
        .select("event", "row")
        .sort("event", "row")
    )
