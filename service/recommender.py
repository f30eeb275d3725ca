"""Session id -> ranked items."""

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from service import telemetry
from service.bundle import Bundle, Options, Retrieval, Seen, UnknownItemError
from service.errors import ItemNotFound, SessionStoreUnavailable
from service.reload import LiveBundle
from service.sessions import Event, SessionStore

INLINE_PRODUCTS = 2_000_000
"""Multiplications of a search, about half a millisecond: a longer one goes to a thread, so that other requests go on.

A thread costs about a third more of processor time, so the short searches of an index with lists stay inline."""

Missing = Literal["session_store"]
SESSION_STORE: Missing = "session_store"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An answer, the bundle that gave it, what it had to go without, and the seconds that its two stages took."""

    id: str
    session_id: str | None
    bundle: Bundle
    retrieval: Retrieval
    degraded: tuple[Missing, ...]
    store_s: float
    retrieval_s: float


class Recommender:
    """Answers from the live bundle and the session store; without the store from what the caller sent along."""

    def __init__(self, live: LiveBundle, store: SessionStore, clock: Callable[[], float] = time.time) -> None:
        self._live = live
        self._store = store
        self._clock = clock

    async def recommend(
        self,
        session_id: str | None,
        items: Sequence[str],
        *,
        user_id: str | None,
        k: int,
        exclude: Collection[str],
        exclude_seen: bool | None,
    ) -> Recommendation:
        """Append `items` to the session, if one is named, and rank what is likely to come next for its user."""
        bundle = self._live.bundle
        started = time.perf_counter()
        item_ids, degraded = await self._session_items(session_id, items)
        stored = time.perf_counter()
        retrieval = await _retrieve(bundle, item_ids, user_id, k, exclude, exclude_seen)
        retrieved = time.perf_counter()
        telemetry.retrieved(
            [item.source for item in retrieval.items], len(retrieval.unknown_item_ids), retrieved - stored
        )
        return Recommendation(
            id=uuid.uuid4().hex,
            session_id=session_id,
            bundle=bundle,
            retrieval=retrieval,
            degraded=degraded,
            store_s=stored - started,
            retrieval_s=retrieved - stored,
        )

    async def similar(self, item_id: str, k: int, exclude: Collection[str]) -> tuple[Bundle, Retrieval]:
        """Return the items nearest to an item. Raises ItemNotFound."""
        bundle, options = self._live.bundle, Options(k, exclude)
        try:
            if _is_short(bundle, options, hidden=len(exclude) + 1):
                return bundle, bundle.similar(item_id, options)
            return bundle, await asyncio.to_thread(bundle.similar, item_id, options)
        except UnknownItemError as error:
            raise ItemNotFound("The live bundle's catalog does not have this item.") from error

    def popular(self, k: int, exclude: Collection[str]) -> tuple[Bundle, Retrieval]:
        """Return the most popular items."""
        bundle = self._live.bundle
        return bundle, bundle.popular(Options(k, exclude))

    async def _session_items(
        self, session_id: str | None, items: Sequence[str]
    ) -> tuple[Sequence[str], tuple[Missing, ...]]:
        if session_id is None:
            return items, ()
        now_ms = int(self._clock() * 1000)
        try:
            session = await self._store.append(session_id, [Event(item_id, "view", now_ms) for item_id in items])
        except SessionStoreUnavailable:
            telemetry.degraded(SESSION_STORE)
            return items, (SESSION_STORE,)
        return [event.item_id for event in session.events], ()


async def _retrieve(
    bundle: Bundle,
    item_ids: Sequence[str],
    user_id: str | None,
    k: int,
    exclude: Collection[str],
    exclude_seen: bool | None,
) -> Retrieval:
    options = Options(k, exclude, exclude_seen)
    retrieve = partial(bundle.retrieve, Seen(item_ids), options, user_id=user_id)
    if _is_short(bundle, options, hidden=len(exclude) + len(item_ids)):
        return retrieve()
    return await asyncio.to_thread(retrieve)


def _is_short(bundle: Bundle, options: Options, *, hidden: int) -> bool:
    return bundle.expected_products(options, hidden=hidden) <= INLINE_PRODUCTS
