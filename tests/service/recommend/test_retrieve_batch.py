"""A batch of queries is retrieved at once, with the results that each query has alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery, RetrievedItems, SessionView
from onward.bundle.catalog.filters import Filter
from onward.service import telemetry
from onward.service.recommend.pipeline import retrieve_batch
from tests.bundles import item_ids, publish_bundle

FILTER = Filter.model_validate({"attribute": "price", "equals": 1})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    attributes = [{"price": number % 2} for number in range(30)]
    publish_bundle(tmp_path, item_ids("a", 30), attributes=attributes)
    return Bundle.load(tmp_path / "current")


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


def test_a_batch_gives_each_query_the_results_it_has_alone(bundle: Bundle) -> None:
    for query, batched in zip(MIXED * 2, retrieve_batch(bundle, MIXED * 2, {}), strict=True):
        alone = bundle.retrieve(query.session, query.options)
        assert isinstance(batched, Retrieval)
        assert [item.item_id for item in batched.items] == [item.item_id for item in alone.items]
        assert [item.score for item in batched.items] == pytest.approx([item.score for item in alone.items])
        assert batched._replace(items=RetrievedItems()) == alone._replace(items=RetrievedItems())


def test_a_failing_query_does_not_affect_the_others(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    retrieve_all = Bundle.retrieve_all

    def failing(self: Bundle, queries: Sequence[RetrievalQuery], **named: Any) -> Any:
        if any("a2" in query.session.item_ids for query in queries):
            raise ValueError("a2 fails")
        return retrieve_all(self, queries, **named)

    logged: list[str] = []
    monkeypatch.setattr(Bundle, "retrieve_all", failing)
    monkeypatch.setattr(telemetry, "background_failed", lambda work, error: logged.append(str(error)))
    results = retrieve_batch(bundle, MIXED, {})
    assert [type(result) for result in results].count(Retrieval) == len(MIXED) - 1
    assert isinstance(results[1], ValueError)
    assert logged == ["a2 fails"]
