"""Retrieval within a request: at once where it is short, in a thread where it would hold up other requests."""

import asyncio
from collections.abc import Mapping, Sequence

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery
from onward.service import telemetry

INLINE_PRODUCTS = 2_000_000
"""Multiplications of a search, about half a millisecond: a longer one goes to a thread, so that other requests go on.

A thread costs about a third more of processor time, so the short searches of an index with lists stay inline."""

INLINE_ITEMS = 50_000
"""Items of a catalog that a request may look at one by one without a thread, as for a filter that comes first."""


def retrieve_together(
    bundle: Bundle, wanted: Sequence[RetrievalQuery], popular_now: Mapping[str, float]
) -> Sequence[Retrieval | Exception]:
    """Ask a bundle for all that is wanted at once; where that fails for each by itself, so that others are answered."""
    if len(wanted) > 1:
        try:
            return bundle.retrieve_all(wanted, popular_now=popular_now)
        except Exception as error:  # of whichever of them
            telemetry.background_failed(bundle.retrieve_all.__qualname__, error)
    return [_retrieved_or_fault(bundle, one, popular_now) for one in wanted]


def _retrieved_or_fault(
    bundle: Bundle, wanted: RetrievalQuery, popular_now: Mapping[str, float]
) -> Retrieval | Exception:
    try:
        return _retrieved(bundle, wanted, popular_now)
    except Exception as error:  # whoever asked is told
        return error


def is_short(bundle: Bundle, wanted: RetrievalQuery) -> bool:
    """Whether a retrieval takes less time than a thread for it would be worth."""
    return _is_short(bundle, wanted.options, hidden=len(wanted.options.exclude) + len(wanted.seen.item_ids))


async def retrieve(bundle: Bundle, wanted: RetrievalQuery, popular_now: Mapping[str, float]) -> Retrieval:
    """Ask a bundle what is wanted; `popular_now` are the weights of recent events by item."""
    if is_short(bundle, wanted):
        return _retrieved(bundle, wanted, popular_now)
    return await asyncio.to_thread(_retrieved, bundle, wanted, popular_now)


async def retrieve_similar(
    bundle: Bundle, item_id: str, options: Options, popular_now: Mapping[str, float]
) -> Retrieval:
    """Ask a bundle for the items nearest to one. Raises UnknownItemError."""
    if _is_short(bundle, options, hidden=len(options.exclude) + 1):
        return bundle.similar(item_id, options, popular_now=popular_now)
    return await asyncio.to_thread(bundle.similar, item_id, options, popular_now=popular_now)


def _is_short(bundle: Bundle, options: Options, *, hidden: int) -> bool:
    looks_at_all = options.reranks or not bundle.catalog.knows_eligible(options.filter)
    if looks_at_all and bundle.manifest.items > INLINE_ITEMS:
        return False
    return bundle.expected_products(options, hidden=hidden) <= INLINE_PRODUCTS


def _retrieved(bundle: Bundle, wanted: RetrievalQuery, popular_now: Mapping[str, float]) -> Retrieval:
    seen, options, user_id = wanted
    return bundle.retrieve(seen, options, user_id=user_id, popular_now=popular_now)
