"""Recommendation: what a caller asks, and what the answer to it is."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from onward.bundle import Bundle, Retrieval
from onward.service.recommend.options import RecommendationOptions
from onward.service.records.answers import Answer

Missing = Literal["session_store"]
DEFAULT_OPTIONS = RecommendationOptions()


class Query(NamedTuple):
    """What a caller asks."""

    session_id: str | None = None
    items: Sequence[str] = ()
    """What the visitor just saw, oldest first."""
    user_id: str | None = None
    exclude: Sequence[str] = ()
    options: RecommendationOptions = DEFAULT_OPTIONS
    scenario: str | None = None
    """The name of options that count where the caller's own do not say otherwise."""
    position: str | None = None
    """How far the session must have come."""
    kept: bool = True
    """Whether anything is stored."""
    place: tuple[str | int, ...] = ("body",)
    """Where it stands in the request, for what is wrong with it."""


class Recommendation(NamedTuple):
    """An answer, the bundle that gave it, what it had to go without, and the seconds that its two stages took."""

    answer: Answer
    session_id: str | None
    bundle: Bundle
    retrieval: Retrieval
    position: str | None
    degraded: tuple[Missing, ...]
    store_s: float
    retrieval_s: float
