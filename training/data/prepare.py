"""Event logs to a dataset, read from top to bottom."""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from training.data import splits
from training.data.attributes import read_attributes
from training.data.dataset import INFO_FILE, ITEMS_FILE, PARTS, DatasetInfo, Part, PartCounts, fingerprint
from training.data.engine import Engine, Frame
from training.data.events import DAY_MS
from training.data.items import number_items, with_rows
from training.data.log import read_log
from training.data.preparation import Preparation, SplitKind
from training.data.problems import Problem, told
from training.data.sessions import (
    close_ranks,
    cut_at_gaps,
    drop_rare_items,
    drop_short_sessions,
    in_order,
    number_sessions,
    sound_events,
)
from training.data.splits import Split
from training.data.staging import new_folder
from training.errors import InputError

CLOCK_SLACK = timedelta(days=1)
"""Local times are read as UTC, so an event may seem to be from a few hours ahead."""
EVENT_ORDER = ("session_number", "position")
EVENT_COLUMNS = ("session_id", "position", "item_id", "row", "timestamp_ms", "is_target")
ITEM_COLUMNS = ("row", "item_id", "popularity")
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
        progress("fingerprint")
        info = run.info(folder, [Path(file).name for file in (*events, *test, *([items] if items else []))])
        (folder / INFO_FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info


class _Run:
    """One preparation: the steps, and what each of them dropped."""

    def __init__(self, engine: Engine, preparation: Preparation, strict: bool, progress: Callable[[str], None]) -> None:
        self._engine = engine
        self._preparation = preparation
        self._strict = strict
        self._progress = progress
        self._problems: list[Problem] = []
        self._dropped: dict[str, int] = {}
        self._attributes_unused: int | None = None
        self._settled = 0

    def read(self, what: str, files: Sequence[str]) -> Frame:
        """The sound events of some files, cut into sessions and in order."""
        self._progress(f"read {what}")
        now = datetime.now(UTC)
        log = read_log(self._engine, files, self._preparation, latest_ms=_epoch_ms(now + CLOCK_SLACK), name=what)
        self._preparation = log.preparation
        self._note(log.problems)
        events = self._by_session(sound_events(log.events), self._cut_and_ordered)
        if not _count(events):
            raise InputError(f"{files[0]}: no usable event: " + (told(log.problems) or "the file has no rows"))
        return events

    def split(self, events: Frame, test: Frame | None) -> Split:
        """Filter, put sessions in order of time and divide them."""
        self._progress("filter")
        events = self._numbered(self._filtered(events))
        if not _count(events):
            raise InputError(f"no session is left: {self._told_dropped()}; lower --min-support or --min-length")
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

    def read_attributes(self, path: str) -> pl.DataFrame:
        """The attributes of items, one row each."""
        self._progress("read items")
        attributes = read_attributes(path, self._preparation.items_format, self._preparation.items_column)
        self._refuse_if_strict(attributes.problems)
        self._problems += attributes.problems
        return attributes.items

    def write(self, split: Split, attributes: pl.DataFrame | None, folder: Path) -> None:
        """Number the items and write the Parquet files."""
        self._progress("number items")
        items = self._settle(number_items(split.known))
        self._engine.write(items, folder / ITEMS_FILE, sort_by=["row"], columns=ITEM_COLUMNS)
        if attributes is not None:
            self._attributes_unused = _add_attributes(folder / ITEMS_FILE, attributes)
        parts: dict[Part, Frame | None] = {"train": split.train, "validation": split.validation, "test": split.test}
        for name, part in parts.items():
            if part is not None:
                self._progress(f"write {name}")
                file = folder / f"{name}.parquet"
                self._engine.write(with_rows(part, items), file, sort_by=EVENT_ORDER, columns=EVENT_COLUMNS)

    def info(self, folder: Path, sources: Sequence[str]) -> DatasetInfo:
        """Count what was written. Raises InputError when a part came out empty."""
        files = {part: folder / f"{part}.parquet" for part in PARTS if (folder / f"{part}.parquet").exists()}
        targets = self._preparation.split.targets
        parts = {part: _counts(file, targets if part != "train" else "each") for part, file in files.items()}
        for part, counts in parts.items():
            if not counts.examples:
                raise InputError(
                    f"the {part} part holds no example: {self._told_dropped()}; loosen the split's options"
                )
        items = pl.scan_parquet(folder / ITEMS_FILE).select(pl.len()).collect().item()
        return DatasetInfo(
            created=datetime.now(UTC),
            sources=tuple(sources),
            options=self._preparation,
            targets=targets,
            items=items,
            parts=parts,
            dropped=self._dropped,
            problems=tuple(self._problems),
            attributes_unused=self._attributes_unused,
            fingerprint=fingerprint([folder / ITEMS_FILE, *files.values()]),
        )

    def _cut_and_ordered(self, events: Frame) -> Frame:
        gap_ms = self._preparation.gap_ms
        return in_order(cut_at_gaps(events, gap_ms) if gap_ms is not None else events)

    def _note(self, problems: Sequence[Problem]) -> None:
        self._refuse_if_strict(problems)
        self._problems += problems
        for problem in problems:
            self._dropped[problem.kind] = self._dropped.get(problem.kind, 0) + problem.count

    def _refuse_if_strict(self, problems: Sequence[Problem]) -> None:
        if problems and self._strict:
            raise InputError(f"{told(problems)}; correct the rows, or leave out --strict to drop them")

    def _filtered(self, events: Frame) -> Frame:
        """Short sessions, then rare items, then sessions that this left short."""
        min_support, min_length = self._preparation.min_support, self._preparation.min_length
        events = self._long_enough("in short sessions", events, min_length)
        events = self._kept("of rare items", events, drop_rare_items(events, min_support))
        return self._long_enough("in sessions left short", events, min_length)

    def _numbered(self, events: Frame) -> Frame:
        """Sessions in order of time; positions without gaps."""
        events = self._by_session(events, close_ranks)
        return self._settle(events.join(number_sessions(events), on="session_id", how="inner"))

    def _given(self, train: Frame, test: Frame | None) -> Split:
        if test is not None:
            test = self._numbered(self._long_enough("in short test sessions", test, self._preparation.min_length))
        return splits.given(train, test, self._validation_from(train))

    def _temporal(self, events: Frame) -> Split:
        split_ms = self._split_moment(events)
        train = self._settle(splits.before(events, split_ms))
        test = self._settle(splits.after(events, split_ms))
        self._drop("in sessions that ended at the split moment", _count(events) - _count(train) - _count(test))
        test = self._kept("test items unseen in training", test, splits.only_items_of(test, train))
        test = self._long_enough("in test sessions left short", test, max(2, self._preparation.min_length))
        return splits.given(train, self._by_session(test, close_ranks), self._validation_from(train))

    def _by_user(self, histories: Frame) -> Split:
        users = _sessions(histories)
        places = np.random.default_rng(self._preparation.seed).permutation(users)
        shuffled = pl.DataFrame({"session_number": np.arange(users), "place": places})
        return splits.by_user(
            histories, self._engine.of(shuffled), int(TRAIN_SHARE * users), int(VALIDATION_SHARE * users)
        )

    def _split_moment(self, events: Frame) -> int:
        times = events.select(nw.col("ended_ms").min().alias("first"), nw.col("ended_ms").max().alias("last"))
        first, last = times.collect("polars").to_native().row(0)
        days = self._preparation.test_days
        return int(last - (days * DAY_MS if days is not None else self._preparation.test_share * (last - first)))

    def _validation_from(self, train: Frame) -> int | None:
        """The number of the first validation session; None when validation is too small a share for one."""
        sessions = _sessions(train)
        held_out = int(sessions * self._preparation.validation)
        return sessions - held_out if held_out else None

    def _long_enough(self, reason: str, events: Frame, min_length: int) -> Frame:
        kept = self._by_session(events, partial(drop_short_sessions, min_length=min_length))
        self._drop(reason, _count(events) - _count(kept))
        return kept

    def _kept(self, reason: str, events: Frame, selected: Frame) -> Frame:
        kept = self._settle(selected)
        self._drop(reason, _count(events) - _count(kept))
        return kept

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self._dropped[reason] = count

    def _settle(self, frame: Frame) -> Frame:
        self._settled += 1
        return self._engine.settle(frame, f"step-{self._settled}")

    def _by_session(self, frame: Frame, step: Callable[[Frame], Frame]) -> Frame:
        self._settled += 1
        return self._engine.settle_by_session(frame, step, f"step-{self._settled}")

    def _told_dropped(self) -> str:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self._dropped.items())
        return f"dropped events: {dropped}" if dropped else "too few sessions"


def _count(frame: Frame) -> int:
    return int(frame.select(nw.len()).collect("polars").to_native().item())


def _sessions(events: Frame) -> int:
    return int(events.select(nw.col("session_number").n_unique()).collect("polars").to_native().item())


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _add_attributes(items_file: Path, attributes: pl.DataFrame) -> int:
    """Write the attributes beside the items they belong to; return how many belong to none."""
    items = pl.read_parquet(items_file)
    items.join(attributes, on="item_id", how="left", maintain_order="left").write_parquet(items_file)
    return len(attributes.join(items, on="item_id", how="anti"))


def _counts(file: Path, targets: str) -> PartCounts:
    target = pl.col("is_target")
    examples = target.sum() if targets == "each" else pl.col("session_id").filter(target).n_unique()
    counts = pl.scan_parquet(file).select(
        events=pl.len(), sessions=(pl.col("position") == 0).sum(), items=pl.col("item_id").n_unique(), examples=examples
    )
    return PartCounts(**counts.collect().row(0, named=True))
