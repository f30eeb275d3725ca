"""Answers in JSON, put together of pieces: what is the same in every answer is written once for each item."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from onward.bundle import Bundle, Catalog, Retrieval, RetrievedItems, Source
from onward.service.errors import Problem
from onward.service.http.schemas.explanations import Explanation
from onward.service.recommend.query import Recommendation

PIECES_KEPT = 4_096


def rendered(found: Recommendation, took_ms: float, explanation: Explanation | None = None) -> bytes:
    """Write an answer: `schemas.recommendations.Recommendations`."""
    answer, retrieval = found.answer, found.retrieval
    strategy = f',"strategy":"{retrieval.strategy}"' if retrieval.strategy else ""
    head = (
        f'{{"recommendation_id":"{answer.id}"{_optional("session_id", found.session_id)},'
        f'"bundle":"{found.bundle.digest}","count":{len(retrieval.items)},'
        f'"filter":{{"eligible":{retrieval.eligible}{strategy}}}{_optional("position", found.position)},'
        f'"degraded":{_listed(found.degraded)},"unknown_item_ids":{_listed(retrieval.unknown_item_ids)},'
        f'"took_ms":{took_ms}{_optional("user", retrieval.user)}{_optional("variant", answer.variant)}'
    )
    if answer.scenario is not None:
        head += _optional("scenario", {"name": answer.scenario, "version": answer.scenario_version})
    if retrieval.not_pinned:
        head += _optional("not_pinned", retrieval.not_pinned)
    if explanation is not None:
        head += _optional("explanation", explanation)
    return b'%b,"items":[%b]}' % (head.encode(), _items(found.bundle.catalog, retrieval.items))


def _optional(name: str, value: Any) -> str:
    return "" if value is None else f',"{name}":{to_json(value, exclude_none=True).decode()}'


def _listed(texts: Sequence[str]) -> str:
    return to_json(texts).decode() if texts else "[]"


def rendered_list(bundle: Bundle, retrieval: Retrieval, took_ms: float) -> bytes:
    """Write a list of items: `schemas.items.ItemList`."""
    head = f'{{"bundle":"{bundle.digest}","count":{len(retrieval.items)},"took_ms":{took_ms},"items":['
    return head.encode() + _items(bundle.catalog, retrieval.items) + b"]}"


def rendered_results(results: Sequence[bytes | Problem], failed: int, took_ms: float) -> bytes:
    """Write several answers and problems: `schemas.recommendations.RecommendationResults`."""
    fields = {"succeeded": len(results) - failed, "failed": failed, "took_ms": took_ms}
    return b'{"results":[%b],%b' % (b",".join(map(_result, results)), to_json(fields)[1:])


def _result(one: bytes | Problem) -> bytes:
    if isinstance(one, Problem):
        return to_json({"status": one.status, "problem": one}, exclude_none=True)
    return b'{"status":200,"recommendations":%b}' % one


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
