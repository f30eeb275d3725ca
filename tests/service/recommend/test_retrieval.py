"""A short retrieval runs in the event loop, a long one in a thread."""

import threading
from pathlib import Path
from typing import Any

import pytest

from onward.bundle import Bundle, Options, RetrievalQuery, SessionView
from onward.bundle.catalog.filters import Filter
from onward.service.recommend import pipeline, retrieval
from tests.bundles import item_ids, publish_bundle

FILTER = Filter.model_validate({"attribute": "price", "equals": 1})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    attributes = [{"price": number % 2} for number in range(30)]
    publish_bundle(tmp_path, item_ids("a", 30), attributes=attributes)
    return Bundle.load(tmp_path / "current")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the ids of the threads in which retrievals run, in order."""
    thread_ids: list[int] = []
    retrieve = Bundle.retrieve

    def recording(self: Bundle, *arguments: Any, **named: Any) -> Any:
        thread_ids.append(threading.get_ident())
        return retrieve(self, *arguments, **named)

    monkeypatch.setattr(Bundle, "retrieve", recording)
    return thread_ids


async def test_a_filter_that_scans_many_items_runs_in_a_thread_and_is_cached(
    bundle: Bundle, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "INLINE_PRODUCTS", 1_000)
    query = RetrievalQuery(SessionView(["a1"]), Options(5, filter=FILTER), None)
    first, second = [await retrieval.retrieve(bundle, query, {}) for _ in range(2)]
    assert first == second
    assert [thread == threading.get_ident() for thread in threads] == [False, True]


async def test_a_long_search_runs_in_a_thread(
    bundle: Bundle, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = RetrievalQuery(SessionView(["a1"]), Options(5), None)
    await retrieval.retrieve(bundle, query, {})
    monkeypatch.setattr(pipeline, "INLINE_PRODUCTS", 10)
    await retrieval.retrieve(bundle, query, {})
    assert [thread == threading.get_ident() for thread in threads] == [True, False]
