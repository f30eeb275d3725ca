"""The options of a preparation, which `dataset.json` records."""

from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.dialect import Dialect
from onward.training.data.readers.formats import Format
from onward.training.errors import InputError

Targets: TypeAlias = Literal["each", "together"]
DEFAULT_GAP_MS = 30 * 60 * 1000
SMALL_LOG, LARGE_LOG = 100_000, 500_000
"""Numbers of events."""


class SplitKind(StrEnum):
    """How events are split into training, validation and test."""

    TEMPORAL = "temporal"
    LEAVE_ONE_OUT = "leave-one-out"
    BY_USER = "by-user"
    GIVEN = "given"

    @property
    def takes_histories(self) -> bool:
        """Whether a session is the whole history of one user."""
        return self in (SplitKind.LEAVE_ONE_OUT, SplitKind.BY_USER)

    @property
    def min_support(self) -> int | None:
        """The fewest events of an item, as in the papers that use this split; None: by the size of the log."""
        return {SplitKind.TEMPORAL: None, SplitKind.BY_USER: 5}.get(self, 1)

    @property
    def min_length(self) -> int | None:
        """The fewest events of a session, as in the papers that use this split; None: by the size of the log."""
        return {SplitKind.TEMPORAL: None, SplitKind.LEAVE_ONE_OUT: 3, SplitKind.BY_USER: 5}.get(self, 1)

    @property
    def validation(self) -> float | None:
        """The share of the training sessions that is held out; None: by the size of the log."""
        return None if self is SplitKind.TEMPORAL else 0.1

    @property
    def shortest(self) -> int:
        """The fewest events of a session that this split can divide."""
        return {SplitKind.LEAVE_ONE_OUT: 3, SplitKind.BY_USER: 2}.get(self, 1)

    @property
    def needs_time(self) -> bool:
        """Whether this split needs the times of events."""
        return self is SplitKind.TEMPORAL

    @property
    def targets(self) -> Targets:
        """Whether each target of a held-out session is an example, or all of them together are one example."""
        return "together" if self is SplitKind.BY_USER else "each"


class Limits(NamedTuple):
    """The options that by default follow the number of events.

    A small log has few events to spare: items of one event stay in the catalog, and so do those of sessions of one
    event; and it has so few sessions that a tenth of them would hardly tell one encoder from another. A large log keeps
    what the papers keep.
    """

    min_support: int
    min_length: int
    validation: float
    test_share: float

    @classmethod
    def of(cls, events: int) -> "Limits":
        """Return the defaults for a log of so many events."""
        if events < SMALL_LOG:
            return cls(min_support=1, min_length=1, validation=0.2, test_share=0.2)
        if events < LARGE_LOG:
            return cls(min_support=2, min_length=1, validation=0.1, test_share=0.1)
        return cls(min_support=5, min_length=2, validation=0.1, test_share=0.1)


class Preparation(BaseModel):
    """All options that determine the rows of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: SplitKind
    columns: ColumnNames = ColumnNames()
    format: Format | None = Field(default=None, description="None: by each file's extension.")
    items_format: Format | None = Field(default=None, description="Format of the items file; None: by extension.")
    items_column: str | None = Field(default=None, description="Item id column of the items file; None: guessed.")
    items_numbers: tuple[str, ...] = Field(default=(), description="Attributes to read as numbers, such as prices.")
    dialect: Dialect = Dialect()
    item_separator: str | None = Field(default=None, description="What separates items in one cell; None: one item.")
    weights: dict[str, float] | None = Field(
        default=None, description="Weights of types of events, in lower case; others are left out. None: all count."
    )
    gap_ms: int | None = Field(default=None, gt=0, description="Idle time that ends a session; None: by session id.")
    min_support: int | None = Field(
        default=None, ge=1, description="Items with fewer events are dropped; None: by the size of the log."
    )
    min_length: int | None = Field(
        default=None, ge=1, description="Sessions with fewer events are dropped; None: by the size of the log."
    )
    test_days: float | None = Field(default=None, gt=0, description="Temporal split: days of test; None: by share.")
    test_share: float | None = Field(
        default=None, gt=0, lt=1, description="Temporal split: share of the time axis; None: by the size of the log."
    )
    validation: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Most recent share of the training sessions; None: by the log's size.",
    )
    seed: int = Field(default=0, ge=0, description="Shuffles the users of the split by user.")

    def limits(self, events: int) -> Limits:
        """Return the limits that were given, and the defaults for so many events in place of the others."""
        given = {name: getattr(self, name) for name in Limits._fields}
        return Limits.of(events)._replace(**{name: value for name, value in given.items() if value is not None})

    def check_consistency(self, *, has_test: bool) -> None:
        """Raise InputError if options contradict each other."""
        if has_test and self.split is not SplitKind.GIVEN:
            raise InputError(f"--split {self.split} makes a test part of its own; leave out --test or --split")
        if self.test_days is not None and self.split is not SplitKind.TEMPORAL:
            raise InputError(f"--test-days belongs to --split temporal, not to {self.split}")
        if self.gap_ms is not None and self.split.takes_histories:
            raise InputError(f"--split {self.split} takes a user's whole history; leave out --gap")
        if self.min_length is not None and self.min_length < self.split.shortest:
            raise InputError(
                f"--min-length {self.min_length}: --split {self.split} needs at least {self.split.shortest}"
            )
