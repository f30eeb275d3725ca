"""What a caller asks of an answer, and what the session it answers has seen."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from onward.bundle.catalog.filters import Filter

ExcludeSeen = bool | Literal["purchased"]

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
    """What to show and how. Raises ValueError where it contradicts itself."""

    k: int = 20
    """The number of items wanted; fewer come only where fewer are eligible."""
    exclude: Collection[str] = ()
    """Ids not to show."""
    exclude_seen: ExcludeSeen | None = None
    """Leave out what the session has seen, or what it purchased; None means the bundle's default."""
    filter: Filter | None = None
    """What every shown item passes."""
    diversity: float = 0
    """0..1: how much it counts that shown items differ, beside their scores in the unit range."""
    diversity_by: str | None = None
    """The attribute in which they are to differ; None means `category`, or the vectors where no item has that."""
    boosts: tuple[Boost, ...] = ()
    pins: tuple[Pin, ...] = ()
    """Of different items at different positions 1..k."""
    exact: bool = False
    """Compare with every vector instead of asking the index."""

    def __post_init__(self) -> None:
        if len(self.boosts) > MAX_BOOSTS:
            raise ValueError(f"at most {MAX_BOOSTS} boosts")
        if self.pins:
            self._check_pins()

    @property
    def reranks(self) -> bool:
        """Whether the order is not that of the scores alone."""
        return bool(self.boosts or self.pins or self.diversity)

    @property
    def searches_alone(self) -> bool:
        """Whether the index is asked for no more than the best k."""
        return not (self.reranks or self.exact)

    def _check_pins(self) -> None:
        if any(not 1 <= pin.position <= self.k for pin in self.pins):
            raise ValueError("a pin's position is 1..k")
        items, positions = {pin.item_id for pin in self.pins}, {pin.position for pin in self.pins}
        if min(len(items), len(positions)) < len(self.pins):
            raise ValueError("pins are of different items at different positions")


class SessionView(NamedTuple):
    """A session: what the encoder reads of it, and what counts besides."""

    item_ids: Sequence[str] = ()
    """Oldest first."""
    purchased: Collection[str] = ()
    hidden: Collection[str] = ()
    """Never to be shown to it, such as disliked items."""


class RetrievalQuery(NamedTuple):
    """A session, what its answer is to be like, and whose session it is."""

    seen: SessionView
    options: Options = Options()
    user_id: str | None = None
