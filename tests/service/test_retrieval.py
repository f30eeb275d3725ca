"""Where a retrieval runs: at once where it is short, in a thread where other requests would wait for it."""

import threading
from pathlib import Path
from typing import Any

import pytest

from service import retrieval
from service.bundle import Bundle, Options, Seen, Wanted
from service.bundle.filters import Filter
from tests.bundles import item_ids, publish_bundle

FILTER = Filter.model_validate({"attribute": "price", "equals": 1})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    attributes = [{"price": number % 2} for number in range(30)]
    publish_bundle(tmp_path, item_ids("a", 30), attributes=attributes)
    return Bundle.load(tmp_path / "current")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that retrievals ran in, one after another."""
    ran: list[int] = []
    retrieve = Bundle.retrieve

    def noted(self: Bundle, *arguments: Any, **named: Any) -> Any:
        ran.append(threading.get_ident())
        return retrieve(self, *arguments, **named)

    monkeypatch.setattr(Bundle, "retrieve", noted)
    return ran


async def test_a_filter_over_many_items_is_looked_at_in_a_thread_once(
    bundle: Bundle, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "INLINE_ITEMS", 10)
    wanted = Wanted(Seen(["a1"]), Options(5, filter=FILTER), None)
    first, second = [await retrieval.retrieve(bundle, wanted, {}) for _ in range(2)]
    assert first == second
    assert [thread == threading.get_ident() for thread in threads] == [False, True]


async def test_a_long_search_runs_in_a_thread(
    bundle: Bundle, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(Seen(["a1"]), Options(5), None)
    await retrieval.retrieve(bundle, wanted, {})
    monkeypatch.setattr(retrieval, "INLINE_PRODUCTS", 10)
    await retrieval.retrieve(bundle, wanted, {})
    assert [thread == threading.get_ident() for thread in threads] == [True, False]
