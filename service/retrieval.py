"""Retrieval within a request: at once where it is short, in a thread where it would hold up other requests."""

import asyncio
from collections.abc import Mapping

from service.bundle import Bundle, Options, Retrieval, Wanted

INLINE_PRODUCTS = 2_000_000
"""Multiplications of a search, about half a millisecond: a longer one goes to a thread, so that other requests go on.

A thread costs about a third more of processor time, so the short searches of an index with lists stay inline."""

INLINE_ITEMS = 50_000
"""Items of a catalog that a request may look at one by one without a thread, as for a filter that comes first."""


async def retrieve(bundle: Bundle, wanted: Wanted, popular_now: Mapping[str, float]) -> Retrieval:
    """Ask a bundle what is wanted; `popular_now` are the weights of recent events by item."""
    seen, options, user_id = wanted
    if _is_short(bundle, options, hidden=len(options.exclude) + len(seen.item_ids)):
        return bundle.retrieve(seen, options, user_id=user_id, popular_now=popular_now)
    return await asyncio.to_thread(bundle.retrieve, seen, options, user_id=user_id, popular_now=popular_now)


async def retrieve_similar(
    bundle: Bundle, item_id: str, options: Options, popular_now: Mapping[str, float]
) -> Retrieval:
    """Ask a bundle for the items nearest to one. Raises UnknownItemError."""
    if _is_short(bundle, options, hidden=len(options.exclude) + 1):
        return bundle.similar(item_id, options, popular_now=popular_now)
    return await asyncio.to_thread(bundle.similar, item_id, options, popular_now=popular_now)


def _is_short(bundle: Bundle, options: Options, *, hidden: int) -> bool:
    looks_at_all = options.rearranges or not bundle.catalog.knows_eligible(options.filter)
    if looks_at_all and bundle.manifest.items > INLINE_ITEMS:
        return False
    return bundle.expected_products(options, hidden=hidden) <= INLINE_PRODUCTS
