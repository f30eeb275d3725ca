"""Served answers, kept for a while: to explain them, to make next pages, and to attribute events to them."""

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import timedelta
from itertools import takewhile
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import BeforeValidator
from pydantic_core import to_json

from onward.bundle import RetrievedItems
from onward.bundle.search.retrieval import whole_columns
from onward.service.records.outage_log import OutageLog
from onward.service.sessions import session_digest

MAX_WAITING = 4_096
OWNER_DIGITS = 32
NONCE_DIGITS = 16
FLUSH_INTERVAL = timedelta(milliseconds=20)
MAX_READ_WAIT_S = 0.15
"""How long a reader waits for an answer that another worker may not have written yet."""

_ANSWER_ID = re.compile(rf"[0-9a-f]{{{OWNER_DIGITS + NONCE_DIGITS}}}")


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

    def json(self) -> bytes:
        """Serialize the answer without default values; collecting plain values is faster than pydantic's own way."""
        values = {"id": self.id, "made_ms": self.made_ms, "bundle": self.bundle, "items": self.items.columns()}
        for name in _OPTIONAL:
            if value := getattr(self, name):
                values[name] = value
        return to_json(values)


_OPTIONAL = tuple(
    column.name for column in fields(Answer) if column.default != MISSING or column.default_factory != MISSING
)


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


def new_answer_ids(session_ids: Sequence[str | None]) -> list[str]:
    """Return an id for each session: its digest, or a random one for None, and a nonce."""
    nonces = secrets.token_hex(len(session_ids) * NONCE_DIGITS // 2)
    return [
        (secrets.token_hex(OWNER_DIGITS // 2) if session_id is None else session_digest(session_id))
        + nonces[number * NONCE_DIGITS : (number + 1) * NONCE_DIGITS]
        for number, session_id in enumerate(session_ids)
    ]


def new_page_id(answer_id: str) -> str:
    """Return a new id for a next page of an answer."""
    return owner_of(answer_id) + secrets.token_hex(NONCE_DIGITS // 2)


def shown_by(pages: Iterable[Answer]) -> tuple[str, ...]:
    """Return the items of pages, in order."""
    return tuple(item_id for page in pages for item_id in page.items.item_ids)


def owner_of(answer_id: str) -> str:
    """Return the part of an answer's id that all answers of its session share."""
    return answer_id[:OWNER_DIGITS]


def nonce_of(answer_id: str) -> str:
    """Return the part of an answer's id that is unique among the answers of its session."""
    return answer_id[OWNER_DIGITS:]


PreparedWrite = Any
"""An answer in the form that a store writes, which is private to the store."""


class AnswerStore(Protocol):
    """Keeps the last answers of each session for their time to live, and forgets them with the session."""

    def prepare_write(self, answer: Answer, *, reserved: bool) -> PreparedWrite:
        """Prepare an answer for `write`, so that the answer itself need not be kept in memory until then.

        `reserved`: the append to its session has reserved a place for it. If the place is gone by the time of `write`,
        because the session was deleted, the answer is dropped.
        """
        ...

    async def write(self, answers: Sequence[PreparedWrite]) -> None:
        """Store prepared answers. Raises SessionStoreUnavailable, or RecordsRefused if only some were refused."""
        ...

    async def pages(self, answer_id: str) -> list[Answer] | None:
        """Return all pages of an answer in order, given the id of any of them.

        An empty list means that there are none and never will be; None means that the answer may still be written.
        Raises SessionStoreUnavailable.
        """
        ...

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """Add the next page of an answer and return whether it was added.

        It is not if the answer is gone, or if another caller has added a page to the `expected_pages` (optimistic
        concurrency). Raises SessionStoreUnavailable.
        """
        ...

    async def attribute(self, claims: Sequence[AttributionClaim]) -> list[AnswerOrigin | None]:
        """Return the origin of the answer of each claim; None if the answer lacks the item, or for a repeated claim.

        Raises SessionStoreUnavailable.
        """
        ...

    async def forget(self, owner: str) -> None:
        """Delete the answers of a session. Raises SessionStoreUnavailable."""
        ...


class AnswerLog:
    """Writes the answers of this process to a store, in batches every few milliseconds, after they were sent.

    At most `MAX_WAITING` answers wait; beyond that the oldest are dropped. Dropped answers are counted, and so are
    those of a write that failed.
    """

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._waiting: OrderedDict[str, PreparedWrite] = OrderedDict()
        self._outages = OutageLog("answers")
        self._flushing = asyncio.Lock()

    def add(self, answer: Answer, *, reserved: bool) -> None:
        """Queue an answer for the next flush; `reserved`: see `AnswerStore.prepare_write`."""
        self._waiting[answer.id] = self._store.prepare_write(answer, reserved=reserved)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self._outages.count_lost(1)

    async def flush(self) -> None:
        """Write the queued answers; waits for a flush in progress."""
        async with self._flushing:
            if not self._waiting:
                return
            answers, self._waiting = self._waiting, OrderedDict()
            with self._outages.writing(len(answers)):
                await self._store.write(list(answers.values()))

    async def get(self, answer_id: str) -> Answer | None:
        """Return an answer, None if it has expired or never existed. Raises SessionStoreUnavailable."""
        pages = await self.pages(answer_id)
        before = list(takewhile(lambda page: page.id != answer_id, pages))
        return replace(pages[len(before)], shown_before=shown_by(before)) if len(before) < len(pages) else None

    async def pages(self, answer_id: str) -> list[Answer]:
        """Return all pages of an answer in order, given the id of any of them; an empty list if there are none.

        Waits for a moment for an answer that may not have been written yet. Raises SessionStoreUnavailable.
        """
        if _ANSWER_ID.fullmatch(answer_id) is None:
            return []
        deadline_s = time.monotonic() + MAX_READ_WAIT_S
        while (pages := await self._store.pages(answer_id)) is None:
            if time.monotonic() > deadline_s:
                return []
            await asyncio.sleep(FLUSH_INTERVAL.total_seconds())
        return pages

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """See `AnswerStore`. Of several callers that make the same page one succeeds; the others retry from `pages`."""
        return await self._store.claim_next(root_id, expected_pages, answer)

    async def attribute(self, claims: Sequence[AttributionClaim]) -> list[AnswerOrigin | None]:
        """See `AnswerStore`. A claim with a malformed answer id has no origin."""
        valid = [claim for claim in dict.fromkeys(claims) if _ANSWER_ID.fullmatch(claim.answer_id)]
        origins = dict(zip(valid, await self._store.attribute(valid), strict=True)) if valid else {}
        return [origins.pop(claim, None) for claim in claims]

    async def forget(self, session_id: str) -> None:
        """Delete the answers of a session, queued ones included. Raises SessionStoreUnavailable."""
        owner = session_digest(session_id)
        for answer_id in [answer_id for answer_id in self._waiting if owner_of(answer_id) == owner]:
            del self._waiting[answer_id]
        await self._store.forget(owner)
