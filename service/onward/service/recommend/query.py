"""What a caller asks of the recommender, and the answer."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery, SessionView
from onward.service.recommend.batcher import Pending
from onward.service.recommend.options import RecommendationOptions
from onward.service.recommend.scenarios import Scenario
from onward.service.records.answers import Answer

Missing = Literal["session_store"]
DEFAULT_OPTIONS = RecommendationOptions()


class Query(NamedTuple):
    """What a caller asks."""

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
    location: tuple[str | int, ...] = ("body",)
    """Where the query stands in the request, for error messages."""


class Recommendation(NamedTuple):
    """An answer, the bundle that gave it, what was missing, and the seconds that its two stages took."""

    answer: Answer
    session_id: str | None
    bundle: Bundle
    retrieval: Retrieval
    position: str | None
    degraded: tuple[Missing, ...]
    store_s: float
    retrieval_s: float


class PendingQuery(Pending[Recommendation]):
    """A query on its way through the pipeline, with what each stage adds to it."""

    __slots__ = (
        "answer_id",
        "bundle",
        "degraded",
        "has_reserved_place",
        "options",
        "position",
        "query",
        "retrieval_options",
        "scenario",
        "session",
        "store_s",
    )

    def __init__(
        self,
        query: Query,
        options: RecommendationOptions,
        scenario: Scenario | None,
        retrieval_options: Options,
        bundle: Bundle,
    ) -> None:
        """Start with what the recommender resolved.

        Args:
            query: what the caller asks.
            options: those that apply: the caller's own, else the scenario's, else defaults.
            scenario: the scenario that the query names.
            retrieval_options: `options` in the form that the bundle takes.
            bundle: the live bundle when the query arrived; a bundle that goes live later does not change the answer.
        """
        super().__init__()
        self.query = query
        self.options = options
        self.scenario = scenario
        self.retrieval_options = retrieval_options
        self.bundle = bundle
        self.answer_id = ""
        self.session = SessionView()
        self.position: str | None = None
        self.degraded: tuple[Missing, ...] = ()
        self.has_reserved_place = False
        """Whether the session's list of answers holds a place for this answer."""
        self.store_s = 0.0

    @property
    def retrieval_query(self) -> RetrievalQuery:
        """What is asked of the bundle, once the session is known."""
        return RetrievalQuery(self.session, self.retrieval_options, self.query.user_id)
