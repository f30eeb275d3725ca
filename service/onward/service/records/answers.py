"""Served answers, kept for a while: to explain them, to make next pages, and to attribute events to them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from onward.bundle import RetrievedItems
from onward.bundle.search.retrieval import whole_columns

MAX_ANSWERS = 100
"""Answers of one session that are kept, the latest ones, each with all its pages."""
MAX_PAGES = 100
"""Largest number of pages of one answer, the first one included."""
MAX_CLAIMS = 1_000
"""Events that are attributed to one answer and its pages."""
OWNER_DIGITS = 32
NONCE_DIGITS = 16
PAGE_DIGITS = 2


@dataclass(slots=True)
class Answer:
    """The recommended items and all inputs that determined them, including the session's state but not its id.

    Treat it as immutable. The dataclass is not frozen because that would slow down its creation for every request.
    """

    id: str
    made_ms: int
    bundle: str
    """The bundle's digest."""
    items: Annotated[RetrievedItems, BeforeValidator(whole_columns)]
    session_items: tuple[str, ...] = ()
    """The input of the encoder, oldest first."""
    purchased: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    user_id: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options that differ from their defaults, as a request writes them."""
    changes_version: int = 0
    """The version of the live catalog."""
    scenario: str | None = None
    scenario_version: int | None = None
    variant: str | None = None
    root_id: str | None = None
    """Set on a next page: the id of the answer that is the first page."""
    shown_before: tuple[str, ...] = ()
    """Set on a next page that is read by itself: the items of the pages before it."""


class AttributionClaim(NamedTuple):
    """An event that names the answer which led to it."""

    answer_id: str
    item_id: str
    type: str


class AnswerOrigin(NamedTuple):
    """How an answer was made, which is what online metrics group by; an absent part is empty."""

    scenario: str
    bundle: str
    variant: str

    @classmethod
    def of(cls, answer: Answer) -> "AnswerOrigin":
        """Return the origin of an answer."""
        return cls(answer.scenario or "", answer.bundle, answer.variant or "")


def page_id(answer_id: str, number: int) -> str:
    """Return the id of a page of an answer, given the id of any of them; the first page is number 0."""
    return f"{answer_id[:-PAGE_DIGITS]}{number:02x}"


def page_number_of(answer_id: str) -> int:
    """Return the number of a page, from 0."""
    return int(answer_id[-PAGE_DIGITS:], 16)


def shown_by(pages: Iterable[Answer]) -> tuple[str, ...]:
    """Return the items of pages, in order."""
    return tuple(item_id for page in pages for item_id in page.items.item_ids)


def owner_of(answer_id: str) -> str:
    """Return the part of an answer's id that stands for its session; `AnswerIds` masks it in ids of today's form."""
    return answer_id[:OWNER_DIGITS]


def nonce_of(answer_id: str) -> bytes:
    """Return the part of an answer's id that is unique among the answers of its session."""
    return bytes.fromhex(answer_id[OWNER_DIGITS : OWNER_DIGITS + NONCE_DIGITS])
