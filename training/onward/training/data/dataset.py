"""A dataset: a folder of events split into parts, the items known to training, and how it was prepared."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from onward.bundle.validation import message_of
from onward.training.data.preparation.account import Account
from onward.training.data.preparation.prepare_options import Preparation, SplitKind, Targets
from onward.training.data.readers.row_problems import RowProblem
from onward.training.errors import InputError

PartName: TypeAlias = Literal["train", "validation", "test"]
PARTS: tuple[PartName, ...] = get_args(PartName)

FORMAT_VERSION: Literal[1] = 1
EVENT_COLUMNS = ("session_id", "position", "item_id", "row", "timestamp_ms", "is_target")
"""Columns of a part's file: one row per event, sorted by session and position; `row` is 0 for an unknown item.

A log with types of events adds `event`, one with weights `weight`.
"""
INFO_FILE, ITEMS_FILE = "dataset.json", "items.parquet"
SOURCE_FILE = ".address"
"""Of a copy: the address that it was copied from."""
SHOWN_PARTS: tuple[PartName, ...] = ("train", "validation")
"""Parts with a file of the items that were shown before their events and not taken, if the log has impressions."""
NEW_ITEMS_FILE = "new_items.parquet"
"""Products of the catalog that have no event in training: item_id and the attributes that items have."""
_log = logging.getLogger(__name__)


class PartCounts(BaseModel):
    """The size of one part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: int
    sessions: int
    items: int
    examples: int

    @classmethod
    def of(cls, file: Path, targets: Targets) -> "PartCounts":
        """Count the rows of a part's file."""
        target = pl.col("is_target")
        examples = target.sum() if targets == "each" else pl.col("session_id").filter(target).n_unique()
        sessions = (pl.col("position") == 0).sum()
        counts = pl.scan_parquet(file).select(
            events=pl.len(), sessions=sessions, items=pl.col("item_id").n_unique(), examples=examples
        )
        return cls(**counts.collect(engine="streaming").row(0, named=True))


class DatasetInfo(BaseModel):
    """How a dataset was prepared, and its sizes: the content of dataset.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    created: AwareDatetime
    sources: tuple[str, ...]
    """Names of the files that were read."""
    options: Preparation
    targets: Targets
    """Whether each held-out target is an example, or all held-out targets of a session together are one example."""
    items: int
    parts: dict[PartName, PartCounts]
    dropped: dict[str, int]
    """Number of events that are in no part, by reason."""
    problems: tuple[RowProblem, ...]
    attributes_unused: int | None
    """Number of items in the attribute file that have no event; None if there was no such file."""
    account: Account | None = None
    """Where every row went; None in datasets of version 0.1."""
    fingerprint: str
    """SHA-256 of the rows of all Parquet files: equal for equal input and options."""
    digests: dict[str, str] = {}
    """SHA-256 of each Parquet file by its name; none in datasets of version 0.1."""


class ShownItems(NamedTuple):
    """Items that were shown before events and not taken: those of event e are rows[offsets[e]:offsets[e + 1]]."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sessions:
    """Sessions in one flat array: session s is rows[offsets[s]:offsets[s + 1]], oldest event first."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    is_target: NDArray[np.bool_]
    users: NDArray[np.int64]
    """The user row of each session; 0 if the user is unknown to training."""
    weights: NDArray[np.float32] | None = None
    """The weight of each event; None if the log has none."""
    shown: ShownItems | None = None
    """None if the log has no impressions."""
    file: Path | None = None
    """The file that holds the ids of items and sessions."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def item_ids(self) -> list[str]:
        """The item id of every event, also of unknown items; empty if the sessions have no file."""
        return self._column("item_id")

    @cached_property
    def session_ids(self) -> list[str]:
        """The id of every session."""
        ids = self._column("session_id")
        return [ids[start] for start in self.offsets[:-1]]

    @property
    def last_event(self) -> datetime | None:
        """The time of the last event; None if it is unknown."""
        if self.file is None:
            return None
        last_ms = pl.scan_parquet(self.file).select(pl.col("timestamp_ms").max()).collect().item()
        return None if last_ms is None else datetime.fromtimestamp(last_ms / 1000, UTC)

    def _column(self, name: str) -> list[str]:
        return [] if self.file is None else pl.read_parquet(self.file, columns=[name])[name].to_list()


class Dataset:
    """A folder that `prepare` wrote."""

    def __init__(self, folder: Path, info: DatasetInfo) -> None:
        self.folder = folder
        self.info = info
        self._checked: set[str] = set()

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open the dataset in `folder`. Raises InputError if it is not a dataset of a supported format version.

        One of version 0.1 is read, with a warning, once in a process, that its files cannot be checked.
        """
        try:
            text = (folder / INFO_FILE).read_bytes()
        except OSError as error:
            raise InputError(f"{folder}: not a dataset, {INFO_FILE} cannot be read; make one with prepare") from error
        try:
            info = DatasetInfo.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(map(str, fault["loc"])) or "content"
            reason = f"{field}: {message_of(fault)}"
            raise InputError(f"{folder / INFO_FILE}: {reason}; prepare the dataset again") from error
        if not info.digests:
            _warn_unchecked(folder.resolve())
        return cls(folder, info)

    @property
    def source(self) -> str:
        """Where the dataset is: the address that this folder is a copy of, or else the folder itself."""
        file = self.folder / SOURCE_FILE
        return file.read_text(encoding="utf-8") if file.exists() else str(self.folder.resolve())

    @property
    def name(self) -> str:
        """The last part of `source`."""
        return self.source.rpartition("/")[2]

    def sessions(self, part: PartName) -> Sessions:
        """Return the sessions of one part, in order of time; none if the part is absent."""
        file = self.folder / f"{part}.parquet"
        if part not in self.info.parts:
            return Sessions(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.bool_), np.empty(0, np.int64))
        events = self._read(file, ["row", "position", "is_target"], optional="weight")
        starts = np.flatnonzero(events["position"].to_numpy() == 0)
        return Sessions(
            rows=events["row"].to_numpy().astype(np.int64),
            offsets=np.append(starts, len(events)).astype(np.int64),
            is_target=events["is_target"].to_numpy().astype(np.bool_),
            users=self._user_rows(file, len(starts)),
            weights=events["weight"].fill_null(1).to_numpy().astype(np.float32) if "weight" in events else None,
            shown=self._shown_items(part, len(events)),
            file=file,
        )

    def _shown_items(self, part: PartName, events: int) -> ShownItems | None:
        file = shown_file(self.folder, part)
        if not file.exists():
            return None
        shown = self._read(file, ["event", "row"])
        counts = np.bincount(shown["event"].to_numpy(), minlength=events)
        return ShownItems(shown["row"].to_numpy().astype(np.int64), np.concatenate([[0], np.cumsum(counts)]))

    def training_and_validation(self) -> list[Sessions]:
        """Return training and validation with nothing held out: every event but a session's first is a target.

        Each event occurs once: in a leave-one-out split the sessions of validation include those of training.
        """
        train, validation = self.sessions("train"), self.sessions("validation")
        parts = [validation] if self.info.options.split is SplitKind.LEAVE_ONE_OUT and len(validation) else [train]
        parts += [validation] if len(validation) and parts[0] is train else []
        return [replace(part, is_target=_all_but_first(part.offsets)) for part in parts]

    def users(self) -> list[str]:
        """Return the ids of training users (index i is row i + 1); none if sessions are not whole user histories."""
        if not self.info.options.split.takes_histories:
            return []
        return self._session_ids(self.folder / "train.parquet").to_list()

    def _user_rows(self, file: Path, sessions: int) -> NDArray[np.int64]:
        users = self.users()
        if not users:
            return np.zeros(sessions, np.int64)
        known = pl.DataFrame({"session_id": users, "user": np.arange(1, len(users) + 1)})
        sessions_users = (
            self._session_ids(file).to_frame().join(known, on="session_id", how="left", maintain_order="left")
        )
        return sessions_users["user"].fill_null(0).to_numpy().astype(np.int64)

    def _session_ids(self, file: Path) -> pl.Series:
        events = self._read(file, ["session_id", "position"])
        return events.filter(pl.col("position") == 0)["session_id"]

    def item_ids(self) -> list[str]:
        """Return the ids of all items; index i is row i + 1."""
        return self._items(["item_id"])["item_id"].to_list()

    def popularity(self) -> NDArray[np.int64]:
        """Return the number of events in training and validation by item row, (N + 1,); 0 for row 0."""
        counts = self._items(["popularity"])["popularity"].to_numpy().astype(np.int64)
        return np.concatenate([np.zeros(1, np.int64), counts])

    def attributes(self) -> pl.DataFrame:
        """Return item_id and the attribute columns of every item, in order of rows."""
        return self._items(None).drop("row", "popularity")

    def new_items(self) -> pl.DataFrame:
        """Return item_id and the attributes of products that no training event has; none if no catalog was given."""
        if not (self.folder / NEW_ITEMS_FILE).exists():
            return pl.DataFrame(schema={"item_id": pl.String})
        return self._read(self.folder / NEW_ITEMS_FILE, None)

    def _items(self, columns: list[str] | None) -> pl.DataFrame:
        return self._read(self.folder / ITEMS_FILE, columns)

    def _read(self, file: Path, columns: list[str] | None, optional: str | None = None) -> pl.DataFrame:
        """Read columns of a file, or all of them; the `optional` one if the file has it."""
        try:
            self._check(file)
            if columns is not None and optional in pl.read_parquet_schema(file):
                columns = [*columns, optional]
            return pl.read_parquet(file, columns=columns)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{file}: cannot be read; prepare the dataset again") from error

    def _check(self, file: Path) -> None:
        """Raise InputError unless the file has the content that `prepare` wrote; it is read for that once."""
        if file.name in self._checked or file.name not in self.info.digests:
            return
        if digest(file) != self.info.digests[file.name]:
            raise InputError(f"{file}: has changed since `prepare` wrote it; prepare the dataset again")
        self._checked.add(file.name)


def shown_file(folder: Path, part: PartName) -> Path:
    """Return the file of items that were shown before the events of a part."""
    return folder / f"{part}_shown.parquet"


@cache
def _warn_unchecked(folder: Path) -> None:
    _log.warning(
        "warning: %s: its files cannot be checked for changes, since version 0.1, which prepared it, wrote no digests; "
        "prepare the dataset again for that",
        folder,
    )


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, at a gigabyte a second or so."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _all_but_first(offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    is_target = np.ones(offsets[-1], dtype=np.bool_)
    is_target[offsets[:-1]] = False
    return is_target


class _Digest:
    """A write-only file that keeps nothing but the SHA-256 of its content."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing: no content is buffered."""


def fingerprinted_files(folder: Path, parts: Iterable[PartName]) -> list[Path]:
    """Return the files of a dataset whose rows its fingerprint covers."""
    shown = [shown_file(folder, part) for part in SHOWN_PARTS]
    files = [folder / ITEMS_FILE, *(folder / f"{part}.parquet" for part in parts)]
    return [*files, *(file for file in shown if file.exists())]


def fingerprint(files: Sequence[Path]) -> str:
    """Return the SHA-256 of the names and rows of Parquet files; their bytes would vary with the library's version."""
    digest = _Digest()
    for file in files:
        digest.write(f"{file.name}\n".encode())
        pl.scan_parquet(file).sink_ndjson(cast(IO[bytes], digest))
    return digest.sha256.hexdigest()
