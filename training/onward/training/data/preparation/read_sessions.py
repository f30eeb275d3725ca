"""Read the sessions of event logs without making a dataset of them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from onward.training.data.preparation.input_log import InputLog, read_log
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.preparation.sessions import cut_at_gaps, valid_events, with_positions
from onward.training.data.preparation.steps import StepRunner
from onward.training.data.readers.engine import Engine, Frame
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.readers.row_problems import describe_problems
from onward.training.errors import InputError

CLOCK_SLACK = timedelta(days=1)


def read_sessions(files: Sequence[str], on_step: Callable[[str], object]) -> pl.DataFrame:
    """Return session_number (from 0, in order of time), item_id and timestamp_ms of each event, in order of time.

    Columns and times are recognized as `prepare` recognizes them, users' events are cut into sessions as it does by
    default, and rows that it would drop are dropped; how many is announced. Raises InputError if no event is usable.
    """
    preparation = Preparation(split=SplitKind.TEMPORAL)
    with TemporaryDirectory() as scratch:
        steps = StepRunner(PolarsEngine(Path(scratch)))
        latest_ms = int((datetime.now(UTC) + CLOCK_SLACK).timestamp() * 1000)
        log = read_log(steps.engine, files, preparation, latest_ms, name="sessions")
        if log.problems:
            on_step(f"dropped rows: {describe_problems(log.problems)}")
        valid = steps.materialize(valid_events(log.events))
        events = steps.number(steps.materialize_by_session(valid, partial(_cut, steps.engine, log)))
        read: pl.DataFrame = steps.engine.with_id_texts(events).collect("polars").to_native()
    if not len(read):
        raise InputError(f"{files[0]}: no usable event")
    return read.sort("session_number", "position").select("session_number", "item_id", "timestamp_ms")


def _cut(engine: Engine, log: InputLog, events: Frame) -> Frame:
    gap_ms = log.preparation.gap_ms
    events = events if gap_ms is None else cut_at_gaps(engine, events, gap_ms)
    return with_positions(events, position_counts=log.position_counts)
