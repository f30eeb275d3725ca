"""Filters, boosts, pins, diversity and live changes of a bundle's answers, against brute force over every item."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.bundle import Boost, Bundle, Options, Pin, Retrieval, RetrievalQuery, RetrievedItem, SessionView
from onward.bundle.catalog.filters import Filter
from onward.bundle.files.changes import ItemChange
from onward.bundle.search.index import Candidates, ItemIndex
from onward.bundle.search.reranking import insert_pins
from tests.bundles import item_ids, make_bundle

IDS = item_ids("a", 60)
NEW_IDS = item_ids("new", 6)
ATTRIBUTES = [{"shelf": f"s{number % 5}", "price": number} if number % 7 else {} for number in range(60)]
KINDS = {
    "flat": {"index": "Flat", "interests": 1},
    "flat, 4 interests": {"index": "Flat", "interests": 4},
    "ivf": {"index": "IVF8,Flat", "nprobe": 1, "interests": 2},
    "ivf, 3 interests": {"index": "IVF8,SQfp16", "nprobe": 2, "interests": 3},
}
Condition = tuple[Filter, Callable[[Mapping[str, Any]], bool]]


def condition(tree: dict[str, Any], holds: Callable[[Mapping[str, Any]], bool]) -> Condition:
    return Filter.model_validate(tree), holds


CONDITIONS = [
    condition({"attribute": "shelf", "equals": "s1"}, lambda item: item.get("shelf") == "s1"),
    condition({"attribute": "shelf", "in": ["s2", "s3"]}, lambda item: item.get("shelf") in ("s2", "s3")),
    condition({"not": {"attribute": "price", "exists": True}}, lambda item: "price" not in item),
    condition({"attribute": "price", "range": {"min": 50}}, lambda item: item.get("price", -1) >= 50),
    condition({"attribute": "price", "range": {"below": 0}}, lambda item: False),
    condition(
        {"or": [{"attribute": "price", "range": {"max": 9}}, {"attribute": "shelf", "equals": "s4"}]},
        lambda item: item.get("price", 99) <= 9 or item.get("shelf") == "s4",
    ),
]
FACTORS = [0.01, 0.5, 1.25, 3.0, 100.0]

ids = st.sampled_from([*IDS, *NEW_IDS, "unknown"])
boosts = st.lists(st.tuples(st.sampled_from(CONDITIONS), st.sampled_from(FACTORS)), max_size=5)
patches = st.fixed_dictionaries(
    {}, optional={"shelf": st.sampled_from(["s1", "s2", None]), "price": st.sampled_from([5, 55, None])}
)


@st.composite
def changes(draw: st.DrawFn) -> list[ItemChange]:
    """Draw changes of existing items and of new ones, at most one for each item."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    changed = draw(st.lists(st.sampled_from([*IDS, *NEW_IDS]), max_size=12, unique=True))
    return [
        ItemChange(
            item_id,
            sequence,
            attributes=draw(patches),
            available=draw(st.sampled_from([None, None, True, False])),
            deleted=draw(st.integers(0, 4)) == 0,
            vector_D=random.normal(size=12).astype(np.float32) if draw(st.integers(0, 4)) else None,
        )
        for sequence, item_id in enumerate(changed, start=1)
    ]


@pytest.fixture(scope="module", params=list(KINDS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"), IDS, attributes=ATTRIBUTES, **KINDS[request.param])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with one interest, an exact index and attributes."""
    return make_bundle(tmp_path_factory.mktemp("shop"), IDS, attributes=ATTRIBUTES)


def shown(retrieval: Retrieval) -> list[str]:
    return [item.item_id for item in retrieval.items]


def vectors_and_attributes(bundle: Bundle, changed: Sequence[ItemChange]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the vector and the attributes of every item that may be shown after the changes."""
    items = {item_id: (bundle.vectors_N1D[row], ATTRIBUTES[row - 1]) for row, item_id in enumerate(IDS, start=1)}
    for change in changed:
        vector, attributes = items.pop(change.item_id, (change.vector_D, {}))
        if vector is not None and not change.deleted and change.available is not False:
            patched = {**attributes, **change.attributes}
            items[change.item_id] = vector, {name: value for name, value in patched.items() if value is not None}
    return items


@given(
    session=st.lists(st.sampled_from(IDS), min_size=1, max_size=5),
    changed=changes(),
    required=st.none() | st.sampled_from(CONDITIONS),
    boosted=boosts,
    excluded=st.sets(ids, max_size=20),
    k=st.integers(1, 70),
    exact=st.booleans(),
)
def test_an_answer_holds_the_best_eligible_items_with_any_options(
    exported: Bundle,
    session: list[str],
    changed: list[ItemChange],
    required: Condition | None,
    boosted: list[tuple[Condition, float]],
    excluded: set[str],
    k: int,
    exact: bool,
) -> None:
    bundle = exported.with_changes(changed)
    interests_KD = bundle.encoder.encode([IDS.index(item_id) + 1 for item_id in session])
    expected = {
        item_id: float((interests_KD @ vector).max())
        + sum(math.log(factor) for (_, holds), factor in boosted if holds(attributes))
        for item_id, (vector, attributes) in vectors_and_attributes(exported, changed).items()
        if item_id not in excluded and (required is None or required[1](attributes))
    }
    options = Options(
        k,
        excluded,
        exclude_seen=False,
        filter=required[0] if required else None,
        boosts=tuple(Boost(filter_, factor) for (filter_, _), factor in boosted),
        exact=exact,
    )
    retrieval = bundle.retrieve(SessionView(session), options)
    items = retrieval.items
    assert len(set(shown(retrieval))) == len(items) == min(k, len(expected))
    assert retrieval.eligible == len(expected)
    assert [item.score for item in items] == sorted((item.score for item in items), reverse=True)
    assert all(item.score <= expected[item.item_id] + 2e-2 for item in items)
    if exact:
        assert [item.score for item in items] == pytest.approx(sorted(expected.values(), reverse=True)[:k], abs=1e-4)
        assert all(item.score == pytest.approx(expected[item.item_id], abs=1e-4) for item in items)


@pytest.mark.parametrize("exact", [True, False])
def test_boosts_with_many_levels_are_as_exact_as_with_few(exported: Bundle, *, exact: bool) -> None:
    several = [
        Boost(CONDITIONS[place][0], factor) for place, factor in ((0, 2.0), (1, 3.0), (2, 5.0), (3, 7.0), (5, 11.0))
    ]
    few = exported.retrieve(SessionView(["a1"]), Options(60, boosts=tuple(several[:2]), exact=exact))
    many = exported.retrieve(SessionView(["a1"]), Options(60, boosts=tuple(several), exact=exact))
    plain = {item.item_id: item.score for item in exported.retrieve(SessionView(["a1"]), Options(60, exact=True)).items}
    assert bool(exported.boost_levels.of(None, several[:2]).eligible) is not exported.index.is_flat
    assert not exported.boost_levels.of(None, several).eligible
    for retrieval, boosts in ((few, several[:2]), (many, several)):
        for place, item in enumerate(retrieval.items, start=1):
            row = exported.catalog.row(item.item_id)
            assert row is not None
            log_boost = sum(
                math.log(boost.factor) for boost in boosts if exported.catalog.eligible(boost.filter).rows_R1[row]
            )
            assert item.details is not None
            assert item.details.rank == place
            assert item.details[:2] == pytest.approx((plain[item.item_id], log_boost), abs=1e-5)
            assert item.score == pytest.approx(plain[item.item_id] + log_boost, abs=1e-5)


def test_an_exact_answer_with_boosts_takes_one_scan(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, scan = 0, ItemIndex.scan

    def count_and_scan(index: ItemIndex, *arguments: Any, **options: Any) -> Candidates:
        nonlocal scans
        scans += 1
        return scan(index, *arguments, **options)

    monkeypatch.setattr(ItemIndex, "scan", count_and_scan)
    boosts = (Boost(CONDITIONS[0][0], 2.0), Boost(CONDITIONS[1][0], 3.0))
    exported.retrieve(SessionView(["a1"]), Options(10, boosts=boosts, exact=True))
    assert scans == 1


def test_popular_and_similar_items_are_boosted_too(shop: Bundle) -> None:
    boosts = (Boost(CONDITIONS[3][0], 100.0),)
    expensive = {item_id for item_id, attributes in zip(IDS, ATTRIBUTES, strict=True) if CONDITIONS[3][1](attributes)}
    popular = shop.popular(Options(8, boosts=boosts))
    assert expensive.issuperset(shown(popular))
    first = popular.items[0]
    assert first.details is not None
    assert (first.item_id, first.source, first.details.rank) == ("a51", "popular", 1)
    assert (first.score, *first.details[:2]) == pytest.approx((1_000, 10, math.log(100)))
    similar = shop.similar("a1", Options(8, boosts=boosts))
    assert expensive.issuperset(shown(similar))
    plain = {item.item_id: item.score for item in shop.similar("a1", Options(60)).items}
    assert [item.score for item in similar.items] == pytest.approx(
        [plain[item_id] + math.log(100) for item_id in shown(similar)], abs=1e-5
    )


def test_pinned_items_take_their_positions_and_the_others_keep_their_order(shop: Bundle) -> None:
    plain = shop.retrieve(SessionView(["a1"]), Options(10))
    last = shop.retrieve(SessionView(["a1"]), Options(60)).items[-1]
    pins = (Pin(last.item_id, 1), Pin(plain.items[0].item_id, 4))
    retrieval = shop.retrieve(SessionView(["a1"]), Options(10, pins=pins))
    others = [item for item in shown(plain) if item != plain.items[0].item_id]
    assert shown(retrieval) == [last.item_id, *others[:2], plain.items[0].item_id, *others[2:8]]
    assert [item.source for item in retrieval.items] == ["pinned", *["encoder"] * 2, "pinned", *["encoder"] * 6]
    assert retrieval.items[0].score == pytest.approx(last.score, abs=1e-5)
    assert [item.details.rank for item in retrieval.items if item.details] == [None, 1, 2, None, 3, 4, 5, 6, 7, 8]


def test_a_pinned_item_that_must_not_be_shown_is_reported_with_the_rule(shop: Bundle) -> None:
    bundle = shop.with_changes([ItemChange("a2", 1, deleted=True), ItemChange("a3", 2, available=False)])
    pins = tuple(
        Pin(item_id, position) for position, item_id in enumerate(["x", "a2", "a3", "a4", "a6", "a7"], start=1)
    )
    options = Options(10, ["a6"], filter=CONDITIONS[1][0], pins=pins)
    retrieval = bundle.retrieve(SessionView(["a1"]), options)
    assert retrieval.not_pinned == {
        "x": "unknown_item",
        "a2": "deleted",
        "a3": "unavailable",
        "a6": "filtered",
        "a7": "filtered",
    }
    assert retrieval.items[3].item_id == "a4"
    assert bundle.rule_against("a4", RetrievalQuery(SessionView(hidden=["a4"]), options)) == "excluded"
    assert bundle.rule_against("a4", RetrievalQuery(SessionView(), options)) is None


def test_pins_beyond_the_end_of_a_short_answer_are_appended() -> None:
    one, two, three, four = (RetrievedItem(name, 0, "encoder") for name in "abcd")
    assert list(insert_pins([one, two], {2: three, 9: four}, 10)) == [one, three, two, four]
    assert list(insert_pins([], {9: four, 2: three}, 10)) == [three, four]
    assert list(insert_pins([one, two], {1: three}, 2)) == [three, one]


def test_diversity_mixes_attribute_values_and_keeps_the_best_item_first(shop: Bundle) -> None:
    plain = shop.retrieve(SessionView(["a1"]), Options(10))
    none, some = (
        shop.retrieve(SessionView(["a1"]), Options(10, diversity=weight, diversity_by="shelf"))
        for weight in (1e-9, 1.0)
    )
    shelves = [ATTRIBUTES[IDS.index(item_id)].get("shelf") for item_id in shown(some)]
    assert shown(none) == shown(plain)
    assert shown(some)[0] == shown(plain)[0]
    assert all(shelves.count(shelf) <= 2 for shelf in set(shelves) - {None})
    places = [item.details.rank for item in some.items if item.details]
    assert places != list(range(1, 11))
    ranked = shown(shop.retrieve(SessionView(["a1"]), Options(60)))
    assert [ranked[place - 1] for place in places if place] == shown(some)


def test_without_categories_diversity_lowers_the_similarity_of_vectors(shop: Bundle) -> None:
    def likeness(diversity: float) -> float:
        rows = [
            IDS.index(item_id) + 1
            for item_id in shown(shop.retrieve(SessionView(["a1"]), Options(10, diversity=diversity)))
        ]
        units = shop.vectors_N1D[rows] / np.linalg.norm(shop.vectors_N1D[rows], axis=1, keepdims=True)
        return float((units @ units.T).mean())

    assert likeness(1) < likeness(0.5) < likeness(0)


def test_diversity_uses_the_category_attribute_by_default(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path, IDS, attributes=[{"category": ["x", "y"]} if n < 58 else {"category": "z"} for n in range(60)]
    )
    diverse = bundle.retrieve(SessionView(["a1"]), Options(4, diversity=1))
    assert set(shown(diverse)) >= {"a59", "a60"}


def test_a_session_of_new_items_only_gets_items_similar_to_the_last(shop: Bundle) -> None:
    near = ItemChange("new1", 1, vector_D=2 * shop.vectors_N1D[5])
    bundle = shop.with_changes([near, ItemChange("new2", 2)])
    retrieval = bundle.retrieve(SessionView(["unknown", "new1", "new2"]), Options(60))
    assert (retrieval.items[0].item_id, retrieval.items[0].source) == ("a5", "similar")
    assert retrieval.items[0].score == pytest.approx(1)
    assert retrieval.unknown_item_ids == ("unknown",)
    assert len(retrieval.items) == retrieval.eligible == 60
    assert "new1" not in shown(retrieval)
    assert {item.source for item in bundle.retrieve(SessionView(["new2"]), Options(60)).items} == {"popular"}
    assert shown(bundle.similar("new1", Options(1))) == ["a5"]
    assert {item.source for item in bundle.similar("new2", Options(5)).items} == {"popular"}


def test_new_items_in_a_session_do_not_change_what_is_encoded(shop: Bundle) -> None:
    bundle = shop.with_changes([ItemChange("new1", 1, vector_D=shop.vectors_N1D[5])])
    options = Options(10, ["new1"])
    assert (
        bundle.retrieve(SessionView(["a1", "new1"]), options).items == shop.retrieve(SessionView(["a1"]), options).items
    )


def test_a_deleted_item_is_never_shown(shop: Bundle) -> None:
    bundle = shop.with_changes([ItemChange("a1", 1, deleted=True)])
    answers = [
        bundle.retrieve(SessionView(["a1"]), Options(60, pins=(Pin("a1", 1),))),
        bundle.similar("a2", Options(60)),
        bundle.popular(Options(60), popular_now={"a1": 1e6}),
        bundle.retrieve(SessionView(["unknown"]), Options(60, diversity=0.5)),
    ]
    assert all("a1" not in shown(answer) for answer in answers)
    assert answers[0].items[0].source == "encoder"


def test_changes_apply_to_the_exported_bundle_not_to_a_changed_one(shop: Bundle) -> None:
    once = shop.with_changes([ItemChange("new1", 3, vector_D=shop.vectors_N1D[5]), ItemChange("a1", 4, deleted=True)])
    again = once.with_changes([ItemChange("new2", 5, vector_D=shop.vectors_N1D[6])])
    assert (shop.changes_version, once.changes_version, again.changes_version) == (0, 4, 5)
    assert again.digest == shop.digest
    assert again.exported is once.exported is shop
    assert "new1" not in again.catalog
    assert set(shown(again.retrieve(SessionView(["a5"]), Options(100)))) == {*IDS, "new2"}


def test_changes_that_the_bundle_already_includes_are_skipped(shop: Bundle) -> None:
    rebuilt = replace(shop, manifest=shop.manifest.model_copy(update={"folded_changes": 4}))
    changed = rebuilt.with_changes([ItemChange("a1", 4, deleted=True), ItemChange("a2", 5, deleted=True)])
    assert set(shown(changed.popular(Options(60)))) == {*IDS} - {"a2"}
    assert changed.changes_version == 5


@pytest.mark.parametrize(
    "options",
    [
        {"pins": (Pin("a", 1), Pin("b", 1))},
        {"pins": (Pin("a", 1), Pin("a", 2))},
        {"pins": (Pin("a", 0),)},
        {"k": 3, "pins": (Pin("a", 4),)},
        {"boosts": (Boost(CONDITIONS[0][0], 2.0),) * 11},
    ],
)
def test_options_that_contradict_themselves_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"pin|boosts"):
        Options(**options)


@pytest.mark.parametrize("factor", [0, 0.001, 101, math.nan])
def test_a_boost_outside_the_bounds_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor"):
        Boost(CONDITIONS[0][0], factor)
