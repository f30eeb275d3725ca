"""Changes that are applied one batch after another give what all of them give at once, in every catalog of the way."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.bundle import Bundle, Catalog
from onward.bundle.catalog import attribute_logs, overlay, overlay_columns
from onward.bundle.catalog.filters import Filter
from onward.bundle.files.changes import ItemChange
from onward.bundle.search.retrieval import Boost, Options, SessionView
from tests.bundle.conditions import conditions, patches
from tests.bundles import item_ids, make_bundle

IDS = item_ids("a", 40)
NEW_IDS = item_ids("new", 6)
ATTRIBUTES: list[dict[str, Any]] = [
    {"price": number % 7, "brand": f"b{number % 3}", "tags": ["x", "y"][: number % 3]} for number in range(40)
]
SALE = Filter.model_validate({"attribute": "sale", "equals": True})
CHEAP = Filter.model_validate({"attribute": "price", "range": {"max": 3}})
TAGGED = Filter.model_validate(
    {"or": [{"attribute": "tags", "equals": "x"}, {"not": {"attribute": "brand", "in": ["b1"]}}]}
)
FILTERS = (SALE, CHEAP, TAGGED)
random = np.random.default_rng(3)
VECTORS = random.normal(size=(8, 12)).astype(np.float32)

more_patches = st.fixed_dictionaries(
    {},
    optional={
        "price": st.none() | st.integers(0, 6),
        "brand": st.sampled_from(["b0", "b1", "b9"]),
        "tags": st.lists(st.sampled_from("xyz"), max_size=3),
        "sale": st.none() | st.booleans() | st.just("yes"),
        "since": st.sampled_from(["2020-01-01", "once"]),
    },
)


def a_change(attributes: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "item_id": st.sampled_from([*IDS[:8], *NEW_IDS]),
            "age": st.sampled_from([0, 0, 0, 0, 0, 0, 0, 7]),
            "attributes": attributes,
            "available": st.sampled_from([None, None, None, True, False]),
            "deleted": st.sampled_from([False, False, False, True]),
            "vector": st.none() | st.integers(0, len(VECTORS) - 1),
        }
    )


def batches_of(attributes: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[ItemChange]]]:
    return st.lists(st.lists(a_change(attributes), min_size=1, max_size=5), min_size=1, max_size=9).map(numbered)


def numbered(batches: Sequence[Sequence[dict[str, Any]]]) -> list[list[ItemChange]]:
    """Give changes growing sequences, but for those that come late."""
    sequences = itertools.count(10)
    return [
        [
            ItemChange(
                drawn["item_id"],
                next(sequences) - drawn["age"],
                drawn["attributes"],
                drawn["available"],
                drawn["deleted"],
                None if drawn["vector"] is None else VECTORS[drawn["vector"]],
            )
            for drawn in batch
        ]
        for batch in batches
    ]


@pytest.fixture(scope="module", params=["Flat", "IVF4,Flat"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    index = request.param
    folder = tmp_path_factory.mktemp("bundle")
    return make_bundle(folder, IDS, attributes=ATTRIBUTES, index=index, nprobe=None if index == "Flat" else 2)


@pytest.fixture(autouse=True, params=["small", "usual"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what happens after many changes happen after a few, and what happens for large catalogs here."""
    if request.param == "small":
        monkeypatch.setattr(overlay, "REMEMBERED_ROWS", 6)
        monkeypatch.setattr(overlay, "REMEMBERED_VERSIONS", 3)
        monkeypatch.setattr(overlay, "LEAST_DEAD_ROWS", 1)
        monkeypatch.setattr(attribute_logs, "LEAST_COMPACTED", 4)
        monkeypatch.setattr(overlay_columns, "SEARCHED_SHARE", 1)


def rows_of(catalog: Catalog) -> list[int]:
    new_rows = [catalog.row(change.item_id) for change in catalog.new_items]
    return [*range(1, catalog.items + 1), *(row for row in new_rows if row is not None)]


def view(bundle: Bundle, filters: Iterable[Filter] = FILTERS) -> dict[str, Any]:
    """Return all that can be seen of a bundle's items."""
    catalog, rows = bundle.catalog, rows_of(bundle.catalog)
    ids = catalog.item_ids(rows)
    eligible = {condition.key: catalog.eligible(condition) for condition in filters} | {"": catalog.eligible()}
    boosts = tuple(Boost(condition, 2.0 + place) for place, condition in enumerate(FILTERS))
    levels = bundle.boost_levels.of(CHEAP, boosts)
    every_id = [*IDS, *NEW_IDS]
    index_items = range(1, catalog.items + 1)
    return {
        "ids": ids,
        "rows": [catalog.row(item_id) is not None for item_id in every_id],
        "attributes": [dict(catalog.attributes(row)) for row in rows],
        "texts": catalog.texts(ids),
        "schema": dict(catalog.schema),
        "deleted": [item_id for item_id in every_id if catalog.is_deleted(item_id)],
        "changed": [item_id for item_id in every_id if catalog.is_changed(item_id)],
        "changed rows": catalog.item_ids(catalog.changed_rows.tolist()),
        "without vector": [item_id for item_id in every_id if catalog.lacks_vector(item_id)],
        "vectors": bundle.index.vectors(np.array(rows)).tolist(),
        "eligible": {key: catalog.item_ids(some.selected.tolist()) for key, some in eligible.items()},
        "counts": {key: (some.count, some.indexed_count) for key, some in eligible.items()},
        "selected": {
            key: [row for row in index_items if some.selector.is_member(row - 1)] for key, some in eligible.items()
        },
        "popular": {key: catalog.item_ids(catalog.most_popular(some, 50).tolist()) for key, some in eligible.items()},
        "levels": [catalog.item_ids(level.selected.tolist()) for level in levels.eligible],
        "log boosts": levels.log_boost(np.array(rows)).tolist(),
        "version": bundle.changes_version,
        "recent": bundle.popular(Options(9), popular_now=RECENT).items.item_ids,
    }


RECENT = {"a3": 9.0, "new1": 8.0, "a39": 7.0, "new4": 6.0, "unknown": 5.0}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches_of(more_patches), data=st.data())
def test_changes_applied_in_batches_equal_all_changes_at_once(
    exported: Bundle, batches: list[list[ItemChange]], data: st.DataObject
) -> None:
    bundle, seen, applied = exported, [], []
    for batch in batches:
        bundle = bundle.with_further_changes(batch)
        applied += batch
        if data.draw(st.booleans()):  # so that masks are brought up to date over one version, and over several
            seen.append((bundle, view(bundle), list(applied)))
    before = view(exported)
    for changed, expected, changes in [*seen, (bundle, view(bundle), applied)]:
        assert view(changed) == expected  # whatever came after it
        at_once = view(exported.with_changes(changes))
        assert at_once | {"version": expected["version"]} == expected
    assert view(exported) == before


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches_of(patches), filters=st.lists(conditions, min_size=1, max_size=3))
def test_any_filter_of_any_values_passes_the_same_items(
    exported: Bundle, batches: list[list[ItemChange]], filters: list[dict[str, Any]]
) -> None:
    parsed = [Filter.model_validate(condition) for condition in filters]
    bundle = exported
    for batch in batches:
        bundle = bundle.with_further_changes(batch)
        for condition in parsed[:2]:
            bundle.catalog.eligible(condition)
    applied = [change for batch in batches for change in batch]
    expected = view(exported.with_changes(applied), parsed)
    assert view(bundle, parsed) | {"version": expected["version"]} == expected


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches_of(more_patches), boosts=st.booleans(), exact=st.booleans())
def test_answers_are_the_same(exported: Bundle, batches: list[list[ItemChange]], *, boosts: bool, exact: bool) -> None:
    options = Options(
        len(IDS) + len(NEW_IDS),
        filter=TAGGED,
        boosts=(Boost(CHEAP, 3.0), Boost(SALE, 0.5)) if boosts else (),
        exact=exact,
        exclude=["a9"],
    )
    sessions = [SessionView(["a1", "a2"]), SessionView(["new1"]), SessionView(["a5", "new2", "nobody"])]
    bundle = exported
    for batch in batches:
        bundle = bundle.with_further_changes(batch)
        bundle.retrieve(sessions[0], options)
    at_once = exported.with_changes([change for batch in batches for change in batch])
    for session in sessions:
        one, other = (some.retrieve(session, options) for some in (bundle, at_once))
        # Items of equal vectors change places by the rounding of their scores.
        scores = [dict(zip(some.items.item_ids, some.items.scores, strict=True)) for some in (one, other)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-4, abs=1e-5)
        assert (one.eligible, one.unknown_item_ids) == (other.eligible, other.unknown_item_ids)


def test_another_branch_of_changes_leaves_the_first_one_as_it_is(exported: Bundle) -> None:
    one = exported.with_further_changes([ItemChange("a1", 1, {"sale": True}), ItemChange("new1", 2, {"sale": True})])
    two = one.with_further_changes([ItemChange("a2", 3, {"sale": True})])
    other = one.with_further_changes([ItemChange("a3", 3, {"sale": True}), ItemChange("a1", 4, deleted=True)])
    sale = [
        bundle.catalog.item_ids(np.flatnonzero(bundle.catalog.eligible(SALE).rows_R1).tolist())
        for bundle in (exported, one, two, other)
    ]
    assert sale == [[], ["a1"], ["a1", "a2"], ["a3"]]
    assert two.catalog.texts(["a1"]) != other.catalog.texts(["a3"])


def test_a_filter_whose_rows_did_not_change_keeps_its_rows(exported: Bundle) -> None:
    before = exported.with_further_changes([ItemChange("a1", 1, {"price": 2})])
    cheap = before.catalog.eligible(CHEAP)
    after = before.with_further_changes([ItemChange("a1", 2, {"price": 3})])
    assert after.catalog.eligible() is before.catalog.eligible()
    assert after.catalog.eligible(CHEAP) is cheap
    later = after.with_further_changes([ItemChange("a1", 3, {"price": 4})])
    assert later.catalog.eligible(CHEAP).count == cheap.count - 1


def test_pauses_are_made_between_a_few_changes(exported: Bundle) -> None:
    pauses: list[int] = []
    exported.with_further_changes(
        [ItemChange(item_id, number, {"price": 1}) for number, item_id in enumerate(IDS, start=1)],
        pause=lambda: pauses.append(1),
    )
    assert len(pauses) >= len(IDS) // overlay.PAUSE_AFTER


def test_changes_whose_application_failed_are_applied_anew(exported: Bundle) -> None:
    first = exported.with_further_changes([ItemChange("a1", 1, {"price": 1})])
    with pytest.raises(ValueError, match="unmarshallable"):
        first.with_further_changes([ItemChange("a2", 2, {"price": object()})])
    second = first.with_further_changes([ItemChange("a3", 3, {"price": 1})])
    expected = view(exported.with_changes([ItemChange("a1", 1, {"price": 1}), ItemChange("a3", 3, {"price": 1})]))
    assert view(second) == expected


def test_the_memory_of_a_changed_item_is_that_of_its_text_and_values(tmp_path: Path) -> None:
    ids = item_ids("item-", 4_000)
    bundle = make_bundle(tmp_path, ids, attributes=[{"price": 1.0}] * len(ids))
    changed = bundle.with_changes(
        [ItemChange(item_id, 10**15 + n, {"price": n + 0.5}) for n, item_id in enumerate(ids)]
    )
    state = changed.catalog._overlay
    assert (
        state.edits.nbytes + sum(log.rows_E.nbytes + log.numbers_E.nbytes for log in state.logs.values()) < 100 * 4_000
    )
