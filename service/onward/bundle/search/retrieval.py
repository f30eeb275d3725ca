"""What a retrieval takes and what it returns: session, options and query; items and their scores."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from types import MappingProxyType
from typing import Literal, NamedTuple, Self, overload

from onward.bundle.catalog.filters import Filter
from onward.bundle.search.index import Strategy

ExcludeSeen = bool | Literal["purchased", "last"]
DefaultExcludeSeen = bool | Literal["last"]
"""What a bundle may leave out by default."""
Source = Literal["encoder", "popular", "similar", "pinned"]
User = Literal["known", "unknown"]
Rule = Literal["unknown_item", "deleted", "unavailable", "filtered", "excluded"]
"""Why an item must not be in an answer: the first of these that applies."""

MAX_BOOSTS = 10
LEAST_FACTOR, LARGEST_FACTOR = 0.01, 100


@dataclass(frozen=True, slots=True)
class Boost:
    """Rank the items that pass a filter as if the encoder found them `factor` times as likely, 0.01..100."""

    filter: Filter
    factor: float

    def __post_init__(self) -> None:
        if not LEAST_FACTOR <= self.factor <= LARGEST_FACTOR:
            raise ValueError(f"a boost's factor is {LEAST_FACTOR}..{LARGEST_FACTOR}")


@dataclass(frozen=True, slots=True)
class Pin:
    """Show an item at a position, from 1."""

    item_id: str
    position: int


@dataclass(frozen=True, slots=True)
class Options:
    """Which items to return and in which order. Raises ValueError if options contradict each other."""

    k: int = 20
    """Number of items to return; fewer only if fewer are eligible."""
    exclude: Collection[str] = ()
    """Item ids to leave out."""
    exclude_seen: ExcludeSeen | None = None
    """Leave out all items of the session, only the purchased ones, or only the last one; None: the bundle's default."""
    filter: Filter | None = None
    """Condition that every returned item passes."""
    diversity: float = 0
    """0..1: how much differences between the returned items count against their scores, which are scaled to 0..1."""
    diversity_by: str | None = None
    """Attribute in which items should differ; None means `category`, or the vectors if no item has that attribute."""
    boosts: tuple[Boost, ...] = ()
    pins: tuple[Pin, ...] = ()
    """Different items at different positions 1..k."""
    exact: bool = False
    """Compare with every vector instead of searching the index."""
    reranks: bool = field(init=False)
    """Whether anything but the scores decides the order: boosts, pins or diversity."""
    is_plain_search: bool = field(init=False)
    """Whether the k best items of one index search are the answer."""

    def __post_init__(self) -> None:
        if len(self.boosts) > MAX_BOOSTS:
            raise ValueError(f"at most {MAX_BOOSTS} boosts")
        if self.pins:
            self._check_pins()
        reranks = bool(self.boosts or self.pins or self.diversity)
        object.__setattr__(self, "reranks", reranks)
        object.__setattr__(self, "is_plain_search", not (reranks or self.exact))

    def _check_pins(self) -> None:
        if any(not 1 <= pin.position <= self.k for pin in self.pins):
            raise ValueError("a pin's position is 1..k")
        items, positions = {pin.item_id for pin in self.pins}, {pin.position for pin in self.pins}
        if min(len(items), len(positions)) < len(self.pins):
            raise ValueError("pins are of different items at different positions")


class SessionView(NamedTuple):
    """A session as retrieval sees it: the items to encode, and the items that exclusion rules refer to."""

    item_ids: Sequence[str] = ()
    """Oldest first."""
    purchased: Collection[str] = ()
    hidden: Collection[str] = ()
    """Items never to show in this session, such as disliked ones."""


class RetrievalQuery(NamedTuple):
    """A session, the options of its answer, and the user whose session it is."""

    session: SessionView
    options: Options = Options()
    user_id: str | None = None


class RankingDetails(NamedTuple):
    """How boosts, diversity and pins determined an item's rank."""

    base_score: float
    """The score without boosts."""
    log_boost: float
    """The sum of ln(factor) over the boosts that apply to the item."""
    rank: int | None
    """From 1, by boosted score, before diversity and pins; None for a pinned item."""


class RetrievedItem(NamedTuple):
    """An item of an answer: its score, its source, and the number of the interest if an encoder found it."""

    item_id: str
    score: float
    source: Source
    interest: int | None = None
    details: RankingDetails | None = None
    """Present if the options re-rank."""


@dataclass(slots=True)
class RetrievedItems(Sequence[RetrievedItem]):
    """The items of an answer, column by column, so that creating and storing it takes few objects.

    Treat it as immutable; `frozen` is left out because one is created for every answer.
    """

    item_ids: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    sources: tuple[Source, ...] = ()
    interests: tuple[int | None, ...] = ()
    details: tuple[RankingDetails | None, ...] = ()
    """Empty unless the options re-rank."""

    @classmethod
    def of(cls, items: Iterable[RetrievedItem]) -> Self:
        """Collect single items into columns."""
        return cls(*zip(*items, strict=True))

    def columns(self) -> dict[str, object]:
        """Return the columns for storage, by name; a value that all items share is stored once.

        The ranking details are stored under the name "moved".
        """
        columns: dict[str, object] = {
            "item_ids": self.item_ids,
            "scores": self.scores,
            "sources": _collapse(self.sources),
            "interests": _collapse(self.interests),
        }
        return columns | {"moved": self.details} if self.details else columns

    def __len__(self) -> int:
        return len(self.item_ids)

    def __iter__(self) -> Iterator[RetrievedItem]:
        details = self.details or repeat(None)
        return map(RetrievedItem, self.item_ids, self.scores, self.sources, self.interests, details)

    @overload
    def __getitem__(self, place: int) -> RetrievedItem: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[RetrievedItem]: ...
    def __getitem__(self, place: int | slice) -> RetrievedItem | Sequence[RetrievedItem]:
        return tuple(self)[place]


def _collapse(column: tuple[object, ...]) -> object:
    return column[0] if column and column.count(column[0]) == len(column) else column


def whole_columns(columns: object) -> object:
    """Undo `RetrievedItems.columns` on its parsed JSON: return a list for each field, with a value for each item.

    Anything else, such as `RetrievedItems` themselves, is returned as it is.
    """
    if not isinstance(columns, dict) or not isinstance(item_ids := columns.get("item_ids"), list):
        return columns
    return {
        "details" if name == "moved" else name: column if isinstance(column, list) else [column] * len(item_ids)
        for name, column in columns.items()
    }


NO_PINS_REFUSED: Mapping[str, Rule] = MappingProxyType({})


class Retrieval(NamedTuple):
    """An answer: items, best first, and the parts of the query that the bundle does not know."""

    items: RetrievedItems
    unknown_item_ids: tuple[str, ...] = ()
    user: User | None = None
    """Whether the encoder knows the user; None if the query names none or the encoder reads sessions alone."""
    eligible: int = 0
    """Number of items that could have been returned: available, passing the filter, and not excluded."""
    strategy: Strategy | None = None
    """How the vectors were searched; None if none were compared."""
    not_pinned: Mapping[str, Rule] = NO_PINS_REFUSED
    """Pinned items that must not be shown, with the rule that forbids it."""
