"""What a bundle answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from types import MappingProxyType
from typing import Literal, NamedTuple, Self, overload

from onward.bundle.search.index import Strategy

Source = Literal["encoder", "popular", "similar", "pinned"]
User = Literal["known", "unknown"]
Rule = Literal["unknown_item", "deleted", "unavailable", "filtered", "excluded"]
"""What keeps an item from an answer: of these the first that does."""


class Moved(NamedTuple):
    """What an item's place is owed to besides its score."""

    score: float
    """Without boosts."""
    added: float
    """The sum of ln(factor) over the boosts that it got."""
    place: int | None
    """From 1, in the order of boosted scores without pinned items; None for a pinned item, which is not among them."""


class RetrievedItem(NamedTuple):
    """An item of an answer: its score, what brought it, and for an encoder's item the number of the interest."""

    item_id: str
    score: float
    source: Source
    interest: int | None = None
    moved: Moved | None = None
    """Where boosts, diversity or pins were asked for."""


@dataclass(slots=True)
class RetrievedItems(Sequence[RetrievedItem]):
    """Items of an answer by column, so that it is made, kept and written as a few objects, not as many.

    Nobody changes one; that Python would see to it is left out, since one is made for every answer.
    """

    item_ids: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    sources: tuple[Source, ...] = ()
    interests: tuple[int | None, ...] = ()
    moved: tuple[Moved | None, ...] = ()
    """Empty where nothing was asked for that moves items."""

    @classmethod
    def of(cls, items: Iterable[RetrievedItem]) -> Self:
        """Take items one by one."""
        return cls(*zip(*items, strict=True))

    def columns(self) -> dict[str, object]:
        """Return them by name; a value that is the same of all items stands once for all of them."""
        columns: dict[str, object] = {
            "item_ids": self.item_ids,
            "scores": self.scores,
            "sources": _once(self.sources),
            "interests": _once(self.interests),
        }
        return columns | {"moved": self.moved} if self.moved else columns

    def __len__(self) -> int:
        return len(self.item_ids)

    def __iter__(self) -> Iterator[RetrievedItem]:
        moved = self.moved or repeat(None)
        return map(RetrievedItem, self.item_ids, self.scores, self.sources, self.interests, moved)

    @overload
    def __getitem__(self, place: int) -> RetrievedItem: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[RetrievedItem]: ...
    def __getitem__(self, place: int | slice) -> RetrievedItem | Sequence[RetrievedItem]:
        return tuple(self)[place]


def _once(column: tuple[object, ...]) -> object:
    return column[0] if column and column.count(column[0]) == len(column) else column


def whole_columns(columns: object) -> object:
    """Make of what `RetrievedItems.columns` gave, once it was read again, columns with a value for each item."""
    if not isinstance(columns, dict) or not isinstance(item_ids := columns.get("item_ids"), list):
        return columns  # of anyone's making
    return {name: column if isinstance(column, list) else [column] * len(item_ids) for name, column in columns.items()}


NOTHING_REFUSED: Mapping[str, Rule] = MappingProxyType({})


class Retrieval(NamedTuple):
    """Items, best first, and what of the request the bundle does not know."""

    items: RetrievedItems
    unknown_item_ids: tuple[str, ...] = ()
    user: User | None = None
    """Whether the encoder knows the user; None where none was named or the encoder takes sessions alone."""
    eligible: int = 0
    """How many items might have been shown: available, let through by the filter, and not excluded."""
    strategy: Strategy | None = None
    """How they were searched; None where no vectors were compared."""
    not_pinned: Mapping[str, Rule] = NOTHING_REFUSED
    """Items that were to be pinned but must not be shown."""
