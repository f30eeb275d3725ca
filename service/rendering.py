"""Answers in JSON, put together of pieces: what is the same in every answer is written once for each item."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from service.bundle import Bundle, Catalog, Retrieval, RetrievedItems, Source
from service.errors import Problem
from service.recommendation import Recommendation
from service.schemas.explanations import Explanation

PIECES_KEPT = 4_096


def rendered(found: Recommendation, took_ms: float, explanation: Explanation | None = None) -> bytes:
    """Write an answer: `schemas.recommendations.Recommendations`."""
    answer, retrieval = found.answer, found.retrieval
    fields = {
        "recommendation_id": answer.id,
        "session_id": found.session_id,
        "bundle": found.bundle.digest,
        "count": len(retrieval.items),
        "user": retrieval.user,
        "filter": {"eligible": retrieval.eligible, "strategy": retrieval.strategy}
        if retrieval.strategy
        else {"eligible": retrieval.eligible},
        "scenario": None if answer.scenario is None else {"name": answer.scenario, "version": answer.scenario_version},
        "variant": answer.variant,
        "not_pinned": retrieval.not_pinned or None,
        "position": found.position,
        "degraded": found.degraded,
        "unknown_item_ids": retrieval.unknown_item_ids,
        "explanation": explanation,
        "took_ms": took_ms,
    }
    return _joined(fields, found.bundle.catalog, retrieval.items)


def rendered_list(bundle: Bundle, retrieval: Retrieval, took_ms: float) -> bytes:
    """Write a list of items: `schemas.items.ItemList`."""
    fields = {"bundle": bundle.digest, "count": len(retrieval.items), "took_ms": took_ms}
    return _joined(fields, bundle.catalog, retrieval.items)


def rendered_results(results: Sequence[bytes | Problem], failed: int, took_ms: float) -> bytes:
    """Write several answers and problems: `schemas.recommendations.RecommendationResults`."""
    fields = {"succeeded": len(results) - failed, "failed": failed, "took_ms": took_ms}
    return b'{"results":[%b],%b' % (b",".join(map(_result, results)), to_json(fields)[1:])


def _result(one: bytes | Problem) -> bytes:
    if isinstance(one, Problem):
        return to_json({"status": one.status, "problem": one}, exclude_none=True)
    return b'{"status":200,"recommendations":%b}' % one


def _joined(fields: dict[str, Any], catalog: Catalog, items: RetrievedItems) -> bytes:
    known = to_json({name: value for name, value in fields.items() if value is not None}, exclude_none=True)
    return b'%b,"items":[%b]}' % (known[:-1], _items(catalog, items))


def _items(catalog: Catalog, items: RetrievedItems) -> bytes:
    """The items as `schemas.items.RecommendedItem`, with what the catalog knows of each."""
    count = len(items.item_ids)
    if not count:
        return b""
    pieces = [b""] * (4 * count)
    pieces[0::4], pieces[3::4] = zip(*catalog.texts(items.item_ids), strict=True)
    pieces[1::4] = to_json(items.scores)[1:-1].split(b",")
    pieces[2::4] = _betweens(items.sources, items.interests)
    return b"".join(pieces)[1:]


@lru_cache(PIECES_KEPT)
def _betweens(sources: tuple[Source, ...], interests: tuple[int | None, ...]) -> tuple[bytes, ...]:
    """What stands between the score and the end of each item: mostly all are by the encoder's only interest."""
    return tuple(map(_between, range(1, len(sources) + 1), sources, interests))


@lru_cache(PIECES_KEPT)
def _between(rank: int, source: Source, interest: int | None) -> bytes:
    """What stands between an item's score and its end."""
    of_interest = "" if interest is None else f',"interest":{interest}'
    return f',"rank":{rank},"source":"{source}"{of_interest}'.encode()
