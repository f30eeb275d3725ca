"""AnswerLog: the served answers, written behind the requests and read by the id of any page."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import takewhile
from typing import NamedTuple, Protocol

from onward.service import telemetry
from onward.service.errors import SessionStoreUnavailable
from onward.service.live.bundle_ids import KnownBundle
from onward.service.records.answer_ids import AnswerIds
from onward.service.records.answer_lists import AnswerLists, is_listed_id, new_listed_page_id
from onward.service.records.answer_page import ItemRows, MalformedPage, read_pages, write_page
from onward.service.records.answer_stores import AnswerKey, AnswerStore, AnswerWrite, StoredPages
from onward.service.records.answers import (
    Answer,
    AnswerOrigin,
    AttributionClaim,
    nonce_of,
    page_id,
    page_number_of,
    shown_by,
)
from onward.service.records.outage_log import OutageLog
from onward.service.sessions import session_digest

MAX_WAITING = 4_096
FLUSH_INTERVAL = timedelta(milliseconds=20)
MAX_READ_WAIT_S = 0.15
"""How long a reader waits for an answer that another worker may not have written yet."""


class Bundles(Protocol):
    """Finds the bundles that gave answers."""

    async def find(self, digest: str) -> KnownBundle | None:
        """Return the bundle whose digest begins so, None if it is gone."""
        ...


class _AttributedItem(NamedTuple):
    """Where an answer shows the item of a claim."""

    key: AnswerKey
    claim: str
    origin: AnswerOrigin


class AnswerLog:
    """Keeps answers for their time to live, and writes those of this process in batches every few milliseconds.

    At most `MAX_WAITING` answers wait; beyond that the oldest are dropped. Dropped answers are counted, and so are
    those of a write that failed.
    """

    def __init__(
        self,
        store: AnswerStore,
        bundles: Bundles,
        ids: AnswerIds,
        *,
        ttl: timedelta,
        clock: Callable[[], float] = time.time,
        lists: AnswerLists | None = None,
    ) -> None:
        """Keep answers, which `ids` name, in a store; `lists` has those that version 0.1 made."""
        self._store = store
        self._bundles = bundles
        self._ids = ids
        self._ttl_ms = int(ttl / timedelta(milliseconds=1))
        self._clock = clock
        self._lists = lists
        self._waiting: OrderedDict[str, AnswerWrite] = OrderedDict()
        self._outages = OutageLog("answers")
        self._flushing = asyncio.Lock()

    def add(self, answer: Answer, catalog: ItemRows, *, session_id: str | None = None, generation: str) -> None:
        """Queue an answer for the next flush, as bytes, so that the answer need not be kept in memory until then.

        Args:
            answer: the first page of an answer.
            catalog: the catalog of the bundle that answered.
            session_id: its session, None if it has none.
            generation: that of the session's answers, from the append to the session; empty without a session.
        """
        if session_id is None:
            key = self._ids.own_key_of(answer.id)
        else:
            key = AnswerKey(session_digest(session_id), nonce_of(answer.id))
        self._waiting[answer.id] = AnswerWrite(key, generation, write_page(answer, catalog))
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self._outages.count_lost(1)

    @property
    def is_waiting(self) -> bool:
        """Whether answers are queued, or being written."""
        return bool(self._waiting) or self._flushing.locked()

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
        deadline_s = time.monotonic() + MAX_READ_WAIT_S
        while (pages := await self._read(answer_id)) is None:
            if time.monotonic() > deadline_s:
                return []
            await asyncio.sleep(FLUSH_INTERVAL.total_seconds())
        return pages

    async def of_session(self, owner: str, count: int) -> list[list[Answer]]:
        """Return the latest kept answers of the session of a digest, each with all its pages, the newest first.

        Answers whose bundle is gone are left out. Raises SessionStoreUnavailable.
        """
        answers = []
        for key, stored in await self._store.latest(owner, count):
            pages = await self._answers(self._ids.id_of(key, _made_ms(stored)), stored)
            if pages and self._is_unexpired(pages[0]):
                answers.append(pages)
        return answers

    def next_page_id(self, pages: Sequence[Answer]) -> str:
        """Return the id of the page after these, which are all pages of an answer."""
        root_id = pages[0].id
        return new_listed_page_id(root_id) if is_listed_id(root_id) else page_id(root_id, len(pages))

    async def claim_next(self, root_id: str, expected_pages: int, page: Answer, catalog: ItemRows) -> bool:
        """Add the next page of an answer and return whether it was added.

        It is not if the answer is gone, or if another caller has added a page to the `expected_pages` (optimistic
        concurrency): of several callers that make the same page one succeeds; the others retry from `pages`.
        Raises SessionStoreUnavailable.
        """
        if is_listed_id(root_id):
            return self._lists is not None and await self._lists.claim_next(root_id, expected_pages, page)
        key = await self._ids.key_of(root_id)
        return key is not None and await self._store.add_page(key, expected_pages, write_page(page, catalog))

    async def attribute(self, claims: Sequence[AttributionClaim]) -> list[AnswerOrigin | None]:
        """Return the origin of the answer of each claim; None if the answer lacks the item, or for a repeated claim.

        Takes two round trips to the store. A claim with a malformed answer id has no origin.
        Raises SessionStoreUnavailable.
        """
        distinct = dict.fromkeys(claims)
        keys = {claim: key for claim in distinct if (key := await self._ids.key_of(claim.answer_id)) is not None}
        origins = await self._attribute(keys)
        listed = [claim for claim in distinct if is_listed_id(claim.answer_id)]
        if listed and self._lists is not None:
            origins |= zip(listed, await self._lists.attribute(listed), strict=True)
        return [origins.pop(claim, None) for claim in claims]

    async def forget(self, session_id: str) -> None:
        """Delete the answers of a session, queued ones included. Raises SessionStoreUnavailable."""
        await self.forget_digest(session_digest(session_id))

    async def forget_digest(self, owner: str) -> None:
        """Delete the answers of the session of a digest; see `forget`."""
        for answer_id in [answer_id for answer_id, write in self._waiting.items() if write.key.owner == owner]:
            del self._waiting[answer_id]
        await self._store.forget(owner)

    async def _read(self, answer_id: str) -> list[Answer] | None:
        """Return the pages of an answer; an empty list if there will be none, None if it may still be written."""
        if is_listed_id(answer_id):
            return [] if self._lists is None else await self._lists.pages(answer_id)
        if (key := await self._ids.key_of(answer_id)) is None:
            return []
        (stored,) = await self._store.read([key])
        if isinstance(stored, SessionStoreUnavailable):
            raise stored
        if stored is None:
            return None
        pages = await self._answers(answer_id, stored)
        return pages if pages and self._is_unexpired(pages[0]) else []

    async def _attribute(
        self, claims: Mapping[AttributionClaim, AnswerKey]
    ) -> dict[AttributionClaim, AnswerOrigin | None]:
        """Attribute claims to answers of the store: read the answers, then claim their items."""
        if not claims:
            return {}
        keys = list(dict.fromkeys(claims.values()))
        stored = dict(zip(keys, await self._store.read(keys), strict=True))
        items = {claim: item async for claim, item in self._attributed_items(claims, stored)}
        is_new = await self._store.claim([(item.key, item.claim) for item in items.values()]) if items else []
        return {claim: item.origin for (claim, item), new in zip(items.items(), is_new, strict=True) if new}

    async def _attributed_items(
        self,
        claims: Mapping[AttributionClaim, AnswerKey],
        stored: dict[AnswerKey, StoredPages | SessionStoreUnavailable | None],
    ) -> AsyncIterator[tuple[AttributionClaim, _AttributedItem]]:
        """Yield the claims whose item an unexpired answer shows; lets other tasks run before each answer is read."""
        read: dict[AnswerKey, list[Answer]] = {}
        for claim, key in claims.items():
            number, pages = page_number_of(claim.answer_id), stored[key]
            if not isinstance(pages, StoredPages):
                continue
            if key not in read:
                await asyncio.sleep(0)
                read[key] = await self._answers(claim.answer_id, pages)
            answers = read[key]
            if number < len(answers) and self._is_unexpired(answers[number]):
                item_ids = answers[number].items.item_ids
                if claim.item_id in item_ids:
                    place = item_ids.index(claim.item_id)
                    yield (
                        claim,
                        _AttributedItem(key, f"{number} {place} {claim.type}", AnswerOrigin.of(answers[number])),
                    )

    async def _answers(self, answer_id: str, stored: StoredPages) -> list[Answer]:
        """Return the pages of an answer; none if a page is malformed, or if the bundle of one is gone."""
        root_id, answers = page_id(answer_id, 0), []
        try:
            for number, page in enumerate(read_pages(stored.content)):
                bundle = await self._bundles.find(page.bundle)
                if bundle is None:
                    return []
                answers.append(page.answer(root_id, number, bundle.digest, bundle.item_ids))
        except MalformedPage:
            telemetry.foreign_data_found("answer", 1)
            return []
        return answers

    def _is_unexpired(self, answer: Answer) -> bool:
        return answer.made_ms >= self._clock() * 1000 - self._ttl_ms


def _made_ms(stored: StoredPages) -> int:
    """Return when the first page of an answer was made; 0 if that cannot be read."""
    try:
        return next(iter(read_pages(stored.content))).made_ms
    except (MalformedPage, StopIteration):
        return 0
