"""Bundle.retrieve against brute force over every item."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from onward.bundle import (
    Bundle,
    Filter,
    Options,
    Pin,
    RankingDetails,
    Retrieval,
    RetrievalQuery,
    RetrievedItem,
    RetrievedItems,
    SessionView,
    UnknownItemError,
)
from onward.bundle.bundle import FALLBACK_ROWS
from onward.bundle.catalog.catalog import Catalog
from onward.bundle.files.changes import ItemChange
from onward.bundle.search.popularity import PopularityCache
from onward.bundle.search.retrieval import whole_columns
from tests.bundles import item_ids, make_bundle

IDS = item_ids("a", 60)
UNAVAILABLE = {"a3", "a10", "a11", "a60"}
AVAILABLE = [item_id not in UNAVAILABLE for item_id in ["padding", *IDS]]
AVAILABLE[0] = False
AVAILABLE_IDS = [item_id for item_id in IDS if item_id not in UNAVAILABLE]
KINDS = {
    "flat": {"index": "Flat", "interests": 1},
    "flat, 3 interests": {"index": "Flat", "interests": 3},
    "ivf": {"index": "IVF8,Flat", "nprobe": 1, "interests": 1},
    "ivf, 3 interests": {"index": "IVF8,SQfp16", "nprobe": 1, "interests": 3},
}

ids = st.sampled_from(IDS)
sessions = st.lists(ids, min_size=1, max_size=15)


@pytest.fixture(scope="module", params=list(KINDS))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    return make_bundle(folder, IDS, available=np.array(AVAILABLE), **KINDS[request.param])


def returned_ids(retrieval: Retrieval) -> list[str]:
    return [item.item_id for item in retrieval.items]


def brute_force(bundle: Bundle, session: list[str], hidden: set[str]) -> dict[str, float]:
    """Every eligible item's best inner product with an interest."""
    rows = [IDS.index(item_id) + 1 for item_id in session]
    scores_NK = bundle.vectors_N1D[1:] @ bundle.encoder.encode(rows).T
    best = zip(IDS, scores_NK.max(axis=1).tolist(), strict=True)
    return {item_id: score for item_id, score in best if item_id not in hidden | UNAVAILABLE}


@given(session=sessions, excluded=st.sets(ids, max_size=60), k=st.integers(1, 70), exclude_seen=st.booleans())
def test_an_exact_retrieval_equals_a_sorted_scan_of_the_eligible_items(
    bundle: Bundle, session: list[str], excluded: set[str], k: int, exclude_seen: bool
) -> None:
    expected = brute_force(bundle, session, excluded | (set(session) if exclude_seen else set()))
    items = bundle.retrieve(SessionView(session), Options(k, excluded, exclude_seen, exact=True)).items
    assert [item.score for item in items] == pytest.approx(sorted(expected.values(), reverse=True)[:k], abs=1e-4)
    assert all(item.score == pytest.approx(expected[item.item_id], abs=1e-4) for item in items)


@given(session=sessions, excluded=st.sets(ids, max_size=60), k=st.integers(1, 70), exclude_seen=st.booleans())
def test_every_retrieval_returns_k_distinct_eligible_items_best_first(
    bundle: Bundle, session: list[str], excluded: set[str], k: int, exclude_seen: bool
) -> None:
    eligible = brute_force(bundle, session, excluded | (set(session) if exclude_seen else set()))
    items = bundle.retrieve(SessionView(session), Options(k, excluded, exclude_seen)).items
    assert len({item.item_id for item in items}) == len(items) == min(k, len(eligible))
    assert [item.score for item in items] == sorted((item.score for item in items), reverse=True)
    assert all(item.item_id in eligible for item in items)


@given(session=sessions, excluded=st.sets(ids, max_size=50), k=st.integers(1, 60))
def test_a_flat_index_merges_interests_like_an_exact_scan(
    bundle: Bundle, session: list[str], excluded: set[str], k: int
) -> None:
    if bundle.manifest.index.description != "Flat":
        return
    by_index = bundle.retrieve(SessionView(session), Options(k, excluded)).items
    by_scan = bundle.retrieve(SessionView(session), Options(k, excluded, exact=True)).items
    assert [item.score for item in by_index] == pytest.approx([item.score for item in by_scan], abs=1e-4)
    assert [(item.item_id, item.interest) for item in by_index] == [(item.item_id, item.interest) for item in by_scan]


@pytest.mark.parametrize("exact", [True, False])
def test_the_score_is_the_inner_product_with_the_reported_interest(bundle: Bundle, exact: bool) -> None:
    interests_KD = bundle.encoder.encode([1, 2])
    for item in bundle.retrieve(SessionView(["a1", "a2"]), Options(exact=exact)).items:
        scores_K = interests_KD @ bundle.vectors_N1D[IDS.index(item.item_id) + 1]
        assert item.interest is not None
        assert item.score == pytest.approx(scores_K[item.interest], rel=1e-2, abs=1e-2)
        assert item.interest == scores_K.argmax() or not exact


def test_unknown_items_are_reported_once_and_otherwise_ignored(bundle: Bundle) -> None:
    with_unknown = bundle.retrieve(SessionView(["x", "a1", "y", "x", "a2"]), Options(10))
    assert with_unknown.unknown_item_ids == ("x", "y")
    assert with_unknown.items == bundle.retrieve(SessionView(["a1", "a2"]), Options(10)).items


@pytest.mark.parametrize("session", [[], ["x"], ["A1", "a1 ", "á"]])
def test_a_session_without_known_items_gets_popular_items(bundle: Bundle, session: list[str]) -> None:
    retrieval = bundle.retrieve(SessionView(session), Options(3, ["a1", "unknown too"]))
    assert returned_ids(retrieval) == ["a2", "a4", "a5"]
    assert {item.source for item in retrieval.items} == {"popular"}
    assert [item.score for item in retrieval.items] == [59, 57, 56]


def test_popular_items_are_limited_to_the_eligible_ones(bundle: Bundle) -> None:
    assert returned_ids(bundle.popular(Options(100))) == AVAILABLE_IDS


def test_only_the_most_recent_items_are_encoded(bundle: Bundle) -> None:
    recent = IDS[20:30]
    assert (
        bundle.retrieve(SessionView([*IDS[:20], *recent]), Options(10)).items
        == bundle.retrieve(SessionView(recent), Options(10)).items
    )


def test_a_seen_item_is_excluded_even_if_the_encoder_no_longer_reads_it(bundle: Bundle) -> None:
    long_session = IDS[:30]
    assert not set(returned_ids(bundle.retrieve(SessionView(long_session), Options(60, exclude_seen=True)))) & set(
        long_session
    )


def test_the_bundle_decides_by_default_whether_seen_items_are_excluded(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, IDS, exclude_seen=True)
    assert "a1" not in returned_ids(bundle.retrieve(SessionView(["a1"]), Options(60)))
    assert "a1" in returned_ids(bundle.retrieve(SessionView(["a1"]), Options(60, exclude_seen=False)))


def test_a_bundle_may_leave_out_only_the_last_item_by_default(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, IDS, exclude_seen="last")
    assert returned_ids(bundle.retrieve(SessionView(["a1", "a2"]), Options(60))) == [
        item
        for item in returned_ids(bundle.retrieve(SessionView(["a1", "a2"]), Options(60, exclude_seen=False)))
        if item != "a2"
    ]
    assert set(IDS) - set(returned_ids(bundle.retrieve(SessionView(["a1", "a2", "x"]), Options(60)))) == set()
    assert set(IDS) - set(returned_ids(bundle.retrieve(SessionView(["a2", "x"]), Options(60, exclude_seen=True)))) == {
        "a2"
    }


@given(queries=st.lists(sessions, min_size=1, max_size=6), k=st.integers(1, 20))
def test_a_batch_without_last_items_equals_a_search_that_hides_them(
    bundle: Bundle, queries: list[list[str]], k: int
) -> None:
    batch = [RetrievalQuery(SessionView(session), Options(k, exclude_seen="last")) for session in queries]
    batch.append(RetrievalQuery(SessionView(queries[0]), Options(k)))
    for query, retrieval in zip(batch, bundle.retrieve_all(batch), strict=True):
        session = query.session.item_ids
        hidden = session[-1:] if query.options.exclude_seen else []
        expected = bundle.retrieve(SessionView(session), Options(k, hidden))
        assert retrieval.eligible == expected.eligible
        assert not set(hidden) & set(returned_ids(retrieval))
        if bundle.manifest.index.nprobe is None:
            assert retrieval.items.scores == pytest.approx(expected.items.scores, abs=1e-4)
        else:  # an index is searched for one more result, which another interest may score higher
            assert all(np.array(retrieval.items.scores) >= np.array(expected.items.scores) - 1e-4)


def test_similar_items_are_the_nearest_by_cosine_without_the_item_itself(bundle: Bundle) -> None:
    lengths_N = np.linalg.norm(bundle.vectors_N1D[1:], axis=1)
    cosines_N = bundle.vectors_N1D[1:] @ bundle.vectors_N1D[5] / lengths_N / lengths_N[4]
    expected = [IDS[place] for place in np.argsort(-cosines_N) if IDS[place] not in UNAVAILABLE | {"a5", "a7"}]
    retrieval = bundle.similar("a5", Options(10, ["a7"], exact=True))
    assert returned_ids(retrieval) == expected[:10]
    assert all(-1 <= item.score <= 1 for item in retrieval.items)
    assert {(item.source, item.interest) for item in retrieval.items} == {("similar", None)}


def test_exact_similar_items_are_the_nearest_by_cosine_however_long_their_vectors(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    vectors_ND = (random.normal(size=(1_000, 12)) * np.exp(random.normal(size=(1_000, 1)))).astype(np.float32)
    many = item_ids("a", len(vectors_ND))
    bundle = make_bundle(tmp_path, many, index="IVF8,Flat", nprobe=2, vectors_ND=vectors_ND)
    lengths_N = np.linalg.norm(vectors_ND, axis=1)
    for row in range(1, 21):
        cosines_N = vectors_ND @ vectors_ND[row - 1] / lengths_N / lengths_N[row - 1]
        expected = [many[place] for place in np.argsort(-cosines_N) if place != row - 1]
        assert returned_ids(bundle.similar(many[row - 1], Options(10, exact=True))) == expected[:10]


def test_similar_items_of_an_unknown_item_raise_an_error(bundle: Bundle) -> None:
    with pytest.raises(UnknownItemError):
        bundle.similar("x", Options(3))


def test_concurrent_threads_get_the_results_of_a_single_thread(bundle: Bundle) -> None:
    queries = [[IDS[number % 60], IDS[number * 7 % 60]] for number in range(200)]
    alone = [bundle.retrieve(SessionView(session), Options(10, ["a9"])) for session in queries]
    with ThreadPoolExecutor(4) as pool:
        assert (
            list(pool.map(lambda session: bundle.retrieve(SessionView(session), Options(10, ["a9"])), queries)) == alone
        )


def test_the_expected_cost_includes_a_scan_if_the_index_will_find_too_few(bundle: Bundle) -> None:
    full_scan = 60 * 16 * bundle.manifest.interests
    assert bundle.expected_products(Options(20), hidden=0) == full_scan
    short = bundle.expected_products(Options(1), hidden=0)
    assert short == (full_scan if bundle.manifest.index.nprobe is None else full_scan * 6 // 60)


def test_hidden_and_purchased_items_are_excluded_as_the_options_say(bundle: Bundle) -> None:
    seen = SessionView(["a1", "a2"], purchased=["a5", "unknown"], hidden=["a6"])
    left_out = {
        exclude_seen: set(AVAILABLE_IDS) - set(returned_ids(bundle.retrieve(seen, Options(60, ["a7"], exclude_seen))))
        for exclude_seen in (False, "purchased", "last", True, None)
    }
    assert left_out["last"] == {"a2", "a6", "a7"}
    assert left_out[None] == left_out[False] == {"a6", "a7"}
    assert left_out["purchased"] == {"a5", "a6", "a7"}
    assert left_out[True] == {"a1", "a2", "a5", "a6", "a7"}


def test_an_answer_reports_the_number_of_eligible_items_and_the_strategy(bundle: Bundle) -> None:
    retrieval = bundle.retrieve(SessionView(["a1"]), Options(5, ["a1", "a2", "a3", "a1"]))
    assert (retrieval.eligible, retrieval.strategy) == (56 - 2, "masked")
    assert bundle.retrieve(SessionView(["a1"]), Options(5, exact=True)).strategy == "scan"
    assert bundle.popular(Options(5)).strategy is None


def test_recent_events_change_the_popular_items(bundle: Bundle) -> None:
    popular = returned_ids(bundle.popular(Options(60)))
    assert returned_ids(bundle.popular(Options(60), popular_now={})) == popular
    now = {"a40": 500.0, "a2": 0.25, "a3": 10_000.0, "unknown": 5.0}
    assert returned_ids(bundle.popular(Options(5, ["a1"]), popular_now=now)) == ["a40", "a2", "a4", "a5", "a6"]
    retrieval = bundle.retrieve(SessionView(["x"]), Options(60), popular_now=now)
    assert returned_ids(retrieval) == ["a40", *(item_id for item_id in popular if item_id != "a40")]
    assert retrieval.items[0].score == pytest.approx(500 + 1_000 * 21 / sum(range(1, 61)), rel=0.02)


def test_items_round_trip_through_their_stored_columns() -> None:
    items = RetrievedItems.of(
        [
            RetrievedItem("a", 2.5, "pinned", None, RankingDetails(2.0, 0.5, None)),
            RetrievedItem("b", 1.0, "pinned", None, RankingDetails(1.0, 0.0, 1)),
        ]
    )
    stored = from_json(to_json(items.columns()))
    assert stored == {
        "item_ids": ["a", "b"],
        "scores": [2.5, 1.0],
        "sources": "pinned",
        "interests": None,
        "moved": [[2.0, 0.5, None], [1.0, 0.0, 1]],
    }
    assert TypeAdapter(RetrievedItems).validate_python(whole_columns(stored)) == items
    assert whole_columns(items) is items


class TestFallback:
    """Answers in milliseconds, when there is no time for more."""

    IDS = item_ids("a", 400)
    PRICES = np.arange(400) * 37 % 101

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        attributes = [{"price": int(price)} for price in self.PRICES]
        return make_bundle(tmp_path, self.IDS, attributes=attributes, index="IVF8,Flat", nprobe=2)

    def cheap(self, most: int) -> Filter:
        return Filter.model_validate({"attribute": "price", "range": {"max": most}})

    def price(self, item_id: str) -> int:
        return int(self.PRICES[self.IDS.index(item_id)])

    @given(
        session=st.lists(st.sampled_from([*IDS, "unknown"]), max_size=4),
        excluded=st.sets(st.sampled_from(IDS), max_size=20),
        k=st.integers(1, 100),
        most=st.integers(0, 100) | st.none(),
        is_cached=st.booleans(),
        max_products=st.sampled_from([0, 10**9]),
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    def test_all_rules_hold_as_for_any_answer(
        self,
        bundle: Bundle,
        session: list[str],
        excluded: set[str],
        k: int,
        most: int | None,
        is_cached: bool,
        max_products: int,
    ) -> None:
        catalog = Catalog(bundle.catalog._stored)  # with an empty cache
        bundle = replace(bundle, catalog=catalog, popularity=PopularityCache(catalog))
        options = Options(k, excluded, exclude_seen=True, filter=None if most is None else self.cheap(most))
        view = SessionView(session)
        if is_cached:
            bundle.catalog.eligible(options.filter)
        fallback = bundle.fallback(RetrievalQuery(view, options), max_products=max_products)
        shown = returned_ids(fallback)
        allowed = set(returned_ids(bundle.retrieve(view, replace(options, k=400, exact=True))))
        assert set(shown) <= allowed
        assert len(set(shown)) == len(shown)
        if is_cached or most is None:
            assert len(shown) == min(k, len(allowed))
        known = [item_id for item_id in session if item_id != "unknown"]
        is_similar = known and max_products and (is_cached or most is None)
        assert {item.source for item in fallback.items} <= {"similar" if is_similar else "popular"}

    def test_a_filter_that_is_not_cached_is_evaluated_for_popular_and_pinned_items_alone(self, bundle: Bundle) -> None:
        popular = [bundle.catalog.item_id(row) for row in bundle.catalog.most_popular_rows[:FALLBACK_ROWS].tolist()]
        rare = next(item_id for item_id in self.IDS if item_id not in popular and self.price(item_id) <= 20)
        dear = next(item_id for item_id in self.IDS if self.price(item_id) > 20)
        options = Options(100, filter=self.cheap(20), pins=(Pin(rare, 1), Pin(dear, 2)), boosts=())
        fallback = bundle.fallback(RetrievalQuery(SessionView(), options), max_products=10**9)
        cheap = [item_id for item_id in popular if self.price(item_id) <= 20]
        assert returned_ids(fallback) == [rare, *cheap][:100]
        assert fallback.not_pinned == {dear: "filtered"}
        assert bundle.catalog.cached_eligible(options.filter) is None

    def test_changed_and_new_items_are_seen_as_they_are_now(self, bundle: Bundle) -> None:
        first = bundle.catalog.item_id(int(bundle.catalog.most_popular_rows[0]))
        changed = bundle.with_changes([ItemChange(first, 1, {"price": 5_000})])
        query = RetrievalQuery(SessionView(), Options(5, filter=self.cheap(100)))
        assert returned_ids(bundle.fallback(query, max_products=0))[0] == first
        assert first not in returned_ids(changed.fallback(query, max_products=0))
