"""The query that a caller gives to the pipeline, and the recommendation that it gets."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from onward.bundle import Bundle, Retrieval
from onward.service.recommend.options import RecommendationOptions
from onward.service.records.answers import Answer

Missing = Literal["session_store", "deadline"]
"""What an answer was made without: the session store, or the time for its session or its search."""
DEFAULT_OPTIONS = RecommendationOptions()


class Query(NamedTuple):
    """A request for recommendations, independent of HTTP."""

    session_id: str | None = None
    items: Sequence[str] = ()
    """The visitor's newest items, oldest first."""
    user_id: str | None = None
    exclude: Sequence[str] = ()
    options: RecommendationOptions = DEFAULT_OPTIONS
    scenario: str | None = None
    """Name of the scenario whose options apply where `options` does not set its own."""
    position: str | None = None
    """Position that the session must have reached."""
    store: bool = True
    """Whether the items and the answer are stored."""
    timeout_s: float | None = None
    """Seconds from the arrival of the request within which to answer; None means the deployment's."""
    age_s: float = 0.0
    """Seconds since the arrival of the request."""
    location: tuple[str | int, ...] = ("body",)
    """Where the query stands in the request, for error messages."""


class Recommendation(NamedTuple):
    """An answer, the bundle that gave it, the parts that were unavailable, and the seconds of its two stages."""

    answer: Answer
    session_id: str | None
    bundle: Bundle
    retrieval: Retrieval
    position: str | None
    degraded: tuple[Missing, ...]
    store_s: float
    retrieval_s: float
