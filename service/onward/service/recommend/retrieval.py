"""Retrieval for a single query: in the event loop if it is short, in a thread if it would delay other requests."""

import asyncio
from collections.abc import Mapping

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery

INLINE_PRODUCTS = 2_000_000
"""Multiplications of a search that runs in the event loop, about half a millisecond; a longer one runs in a thread.

A thread costs about a third more processor time, so the short searches of an inverted file stay in the event loop."""


async def retrieve(bundle: Bundle, query: RetrievalQuery, popular_now: Mapping[str, float]) -> Retrieval:
    """Retrieve for one query; `popular_now` has the weights of recent events by item."""
    session, options, user_id = query
    if _is_short(bundle, options, hidden=len(options.exclude) + len(session.item_ids)):
        return bundle.retrieve(session, options, user_id=user_id, popular_now=popular_now)
    return await asyncio.to_thread(bundle.retrieve, session, options, user_id=user_id, popular_now=popular_now)


async def retrieve_similar(
    bundle: Bundle, item_id: str, options: Options, popular_now: Mapping[str, float]
) -> Retrieval:
    """Retrieve the items nearest to an item. Raises UnknownItemError."""
    if _is_short(bundle, options, hidden=len(options.exclude) + 1):
        return bundle.similar(item_id, options, popular_now=popular_now)
    return await asyncio.to_thread(bundle.similar, item_id, options, popular_now=popular_now)


def _is_short(bundle: Bundle, options: Options, *, hidden: int) -> bool:
    return bundle.expected_products(options, hidden=hidden) <= INLINE_PRODUCTS
