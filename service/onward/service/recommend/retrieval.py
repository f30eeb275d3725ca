"""Retrieval within a request: in the event loop if it is short, in a thread if it would delay other requests."""

import asyncio
from collections.abc import Mapping, Sequence

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery
from onward.service import telemetry

INLINE_PRODUCTS = 2_000_000
"""Multiplications of a search that runs in the event loop, about half a millisecond; a longer one runs in a thread.

A thread costs about a third more processor time, so the short searches of an inverted file stay in the event loop."""

INLINE_ITEMS = 50_000
"""Items of a catalog up to which a scan of all of them, such as an unknown filter needs, runs in the event loop."""


def retrieve_batch(
    bundle: Bundle, queries: Sequence[RetrievalQuery], popular_now: Mapping[str, float]
) -> Sequence[Retrieval | Exception]:
    """Retrieve for all queries at once; if that fails, one by one, so that only the failing ones fail."""
    if len(queries) > 1:
        try:
            return bundle.retrieve_all(queries, popular_now=popular_now)
        except Exception as error:  # of any of the queries
            telemetry.background_failed(bundle.retrieve_all.__qualname__, error)
    return [_retrieved_or_error(bundle, query, popular_now) for query in queries]


def _retrieved_or_error(
    bundle: Bundle, query: RetrievalQuery, popular_now: Mapping[str, float]
) -> Retrieval | Exception:
    try:
        return _retrieved(bundle, query, popular_now)
    except Exception as error:  # the caller gets it
        return error


def is_short(bundle: Bundle, query: RetrievalQuery) -> bool:
    """Return whether a retrieval takes less time than moving it to a thread is worth."""
    return _is_short(bundle, query.options, hidden=len(query.options.exclude) + len(query.session.item_ids))


async def retrieve(bundle: Bundle, query: RetrievalQuery, popular_now: Mapping[str, float]) -> Retrieval:
    """Retrieve for one query; `popular_now` has the weights of recent events by item."""
    if is_short(bundle, query):
        return _retrieved(bundle, query, popular_now)
    return await asyncio.to_thread(_retrieved, bundle, query, popular_now)


async def retrieve_similar(
    bundle: Bundle, item_id: str, options: Options, popular_now: Mapping[str, float]
) -> Retrieval:
    """Retrieve the items nearest to an item. Raises UnknownItemError."""
    if _is_short(bundle, options, hidden=len(options.exclude) + 1):
        return bundle.similar(item_id, options, popular_now=popular_now)
    return await asyncio.to_thread(bundle.similar, item_id, options, popular_now=popular_now)


def _is_short(bundle: Bundle, options: Options, *, hidden: int) -> bool:
    scans_catalog = options.reranks or not bundle.catalog.knows_eligible(options.filter)
    if scans_catalog and bundle.manifest.items > INLINE_ITEMS:
        return False
    return bundle.expected_products(options, hidden=hidden) <= INLINE_PRODUCTS


def _retrieved(bundle: Bundle, query: RetrievalQuery, popular_now: Mapping[str, float]) -> Retrieval:
    session, options, user_id = query
    return bundle.retrieve(session, options, user_id=user_id, popular_now=popular_now)
