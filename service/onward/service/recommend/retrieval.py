"""Retrieval outside the pipeline, for next pages and item lists: in the event loop if it is short, else in a thread.

At a deadline the answer is that of `Bundle.fallback`, as in the pipeline.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import NamedTuple

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery, SessionView
from onward.service import telemetry
from onward.service.recommend.pipeline import DEADLINE, INLINE_PRODUCTS, is_short
from onward.service.recommend.query import Missing


class Retrieved(NamedTuple):
    """Items, and what they were retrieved without."""

    retrieval: Retrieval
    degraded: tuple[Missing, ...] = ()


async def retrieve(
    bundle: Bundle, query: RetrievalQuery, popular_now: Mapping[str, float], deadline_s: float
) -> Retrieved:
    """Retrieve for one query.

    Args:
        bundle: the live bundle.
        query: the session, the options and the user.
        popular_now: weights of recent events by item.
        deadline_s: when to answer at the latest, on the clock of the event loop.
    """
    session, options, user_id = query
    if is_short(bundle, options, hidden=len(options.exclude) + len(session.item_ids)):
        return Retrieved(bundle.retrieve(session, options, user_id=user_id, popular_now=popular_now))
    long = asyncio.to_thread(bundle.retrieve, session, options, user_id=user_id, popular_now=popular_now)
    return await _in_time(long, bundle, query, popular_now, deadline_s)


async def retrieve_similar(
    bundle: Bundle, item_id: str, options: Options, popular_now: Mapping[str, float], deadline_s: float
) -> Retrieved:
    """Retrieve the items nearest to an item. Raises UnknownItemError."""
    if is_short(bundle, options, hidden=len(options.exclude) + 1):
        return Retrieved(bundle.similar(item_id, options, popular_now=popular_now))
    long = asyncio.to_thread(bundle.similar, item_id, options, popular_now=popular_now)
    query = RetrievalQuery(SessionView([item_id]), replace(options, exclude=(*options.exclude, item_id)))
    return await _in_time(long, bundle, query, popular_now, deadline_s)


async def _in_time(
    long: Awaitable[Retrieval],
    bundle: Bundle,
    query: RetrievalQuery,
    popular_now: Mapping[str, float],
    deadline_s: float,
) -> Retrieved:
    try:
        async with asyncio.timeout_at(deadline_s):
            return Retrieved(await long)
    except TimeoutError:
        telemetry.degraded(DEADLINE)
        return Retrieved(bundle.fallback(query, max_products=INLINE_PRODUCTS, popular_now=popular_now), (DEADLINE,))
