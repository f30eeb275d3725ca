"""Retrieval within a request: at once where it is short, in a thread where it would hold up other requests."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service import telemetry
from service.bundle import Bundle, Options, Retrieval, Wanted
from service.turns import turns

INLINE_PRODUCTS = 2_000_000
"""Multiplications of a search, about half a millisecond: a longer one goes to a thread, so that other requests go on.

A thread costs about a third more of processor time, so the short searches of an index with lists stay inline."""

INLINE_ITEMS = 50_000
"""Items of a catalog that a request may look at one by one without a thread, as for a filter that comes first."""

MAX_TOGETHER = 16
"""Retrievals that are done before anything else goes on."""


class _Asked(NamedTuple):
    """A retrieval that waits for the end of its turn."""

    bundle: Bundle
    wanted: Wanted
    popular_now: Mapping[str, float]
    found: "asyncio.Future[Retrieval]"


class Retriever:
    """Retrieves for all who ask in one turn together: encoded and searched at once, they take less time than alone."""

    def __init__(self) -> None:
        self._asked: list[_Asked] = []

    async def retrieve(self, bundle: Bundle, wanted: Wanted, popular_now: Mapping[str, float]) -> Retrieval:
        """Ask a bundle what is wanted, with all others that ask in this turn of the event loop."""
        if not _is_short(bundle, wanted.options, hidden=_hidden(wanted)):
            return await asyncio.to_thread(_retrieved, bundle, wanted, popular_now)
        if turns.is_alone:
            return _retrieved(bundle, wanted, popular_now)
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer)
        asked = _Asked(bundle, wanted, popular_now, loop.create_future())
        self._asked.append(asked)
        return await asked.found

    def _answer(self) -> None:
        """Answer those who asked first, and let others come before the rest."""
        together, self._asked = self._asked[:MAX_TOGETHER], self._asked[MAX_TOGETHER:]
        if self._asked:
            asyncio.get_running_loop().call_soon(self._answer)
        for one, retrieval in zip(together, _retrieved_together(together), strict=True):
            if one.found.done():  # whoever asked has gone
                continue
            if isinstance(retrieval, Retrieval):
                one.found.set_result(retrieval)
            else:
                one.found.set_exception(retrieval)


def _retrieved_together(asked: Sequence[_Asked]) -> Sequence[Retrieval | Exception]:
    """Retrieve what was asked of one bundle at once; else, or where anything fails, each by itself."""
    bundle, _, popular_now, _ = asked[0]
    if len(asked) > 1 and all(one.bundle is bundle and one.popular_now is popular_now for one in asked):
        try:
            return bundle.retrieve_all([one.wanted for one in asked], popular_now=popular_now)
        except Exception as error:  # of whichever of them
            telemetry.background_failed(bundle.retrieve_all.__qualname__, error)
    return [_retrieved_or_fault(one) for one in asked]


def _retrieved_or_fault(asked: _Asked) -> Retrieval | Exception:
    try:
        return _retrieved(asked.bundle, asked.wanted, asked.popular_now)
    except Exception as error:  # whoever asked is told
        return error


async def retrieve(bundle: Bundle, wanted: Wanted, popular_now: Mapping[str, float]) -> Retrieval:
    """Ask a bundle what is wanted; `popular_now` are the weights of recent events by item."""
    if _is_short(bundle, wanted.options, hidden=_hidden(wanted)):
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
    looks_at_all = options.rearranges or not bundle.catalog.knows_eligible(options.filter)
    if looks_at_all and bundle.manifest.items > INLINE_ITEMS:
        return False
    return bundle.expected_products(options, hidden=hidden) <= INLINE_PRODUCTS


def _hidden(wanted: Wanted) -> int:
    """At most so many items are not to be shown."""
    return len(wanted.options.exclude) + len(wanted.seen.item_ids)


def _retrieved(bundle: Bundle, wanted: Wanted, popular_now: Mapping[str, float]) -> Retrieval:
    seen, options, user_id = wanted
    return bundle.retrieve(seen, options, user_id=user_id, popular_now=popular_now)
