"""A short retrieval runs in the event loop, a long one in a thread, and none is waited for beyond its deadline."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from onward.bundle import Bundle, Options, RetrievalQuery, SessionView
from onward.bundle.catalog.filters import Filter
from onward.service.recommend import pipeline, retrieval
from tests.bundles import item_ids, publish_bundle

NEVER_S = math.inf
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
    first, second = [await retrieval.retrieve(bundle, query, {}, NEVER_S) for _ in range(2)]
    assert first == second
    assert [thread == threading.get_ident() for thread in threads] == [False, True]


async def test_a_long_search_runs_in_a_thread(
    bundle: Bundle, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = RetrievalQuery(SessionView(["a1"]), Options(5), None)
    await retrieval.retrieve(bundle, query, {}, NEVER_S)
    monkeypatch.setattr(pipeline, "INLINE_PRODUCTS", 10)
    await retrieval.retrieve(bundle, query, {}, NEVER_S)
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


class TestDeadlines:
    """A retrieval in a thread that does not end in time."""

    @pytest.fixture(autouse=True)
    async def slow(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
        """Make every retrieval of the loaded bundle run in a thread, which waits until the test has ended.

        Asynchronous, so that it ends before the event loop does, which waits for its threads.
        """
        may_go_on = threading.Event()

        def hanging(*_: Any, **__: Any) -> Any:
            may_go_on.wait(30)

        monkeypatch.setattr(retrieval, "is_short", lambda *_, **__: False)
        monkeypatch.setattr(Bundle, "retrieve", hanging)
        monkeypatch.setattr(Bundle, "similar", hanging)
        yield
        may_go_on.set()

    async def test_a_query_is_answered_with_similar_or_popular_items(self, bundle: Bundle) -> None:
        query = RetrievalQuery(SessionView(["a1"]), Options(30, exclude=("a2",)), None)
        late, degraded = await retrieval.retrieve(bundle, query, {}, soon())
        assert degraded == ("deadline",)
        assert set(late.items.sources) <= {"similar", "popular"}
        assert late.items.item_ids
        assert "a2" not in late.items.item_ids

    async def test_similar_items_are_popular_ones_without_the_item(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retrieval, "INLINE_PRODUCTS", 0)
        late, degraded = await retrieval.retrieve_similar(bundle, "a1", Options(30, exclude=("a2",)), {}, soon())
        assert degraded == ("deadline",)
        assert set(late.items.sources) == {"popular"}
        assert set(late.items.item_ids) == set(item_ids("a", 30)) - {"a1", "a2"}


def soon() -> float:
    return asyncio.get_running_loop().time() + 0.02
