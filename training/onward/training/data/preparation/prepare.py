"""Prepare a dataset from event logs: read, cut into sessions, filter, split, number the items, write."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from onward.training.data.dataset import (
    EVENT_COLUMNS,
    INFO_FILE,
    ITEMS_FILE,
    PARTS,
    DatasetInfo,
    PartCounts,
    PartName,
    digest,
    fingerprint,
    fingerprinted_files,
)
from onward.training.data.preparation import splits
from onward.training.data.preparation.account import Account
from onward.training.data.preparation.input_log import InputLog, read_log
from onward.training.data.preparation.items import number_items, with_rows
from onward.training.data.preparation.new_items import write_new_items
from onward.training.data.preparation.prepare_options import Limits, Preparation, SplitKind
from onward.training.data.preparation.sessions import (
    cut_at_gaps,
    frequent_items,
    sessions_out_of_order,
    valid_events,
    with_positions,
)
from onward.training.data.preparation.shown_items import impressions, write_shown_items
from onward.training.data.preparation.splits import Split
from onward.training.data.preparation.steps import StepRunner, count, count_sessions, distinct
from onward.training.data.readers.attributes import ITEM_COLUMNS, Attributes, add_attributes, read_attributes
from onward.training.data.readers.engine import Engine, Frame
from onward.training.data.readers.events import DAY_MS, EVENT_TYPE, NO_INTERACTION, UNREADABLE_TIME, is_mistake
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.readers.row_problems import RowProblem, describe_problems
from onward.training.data.staging import new_folder
from onward.training.errors import InputError

CLOCK_SLACK = timedelta(days=1)
"""Tolerance for times in the future: local times are read as UTC, so an event may appear a few hours ahead."""
TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1
"""Shares of the users in the split by user."""

DEFAULTS = Preparation(split=SplitKind.TEMPORAL)


def prepare(
    events: Sequence[str],
    out: Path,
    preparation: Preparation = DEFAULTS,
    make_engine: Callable[[Path], Engine] = PolarsEngine,
    *,
    test: Sequence[str] = (),
    items: str | None = None,
    strict: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> DatasetInfo:
    """Write the dataset `out` from files of events.

    Args:
        events: files or folders of events.
        out: the folder to write.
        preparation: the options that determine the rows.
        make_engine: called with the folder for intermediate files, which lies beside `out`.
        test: the files of the test part, if the events are already split.
        items: a local file with attributes of items.
        strict: raise at the first unusable row instead of dropping it.
        force: replace the dataset at `out`.
        progress: called with a description of each step when it begins.

    Raises InputError if an option, a file or a row (with `strict`) is unusable, or no example is left.
    """
    preparation.check_consistency(has_test=bool(test))
    with new_folder(out, force=force, marker=INFO_FILE) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        run = _PreparationRun(make_engine(scratch), preparation, strict, progress)
        attributes = run.read_attributes(items, scratch) if items else None
        split = run.split(run.read("events", events), run.read("test events", test) if test else None)
        run.write(split, attributes, folder)
        run.write_shown_items(folder, scratch)
        shutil.rmtree(scratch)
        info = run.info(folder, [Path(file).name for file in (*events, *test, *([items] if items else []))])
        info = info.model_copy(
            update={"digests": {file.name: digest(file) for file in sorted(folder.glob("*.parquet"))}}
        )
        (folder / INFO_FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info


class _PreparationRun:
    """The state of one preparation: the engine, and the problems and counts collected so far."""

    def __init__(self, engine: Engine, preparation: Preparation, strict: bool, progress: Callable[[str], None]) -> None:
        self._steps = StepRunner(engine)
        self._preparation = preparation
        self._limits = preparation.limits(0)
        self._strict = strict
        self._progress = progress
        self._problems: list[RowProblem] = []
        self._attributes_unused: int | None = None
        self._logs: list[InputLog] = []
        self._remarks: list[str] = []
        self._impressions: list[Frame] = []
        self._sessions = self._items = 0

    def read_attributes(self, path: str, scratch: Path) -> Attributes:
        """Read the attributes of items, one row each."""
        self._progress("read items")
        options = self._preparation
        attributes = read_attributes(
            path,
            options.items_format,
            options.items_column,
            dialect=options.dialect,
            numbers=options.items_numbers,
            scratch=scratch,
        )
        self._add_problems(attributes.problems)
        self._remarks += attributes.remarks
        return attributes

    def read(self, name: str, files: Sequence[str]) -> Frame:
        """Read the valid events of files, cut into sessions and sorted."""
        self._progress(f"read {name}")
        latest_ms = int((datetime.now(UTC) + CLOCK_SLACK).timestamp() * 1000)
        log = read_log(self._steps.engine, files, self._preparation, latest_ms, name=name)
        self._preparation = log.preparation
        self._logs.append(log)
        leaves_out_types = any(not is_mistake(problem.kind) for problem in log.problems)
        if leaves_out_types and log.has_events and log.times is not None:
            self._impressions.append(self._steps.materialize(impressions(log.events)))
        self._remarks += log.remarks
        self._add_problems(log.problems)
        for problem in log.problems:
            self._steps.drop(problem.count, problem.kind, _option_against(problem.kind))
        valid = self._steps.materialize(valid_events(log.events))
        self._say_if_out_of_order(valid, log)
        events = self._steps.materialize_by_session(valid, partial(self._cut_into_sessions, log.position_counts))
        if not count(events):
            options = dict.fromkeys(filter(None, (_option_against(problem.kind) for problem in log.problems)))
            see = f"; see {', '.join(options)}" if options else ""
            reasons = describe_problems(log.problems) or "the file has no rows"
            reasons += f"; its times are written like {log.time_example!r}" if log.time_example else ""
            raise InputError(f"{files[0]}: no usable event: {reasons}{see}")
        self._sessions += distinct(events, "session_id")
        self._items = max(self._items, distinct(events, "item_id"))
        return events

    def split(self, events: Frame, test: Frame | None) -> Split:
        """Filter events, number the sessions by time and split them into parts."""
        self._adapt_to(count(events))
        self._progress("filter")
        events = self._steps.number(self._filtered(events))
        if not count(events):
            dropped = self._steps.describe_dropped()
            or_gap = ", or give a longer --gap" if self._preparation.gap_ms is not None else ""
            raise InputError(f"no session is left: {dropped}; lower --min-support or --min-length{or_gap}")
        self._progress("split")
        match self._preparation.split:
            case SplitKind.GIVEN:
                return self._already_split(events, test)
            case SplitKind.TEMPORAL:
                return self._temporal(events)
            case SplitKind.LEAVE_ONE_OUT:
                return splits.leave_one_out(events)
            case SplitKind.BY_USER:
                return self._by_user(events)

    def write(self, split: Split, attributes: Attributes | None, folder: Path) -> None:
        """Number the items and write the Parquet files."""
        self._progress("number items")
        engine = self._steps.engine
        items = self._steps.materialize(number_items(split.known))
        engine.write(items, folder / ITEMS_FILE, sort_by=["row"], columns=ITEM_COLUMNS)
        if attributes is not None:
            write_new_items(folder, attributes.items)
            self._attributes_unused, remarks = add_attributes(folder / ITEMS_FILE, attributes)
            self._remarks += remarks
        parts: dict[PartName, Frame | None] = {"train": split.train, "validation": split.validation, "test": split.test}
        columns = [*EVENT_COLUMNS]
        columns += ["event"] * any(log.has_events for log in self._logs)
        columns += ["weight"] * any(log.has_weights for log in self._logs)
        for name, part in parts.items():
            if part is not None:
                self._progress(f"write {name}")
                file, order = folder / f"{name}.parquet", ["session_number", "position"]
                engine.write(with_rows(part, items), file, sort_by=order, columns=columns)

    def write_shown_items(self, folder: Path, scratch: Path) -> None:
        """Write the items that were shown and not taken, if the log has impressions."""
        if not self._impressions:
            return
        shown, gap_ms = nw.concat(self._impressions), self._preparation.gap_ms
        if count(shown):
            self._progress("write impressions")
            written = write_shown_items(self._steps.engine, shown, folder, scratch, gap_ms)
            self._remarks.append(f"{written:,} impressions without a click are weak negatives of training")

    def info(self, folder: Path, sources: Sequence[str]) -> DatasetInfo:
        """Count the rows of the written files. Raises InputError if a part has no example."""
        self._progress("count")
        files = {part: folder / f"{part}.parquet" for part in PARTS if (folder / f"{part}.parquet").exists()}
        targets = self._preparation.split.targets
        parts = {part: PartCounts.of(file, "each" if part == "train" else targets) for part, file in files.items()}
        for part, counts in parts.items():
            if not counts.examples:
                dropped = self._steps.describe_dropped()
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
            account=self._account(folder, parts),
            fingerprint=fingerprint(fingerprinted_files(folder, files)),
        )

    def _account(self, folder: Path, parts: Mapping[PartName, PartCounts]) -> Account:
        first = self._logs[0]
        overlapping = self._preparation.split is SplitKind.LEAVE_ONE_OUT
        kept = parts["test"].events if overlapping else sum(counts.events for counts in parts.values())
        return Account(
            columns=first.columns,
            times=first.times,
            files=tuple(name for log in self._logs for name in log.files),
            ignored=tuple(file for log in self._logs for file in log.ignored),
            rows=sum(log.rows for log in self._logs),
            losses=tuple(self._steps.losses),
            kept=kept,
            sessions=self._sessions,
            items=self._items,
            remarks=(*self._remarks, *_remarks_on_unknown_items(folder, parts)),
        )

    def _add_problems(self, problems: Sequence[RowProblem]) -> None:
        problems = [problem for problem in problems if is_mistake(problem.kind)]
        if problems and self._strict:
            raise InputError(f"{describe_problems(problems)}; correct the rows, or leave out --strict to drop them")
        self._problems += problems

    def _say_if_out_of_order(self, events: Frame, log: InputLog) -> None:
        position = next((taken.column for taken in log.columns if taken.role == "position"), None)
        time = next((taken.column for taken in log.columns if taken.role == "time"), None)
        if position is None or time is None:
            return
        found = count(self._steps.materialize_by_session(events, sessions_out_of_order))
        first, option = (position, "") if log.position_counts else (time, f"; --position-column {position} for that")
        if found:
            self._remarks.append(
                f"{position!r} and {time!r} disagree in {found:,} sessions: events are in order of {first!r}{option}"
            )

    def _cut_into_sessions(self, position_counts: bool, events: Frame) -> Frame:
        gap_ms = self._preparation.gap_ms
        events = cut_at_gaps(self._steps.engine, events, gap_ms) if gap_ms is not None else events
        return with_positions(events, position_counts=position_counts)

    def _adapt_to(self, events: int) -> None:
        """Choose the limits that were not given by the size of the log, and say so."""
        self._limits = self._preparation.limits(events)
        has_test_share = self._preparation.split is SplitKind.TEMPORAL and self._preparation.test_days is None
        adapted = [
            name
            for name in Limits._fields
            if getattr(self._preparation, name) is None and (has_test_share or name != "test_share")
        ]
        if adapted:
            options = ", ".join(f"--{name.replace('_', '-')} {getattr(self._limits, name)}" for name in adapted)
            self._remarks.append(f"by the size of the log, {events:,} events: {options}")
        self._preparation = self._preparation.model_copy(update=self._limits._asdict())

    def _filtered(self, events: Frame) -> Frame:
        """Drop short sessions, then rare items, then sessions that have become short.

        The events of an item are counted after the first step, as in SR-GNN's preprocessing. In the split by user they
        are counted before it, over the whole log, as in ComiRec's; the last step then decides which users are kept.
        """
        min_support, min_length = self._limits.min_support, self._limits.min_length
        long_enough = self._steps.keep_long_sessions(events, min_length, "in short sessions", "--min-length 1")
        counted = events if self._preparation.split is SplitKind.BY_USER else long_enough
        kept = self._steps.keep_items(
            long_enough, frequent_items(counted, min_support), "of rare items", "--min-support 1"
        )
        return self._steps.keep_long_sessions(
            kept, min_length, "in sessions left short", "--min-support 1 or --min-length 1"
        )

    def _already_split(self, train: Frame, test: Frame | None) -> Split:
        if test is not None:
            min_length = self._limits.min_length
            test = self._steps.number(
                self._steps.keep_long_sessions(test, min_length, "in short test sessions", "--min-length 1")
            )
        return splits.by_session_number(train, test, self._validation_from(train))

    def _temporal(self, events: Frame) -> Split:
        split_ms = self._split_moment(events)
        train = self._steps.materialize(splits.before(events, split_ms))
        test = self._steps.materialize(splits.after(events, split_ms))
        at_split = count(events) - count(train) - count(test)
        self._steps.drop(at_split, "in sessions that ended at the split moment", "--test-days or another --split")
        test = self._steps.keep_items(
            test, frequent_items(train), "test items unseen in training", "--test-days or another --split"
        )
        min_length = max(2, self._limits.min_length)
        test = self._steps.keep_long_sessions(test, min_length, "in test sessions left short", "another --split")
        return splits.by_session_number(train, test, self._validation_from(train))

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
        return int(last - (days * DAY_MS if days is not None else self._limits.test_share * (last - first)))

    def _validation_from(self, train: Frame) -> int | None:
        """Return the number of the first validation session, or None if the validation share is less than a session."""
        sessions = count_sessions(train)
        held_out = int(sessions * self._limits.validation)
        return sessions - held_out if held_out else None


def _option_against(problem: str) -> str | None:
    """Return the option that brings rows with a problem back, None if only the files can."""
    if problem.endswith("not in --weights"):
        return "--weights"
    if problem.startswith(EVENT_TYPE):
        return f"--weights '{problem.removeprefix(EVENT_TYPE)}=1,...'"
    return {
        UNREADABLE_TIME: "--time-format",
        "time before 1990": "--time-format",
        "missing or unreadable position": "--position-column",
        NO_INTERACTION: "--weight-column",
    }.get(problem)


def _remarks_on_unknown_items(folder: Path, parts: Mapping[PartName, PartCounts]) -> Iterator[str]:
    for part, counts in parts.items():
        unknown = pl.scan_parquet(folder / f"{part}.parquet").select((pl.col("row") == 0).sum()).collect().item()
        if unknown:
            yield f"{part}: {unknown:,} of {counts.events:,} events are of items that training never saw"
