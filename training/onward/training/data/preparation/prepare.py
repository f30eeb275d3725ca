"""Event logs to a dataset, read from top to bottom."""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from onward.training.data.dataset import (
    EVENT_COLUMNS,
    INFO_FILE,
    ITEM_COLUMNS,
    ITEMS_FILE,
    PARTS,
    DatasetInfo,
    Part,
    PartCounts,
    fingerprint,
)
from onward.training.data.preparation import splits
from onward.training.data.preparation.items import number_items, with_rows
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.preparation.problems import Problem, told
from onward.training.data.preparation.sessions import close_ranks, cut_at_gaps, in_order, items_of, sound_events
from onward.training.data.preparation.splits import Split
from onward.training.data.preparation.steps import Steps, count, count_sessions
from onward.training.data.readers.attributes import add_attributes, read_attributes
from onward.training.data.readers.engine import Engine, Frame
from onward.training.data.readers.events import DAY_MS, NO_INTERACTION
from onward.training.data.readers.log import read_log
from onward.training.data.staging import new_folder
from onward.training.errors import InputError

CLOCK_SLACK = timedelta(days=1)
"""Local times are read as UTC, so an event may seem to be from a few hours ahead."""
TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1
"""Of the users, in the split by user."""


def prepare(
    events: Sequence[str],
    out: Path,
    preparation: Preparation,
    make_engine: Callable[[Path], Engine],
    *,
    test: Sequence[str] = (),
    items: str | None = None,
    strict: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> DatasetInfo:
    """Write the dataset `out` from files of events. Raises InputError.

    Args:
        make_engine: takes the folder for intermediate files, which lies beside `out`.
        test: the test part's files, when it is given.
        items: a local file with attributes of items.
        strict: stop at any problem of a row.
        force: replace the dataset that `out` is.
        progress: is told each step as it begins.
    """
    preparation.refuse_contradictions(has_test=bool(test))
    with new_folder(out, force=force, marker=INFO_FILE) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        run = _Run(make_engine(scratch), preparation, strict, progress)
        attributes = run.read_attributes(items) if items else None
        split = run.split(run.read("events", events), run.read("test events", test) if test else None)
        run.write(split, attributes, folder)
        shutil.rmtree(scratch)
        info = run.info(folder, [Path(file).name for file in (*events, *test, *([items] if items else []))])
        (folder / INFO_FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info


class _Run:
    """One preparation, and what it finds out on the way."""

    def __init__(self, engine: Engine, preparation: Preparation, strict: bool, progress: Callable[[str], None]) -> None:
        self._steps = Steps(engine)
        self._preparation = preparation
        self._strict = strict
        self._progress = progress
        self._problems: list[Problem] = []
        self._attributes_unused: int | None = None

    def read_attributes(self, path: str) -> pl.DataFrame:
        """The attributes of items, one row each."""
        self._progress("read items")
        attributes = read_attributes(path, self._preparation.items_format, self._preparation.items_column)
        self._note(attributes.problems)
        return attributes.items

    def read(self, what: str, files: Sequence[str]) -> Frame:
        """The sound events of some files, cut into sessions and in order."""
        self._progress(f"read {what}")
        latest_ms = int((datetime.now(UTC) + CLOCK_SLACK).timestamp() * 1000)
        log = read_log(self._steps.engine, files, self._preparation, latest_ms, name=what)
        self._preparation = log.preparation
        self._note(log.problems)
        for problem in log.problems:
            self._steps.drop(problem.count, problem.kind)
        events = self._steps.settle_by_session(sound_events(log.events), self._cut_and_ordered)
        if not count(events):
            raise InputError(f"{files[0]}: no usable event: {told(log.problems) or 'the file has no rows'}")
        return events

    def split(self, events: Frame, test: Frame | None) -> Split:
        """Filter, put sessions in order of time and divide them."""
        self._progress("filter")
        events = self._steps.number(self._filtered(events))
        if not count(events):
            raise InputError(f"no session is left: {self._steps.told_dropped()}; lower --min-support or --min-length")
        self._progress("split")
        match self._preparation.split:
            case SplitKind.GIVEN:
                return self._given(events, test)
            case SplitKind.TEMPORAL:
                return self._temporal(events)
            case SplitKind.LEAVE_ONE_OUT:
                return splits.leave_one_out(events)
            case SplitKind.BY_USER:
                return self._by_user(events)

    def write(self, split: Split, attributes: pl.DataFrame | None, folder: Path) -> None:
        """Number the items and write the Parquet files."""
        self._progress("number items")
        engine = self._steps.engine
        items = self._steps.settle(number_items(split.known))
        engine.write(items, folder / ITEMS_FILE, sort_by=["row"], columns=ITEM_COLUMNS)
        if attributes is not None:
            self._attributes_unused = add_attributes(folder / ITEMS_FILE, attributes)
        parts: dict[Part, Frame | None] = {"train": split.train, "validation": split.validation, "test": split.test}
        for name, part in parts.items():
            if part is not None:
                self._progress(f"write {name}")
                file, order = folder / f"{name}.parquet", ["session_number", "position"]
                engine.write(with_rows(part, items), file, sort_by=order, columns=EVENT_COLUMNS)

    def info(self, folder: Path, sources: Sequence[str]) -> DatasetInfo:
        """Count what was written. Raises InputError when a part came out empty."""
        self._progress("count")
        files = {part: folder / f"{part}.parquet" for part in PARTS if (folder / f"{part}.parquet").exists()}
        targets = self._preparation.split.targets
        parts = {part: PartCounts.of(file, "each" if part == "train" else targets) for part, file in files.items()}
        for part, counts in parts.items():
            if not counts.examples:
                dropped = self._steps.told_dropped()
                raise InputError(f"the {part} part holds no example: {dropped}; loosen the split's options")
        return DatasetInfo(
            created=datetime.now(UTC),
            sources=tuple(sources),
            options=self._preparation,
            targets=targets,
            items=pl.scan_parquet(folder / ITEMS_FILE).select(pl.len()).collect().item(),
            parts=parts,
            dropped=self._steps.dropped,
            problems=tuple(self._problems),
            attributes_unused=self._attributes_unused,
            fingerprint=fingerprint([folder / ITEMS_FILE, *files.values()]),
        )

    def _note(self, problems: Sequence[Problem]) -> None:
        problems = [problem for problem in problems if problem.kind != NO_INTERACTION]
        if problems and self._strict:
            raise InputError(f"{told(problems)}; correct the rows, or leave out --strict to drop them")
        self._problems += problems

    def _cut_and_ordered(self, events: Frame) -> Frame:
        gap_ms = self._preparation.gap_ms
        return in_order(cut_at_gaps(events, gap_ms) if gap_ms is not None else events)

    def _filtered(self, events: Frame) -> Frame:
        """Short sessions, then rare items, then sessions that this left short."""
        min_support, min_length = self._preparation.min_support, self._preparation.min_length
        events = self._steps.keep_long_sessions(events, min_length, "in short sessions")
        events = self._steps.keep_items(events, items_of(events, min_support), "of rare items")
        return self._steps.keep_long_sessions(events, min_length, "in sessions left short")

    def _given(self, train: Frame, test: Frame | None) -> Split:
        if test is not None:
            min_length = self._preparation.min_length
            test = self._steps.number(self._steps.keep_long_sessions(test, min_length, "in short test sessions"))
        return splits.given(train, test, self._validation_from(train))

    def _temporal(self, events: Frame) -> Split:
        split_ms = self._split_moment(events)
        train = self._steps.settle(splits.before(events, split_ms))
        test = self._steps.settle(splits.after(events, split_ms))
        at_the_moment = count(events) - count(train) - count(test)
        self._steps.drop(at_the_moment, "in sessions that ended at the split moment")
        test = self._steps.keep_items(test, items_of(train), "test items unseen in training")
        min_length = max(2, self._preparation.min_length)
        test = self._steps.keep_long_sessions(test, min_length, "in test sessions left short")
        return splits.given(train, self._steps.settle_by_session(test, close_ranks), self._validation_from(train))

    def _by_user(self, histories: Frame) -> Split:
        users = count_sessions(histories)
        places = np.random.default_rng(self._preparation.seed).permutation(users)
        shuffled = self._steps.engine.of(pl.DataFrame({"session_number": np.arange(users), "place": places}))
        return splits.by_user(histories, shuffled, int(TRAIN_SHARE * users), int(VALIDATION_SHARE * users))

    def _split_moment(self, events: Frame) -> int:
        ended_ms = nw.col("ended_ms")
        times = events.select(ended_ms.min().alias("first"), ended_ms.max().alias("last"))
        first, last = times.collect("polars").to_native().row(0)
        days = self._preparation.test_days
        return int(last - (days * DAY_MS if days is not None else self._preparation.test_share * (last - first)))

    def _validation_from(self, train: Frame) -> int | None:
        """The number of the first validation session; None when validation is too small a share for one."""
        sessions = count_sessions(train)
        held_out = int(sessions * self._preparation.validation)
        return sessions - held_out if held_out else None
