"""Add the sessions of event logs to the nearest sessions of a bundle, without training."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from onward.bundle import NearestSessionsInfo, write_stored_sessions
from onward.bundle.search.nearest_sessions import read_stored_sessions
from onward.training.data.preparation.read_sessions import read_sessions
from onward.training.data.session_index import add_sessions

MIN_EVENTS = 2
"""A session of a single event says nothing of what follows an item."""


def write_with_new_sessions(
    source: Path,
    staging: Path,
    info: NearestSessionsInfo,
    ids: Sequence[str],
    files: Sequence[str],
    on_step: Callable[[str], object],
) -> NearestSessionsInfo:
    """Write the nearest sessions of the bundle `source` and the new ones of event logs; return their description.

    New are sessions that began after the last event of those in the bundle, so that a log may be read again; all, if
    the bundle does not say when that was, which is announced. Their
    items that are not among `ids`, the items of the bundle being written, are left out, and so are sessions left with
    fewer than `MIN_EVENTS`. Raises InputError if a file is unusable.
    """
    events = read_sessions(files, on_step)
    if info.last_event is None:
        on_step("the bundle does not say when its sessions ended: all sessions of the log count as new")
    last_ms = None if info.last_event is None else int(info.last_event.timestamp() * 1000)
    started = pl.col("timestamp_ms").min().over("session_number")
    new = events if last_ms is None else events.filter(started > last_ms)
    rows = pl.DataFrame({"item_id": ids, "row": np.arange(1, len(ids) + 1)})
    known = new.join(rows, on="item_id", how="inner", maintain_order="left")
    known = known.filter(pl.len().over("session_number") >= MIN_EVENTS)
    lengths = known.group_by("session_number", maintain_order=True).len()["len"].to_numpy()
    on_step(
        f"{len(lengths):,} new sessions of {events['session_number'].n_unique():,}; "
        f"{len(new) - len(known):,} of {len(new):,} events left out: unknown items, and sessions left with fewer than "
        f"{MIN_EVENTS}"
    )
    stored, counted = add_sessions(
        read_stored_sessions(source, info),
        info.counted_sessions,
        known["row"].to_numpy().astype(np.int64),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
        len(ids),
        info.candidates,
    )
    write_stored_sessions(staging, stored)
    latest_ms: int | None = known.select(pl.col("timestamp_ms").max()).item()
    return info.model_copy(
        update={
            "sessions": len(stored.items_offsets) - 1,
            "counted_sessions": counted,
            "items": len(ids),
            "last_event": info.last_event if latest_ms is None else datetime.fromtimestamp(latest_ms / 1000, UTC),
        }
    )
