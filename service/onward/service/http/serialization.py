"""JSON answers, concatenated from fragments; an item's constant part is serialized once, not for every answer."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from onward.bundle import Bundle, Catalog, RetrievedItems, Source
from onward.service.http.problems import Problem
from onward.service.recommend.explanation import Explanation
from onward.service.recommend.query import Recommendation
from onward.service.recommend.retrieval import Retrieved

CACHED_FRAGMENTS = 4_096
JSON_CONTENT = (b"content-type", b"application/json")


class JSONBytes(Response):
    """A response with a JSON body, which may be set later by `complete`."""

    def __init__(self, body: bytes | None = None, *headers: tuple[bytes, bytes], status_code: int = 200) -> None:
        """Take additional headers with lower-case names."""
        self.status_code = status_code
        self.background = None
        self.raw_headers = [JSON_CONTENT, *headers]
        if body is not None:
            self.complete(body)

    def complete(self, body: bytes) -> None:
        """Set the body and its length, once."""
        self.body = body
        self.raw_headers.append((b"content-length", b"%d" % len(body)))


def recommendation_json(
    recommendation: Recommendation, took_ms: float, explanation: Explanation | None = None
) -> bytes:
    """Serialize an answer as `schemas.recommendations.Recommendations`."""
    answer, retrieval = recommendation.answer, recommendation.retrieval
    strategy = f',"strategy":"{retrieval.strategy}"' if retrieval.strategy else ""
    head = (
        f'{{"recommendation_id":"{answer.id}"{_optional("session_id", recommendation.session_id)},'
        f'"bundle":"{recommendation.bundle.digest}","count":{len(retrieval.items.item_ids)},'
        f'"filter":{{"eligible":{retrieval.eligible}{strategy}}}{_optional("position", recommendation.position)},'
        f'"degraded":{_strings(recommendation.degraded)},"unknown_item_ids":{_strings(retrieval.unknown_item_ids)},'
        f'"took_ms":{took_ms}'
    )
    if retrieval.user is not None:
        head += _optional("user", retrieval.user)
    if answer.variant is not None:
        head += _optional("variant", answer.variant)
    if answer.scenario is not None:
        head += _optional("scenario", {"name": answer.scenario, "version": answer.scenario_version})
    if retrieval.not_pinned:
        head += _optional("not_pinned", retrieval.not_pinned)
    if explanation is not None:
        head += _optional("explanation", explanation)
    return b'%b,"items":[%b]}' % (head.encode(), _items(recommendation.bundle.catalog, retrieval.items))


def item_list_json(bundle: Bundle, retrieved: Retrieved, took_ms: float) -> bytes:
    """Serialize a list of items as `schemas.items.ItemList`."""
    items = retrieved.retrieval.items
    head = (
        f'{{"bundle":"{bundle.digest}","count":{len(items.item_ids)},"degraded":{_strings(retrieved.degraded)},'
        f'"took_ms":{took_ms},"items":['
    )
    return head.encode() + _items(bundle.catalog, items) + b"]}"


def results_json(results: Sequence[bytes | Problem], failed: int, took_ms: float) -> bytes:
    """Serialize several answers and problems as `schemas.recommendations.RecommendationResults`."""
    fields = {"succeeded": len(results) - failed, "failed": failed, "took_ms": took_ms}
    return b'{"results":[%b],%b' % (b",".join(map(_result, results)), to_json(fields)[1:])


def _optional(name: str, value: Any) -> str:
    return "" if value is None else f',"{name}":{to_json(value, exclude_none=True).decode()}'


def _strings(values: Sequence[str]) -> str:
    return to_json(values).decode() if values else "[]"


def _result(result: bytes | Problem) -> bytes:
    if isinstance(result, Problem):
        return to_json({"status": result.status, "problem": result}, exclude_none=True)
    return b'{"status":200,"recommendations":%b}' % result


def _items(catalog: Catalog, items: RetrievedItems) -> bytes:
    """Serialize items as `schemas.items.RecommendedItem`, each with its attributes in the catalog."""
    count = len(items.item_ids)
    if not count:
        return b""
    fragments = [b""] * (4 * count)
    fragments[0::4], fragments[3::4] = zip(*catalog.texts(items.item_ids), strict=True)
    fragments[1::4] = to_json(items.scores)[1:-1].split(b",")
    fragments[2::4] = _middles(items.sources, items.interests)
    return b"".join(fragments)[1:]


@lru_cache(CACHED_FRAGMENTS)
def _middles(sources: tuple[Source, ...], interests: tuple[int | None, ...]) -> tuple[bytes, ...]:
    """Serialize the fields between score and attributes of each item; most answers share one cached value."""
    return tuple(map(_middle, range(1, len(sources) + 1), sources, interests))


@lru_cache(CACHED_FRAGMENTS)
def _middle(rank: int, source: Source, interest: int | None) -> bytes:
    interest_field = "" if interest is None else f',"interest":{interest}'
    return f',"rank":{rank},"source":"{source}"{interest_field}'.encode()
