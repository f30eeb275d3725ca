"""Answers that were served: kept a while, for their explanation, their next pages and the events that they led to."""

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
LONGEST_WAIT_S = 0.15
"""Of a reader, for an answer that another worker may be about to write."""

_ANSWER_ID = re.compile(rf"[0-9a-f]{{{OWNER_DIGITS + NONCE_DIGITS}}}")


@dataclass(slots=True)
class Answer:
    """What was shown, and all that decided it. Of a session it holds what was known of it, but not its id.

    Nobody changes one; that Python would see to it is left out, since one is made for every request.
    """

    id: str
    made_ms: int
    bundle: str
    """The bundle's digest."""
    items: Annotated[RetrievedItems, BeforeValidator(whole_columns)]
    session_items: tuple[str, ...] = ()
    """What the encoder was given, oldest first."""
    purchased: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    user_id: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those that differ from their defaults, as a request writes them."""
    changes_version: int = 0
    """That of the live catalog."""
    scenario: str | None = None
    scenario_version: int | None = None
    variant: str | None = None
    root_id: str | None = None
    """Of a next page: the answer that is the first page."""
    shown_before: tuple[str, ...] = ()
    """Of a next page, where it is asked for by itself: what the pages before it showed."""

    def json(self) -> bytes:
        """Write it, without what is as by default; of plain values that takes less time than of the class."""
        written = {"id": self.id, "made_ms": self.made_ms, "bundle": self.bundle, "items": self.items.columns()}
        for name in _OPTIONAL:
            if value := getattr(self, name):
                written[name] = value
        return to_json(written)


_OPTIONAL = tuple(each.name for each in fields(Answer) if each.default != MISSING or each.default_factory != MISSING)


class Claim(NamedTuple):
    """An event that says which answer led to it."""

    answer_id: str
    item_id: str
    type: str


class Origin(NamedTuple):
    """What kind of answer led to an event; what the answer went without is empty."""

    scenario: str
    bundle: str
    variant: str

    @classmethod
    def of(cls, answer: Answer) -> "Origin":
        """Tell an answer's kind."""
        return cls(answer.scenario or "", answer.bundle, answer.variant or "")


def new_answer_ids(session_ids: Sequence[str | None]) -> list[str]:
    """Make an id for each: the digest of the session, without one a random one, and a nonce."""
    nonces = secrets.token_hex(len(session_ids) * NONCE_DIGITS // 2)
    return [
        (secrets.token_hex(OWNER_DIGITS // 2) if session_id is None else session_digest(session_id))
        + nonces[number * NONCE_DIGITS : (number + 1) * NONCE_DIGITS]
        for number, session_id in enumerate(session_ids)
    ]


def new_page_id(answer_id: str) -> str:
    """Make the id of another page of an answer."""
    return owner_of(answer_id) + secrets.token_hex(NONCE_DIGITS // 2)


def shown_by(pages: Iterable[Answer]) -> tuple[str, ...]:
    """Return the items that some pages show, in their order."""
    return tuple(item_id for page in pages for item_id in page.items.item_ids)


def owner_of(answer_id: str) -> str:
    """Return the part of an id that all answers of a session share."""
    return answer_id[:OWNER_DIGITS]


def nonce_of(answer_id: str) -> str:
    """Return the part of an id that tells the answers of a session apart."""
    return answer_id[OWNER_DIGITS:]


Packed = Any
"""What a store of answers makes of one; only the store itself looks into it."""


class AnswerStore(Protocol):
    """Keeps the last answers of each session for their time to live, and forgets them with the session."""

    def packed(self, answer: Answer, *, reserved: bool) -> Packed:
        """Make ready for `write` what is to be kept of an answer, while it is at hand.

        `reserved`: its session was to reserve its place; where it has none then, it is dropped.
        """
        ...

    async def write(self, answers: Sequence[Packed]) -> None:
        """Keep packed answers. Raises SessionStoreUnavailable."""
        ...

    async def pages(self, answer_id: str) -> list[Answer] | None:
        """Return all pages of the answer of which the id names one, the first page first.

        An empty list means that there is none and will be none, None that one may still be written.
        Raises SessionStoreUnavailable.
        """
        ...

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """Keep another page of an answer, unless the answer is gone or has more than `expected_pages` by now.

        Raises SessionStoreUnavailable.
        """
        ...

    async def attribute(self, claims: Sequence[Claim]) -> list[Origin | None]:
        """Return where the item of each claim was shown; None where it was not, or the same claim was made before.

        Raises SessionStoreUnavailable.
        """
        ...

    async def forget(self, owner: str) -> None:
        """Drop the answers of a session. Raises SessionStoreUnavailable."""
        ...


class AnswerLog:
    """The answers that this process served, written together every few milliseconds, after they were sent.

    At most `MAX_WAITING` wait; of more the oldest are lost, and counted. So are those that the store does not take.
    """

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._waiting: OrderedDict[str, Packed] = OrderedDict()
        self._outages = OutageLog("answers")
        self._flushing = asyncio.Lock()

    def add(self, answer: Answer, *, reserved: bool) -> None:
        """Have an answer written soon; `reserved` where the call to its session's store was to make a place for it."""
        self._waiting[answer.id] = self._store.packed(answer, reserved=reserved)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self._outages.lost(1)

    async def flush(self) -> None:
        """Write what waits, and wait for what is being written."""
        async with self._flushing:
            if not self._waiting:
                return
            answers, self._waiting = self._waiting, OrderedDict()
            with self._outages.noted(len(answers)):
                await self._store.write(list(answers.values()))

    async def get(self, answer_id: str) -> Answer | None:
        """Return an answer, None where it is kept no longer or never was. Raises SessionStoreUnavailable."""
        pages = await self.pages(answer_id)
        before = list(takewhile(lambda page: page.id != answer_id, pages))
        return replace(pages[len(before)], shown_before=shown_by(before)) if len(before) < len(pages) else None

    async def pages(self, answer_id: str) -> list[Answer]:
        """Return all pages of the answer of which the id names one, the first page first; none where it is gone.

        Waits a little for an answer that may not have been written yet. Raises SessionStoreUnavailable.
        """
        if _ANSWER_ID.fullmatch(answer_id) is None:
            return []
        give_up_s = time.monotonic() + LONGEST_WAIT_S
        while (pages := await self._store.pages(answer_id)) is None:
            if time.monotonic() > give_up_s:
                return []
            await asyncio.sleep(FLUSH_INTERVAL.total_seconds())
        return pages

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """See AnswerStore: of several who make the same page, one keeps it. The others begin anew with `pages`."""
        return await self._store.claim_next(root_id, expected_pages, answer)

    async def attribute(self, claims: Sequence[Claim]) -> list[Origin | None]:
        """See AnswerStore. A claim that names no answer's id comes to nothing."""
        sound = [claim for claim in dict.fromkeys(claims) if _ANSWER_ID.fullmatch(claim.answer_id)]
        origins = dict(zip(sound, await self._store.attribute(sound), strict=True)) if sound else {}
        return [origins.pop(claim, None) for claim in claims]

    async def forget(self, session_id: str) -> None:
        """Drop the answers of a session, the ones that wait included. Raises SessionStoreUnavailable."""
        owner = session_digest(session_id)
        for answer_id in [waiting for waiting in self._waiting if owner_of(waiting) == owner]:
            del self._waiting[answer_id]
        await self._store.forget(owner)
