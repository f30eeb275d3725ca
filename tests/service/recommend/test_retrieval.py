"""A short retrieval runs in the event loop, a long one in a thread; a batch is retrieved at once."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery, RetrievedItems, SessionView
from onward.bundle.catalog.filters import Filter
from onward.service import telemetry
from onward.service.recommend import retrieval
from tests.bundles import item_ids, publish_bundle

NOTHING_POPULAR: Mapping[str, float] = {}
FILTER = Filter.model_validate({"attribute": "price", "equals": 1})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    attributes = [{"price": number % 2} for number in range(30)]
    publish_bundle(tmp_path, item_ids("a", 30), attributes=attributes)
    return Bundle.load(tmp_path / "current")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads in which retrievals ran, in order."""
    ran: list[int] = []
    retrieve = Bundle.retrieve

    def noted(self: Bundle, *arguments: Any, **named: Any) -> Any:
        ran.append(threading.get_ident())
        return retrieve(self, *arguments, **named)

    monkeypatch.setattr(Bundle, "retrieve", noted)
    return ran


async def test_a_filter_that_scans_many_items_runs_in_a_thread_and_is_cached(
    bundle: Bundle, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "INLINE_ITEMS", 10)
    query = RetrievalQuery(SessionView(["a1"]), Options(5, filter=FILTER), None)
    first, second = [await retrieval.retrieve(bundle, query, {}) for _ in range(2)]
    assert first == second
    assert [thread == threading.get_ident() for thread in threads] == [False, True]


async def test_a_long_search_runs_in_a_thread(
    bundle: Bundle, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = RetrievalQuery(SessionView(["a1"]), Options(5), None)
    await retrieval.retrieve(bundle, query, {})
    monkeypatch.setattr(retrieval, "INLINE_PRODUCTS", 10)
    await retrieval.retrieve(bundle, query, {})
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


MIXED = [
    RetrievalQuery(SessionView(["a1"]), Options(5)),
    RetrievalQuery(SessionView(["a2", "a3"]), Options(5)),
    RetrievalQuery(SessionView(["a3", "none"]), Options(5)),
    RetrievalQuery(SessionView(["a1"]), Options(3)),
    RetrievalQuery(SessionView(["a1"]), Options(5, filter=FILTER)),
    RetrievalQuery(SessionView(["a7"]), Options(5, filter=FILTER)),
    RetrievalQuery(SessionView(["a1"]), Options(5, exclude=["a2"])),
    RetrievalQuery(SessionView(["a4"]), Options(5, exclude_seen=True)),
    RetrievalQuery(SessionView(["a4"]), Options(5, exact=True)),
    RetrievalQuery(SessionView(["a4"]), Options(5, diversity=0.5)),
    RetrievalQuery(SessionView(["none"]), Options(5)),
    RetrievalQuery(SessionView([]), Options(100)),
]


def test_a_batch_gives_what_each_query_gives_alone(bundle: Bundle) -> None:
    for query, found in zip(MIXED * 2, retrieval.retrieve_batch(bundle, MIXED * 2, NOTHING_POPULAR), strict=True):
        alone = bundle.retrieve(query.session, query.options)
        assert isinstance(found, Retrieval)
        assert [item.item_id for item in found.items] == [item.item_id for item in alone.items]
        assert [item.score for item in found.items] == pytest.approx([item.score for item in alone.items])
        assert found._replace(items=RetrievedItems()) == alone._replace(items=RetrievedItems())


def test_a_query_that_fails_fails_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    retrieve = Bundle.retrieve

    def failing(self: Bundle, seen: SessionView, options: Options, **named: Any) -> Any:
        if "a2" in seen.item_ids:
            raise ValueError("a fault")
        return retrieve(self, seen, options, **named)

    def failing_batch(*_: Any, **__: Any) -> Any:
        raise ValueError("a fault of one of them")

    logged: list[str] = []
    monkeypatch.setattr(Bundle, "retrieve", failing)
    monkeypatch.setattr(Bundle, "retrieve_all", failing_batch)
    monkeypatch.setattr(telemetry, "background_failed", lambda work, error: logged.append(str(error)))
    found = retrieval.retrieve_batch(bundle, MIXED, NOTHING_POPULAR)
    assert [type(one) for one in found].count(Retrieval) == len(MIXED) - 1
    assert isinstance(found[1], ValueError)
    assert logged == ["a fault of one of them"]
