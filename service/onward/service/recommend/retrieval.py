"""Retrieval outside the pipeline, for next pages and item lists: in the event loop if it is short, else in a thread."""

import asyncio
from collections.abc import Mapping

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery
from onward.service.recommend.pipeline import is_short


async def retrieve(bundle: Bundle, query: RetrievalQuery, popular_now: Mapping[str, float]) -> Retrieval:
    """Retrieve for one query; `popular_now` has the weights of recent events by item."""
    session, options, user_id = query
    if is_short(bundle, options, hidden=len(options.exclude) + len(session.item_ids)):
        return bundle.retrieve(session, options, user_id=user_id, popular_now=popular_now)
    return await asyncio.to_thread(bundle.retrieve, session, options, user_id=user_id, popular_now=popular_now)


async def retrieve_similar(
    bundle: Bundle, item_id: str, options: Options, popular_now: Mapping[str, float]
) -> Retrieval:
    """Retrieve the items nearest to an item. Raises UnknownItemError."""
    if is_short(bundle, options, hidden=len(options.exclude) + 1):
        return bundle.similar(item_id, options, popular_now=popular_now)
    return await asyncio.to_thread(bundle.similar, item_id, options, popular_now=popular_now)
