import gc
import json
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onward.bundle import (
    ATTRIBUTES,
    MANIFEST,
    Bundle,
    BundleError,
    Catalog,
    read_manifest,
    write_manifest,
)
from onward.bundle.catalog.filters import Filter
from onward.bundle.files.attributes import Columns, infer_schema
from onward.bundle.files.changes import ItemChange
from tests.bundle.conditions import attributes as some_attributes
from tests.bundle.conditions import conditions, holds, patches
from tests.bundles import make_bundle

visible = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=128)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | visible,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(visible, inner, max_size=3),
    max_leaves=5,
)
items_of_any_kind = st.dictionaries(visible, st.dictionaries(visible, values, max_size=3), min_size=1, max_size=20)


def write(
    folder: Path, ids: list[str], *, popularity: object = None, attributes: object = None, available: object = None
) -> Catalog:
    count = len(ids)
    Catalog.write(
        folder,
        ids,
        np.ones(count + 1) if popularity is None else np.array(popularity),
        [{}] * count if attributes is None else attributes,  # type: ignore[arg-type]  # wrong ones are refused
        np.ones(count + 1, dtype=np.bool_) if available is None else np.array(available),
    )
    return Catalog.load(folder, count)


@given(items=items_of_any_kind)
def test_ids_and_attributes_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, items: dict[str, dict[str, object]]
) -> None:
    catalog = write(tmp_path_factory.mktemp("catalog"), list(items), attributes=items.values())
    for row, (item_id, attributes) in enumerate(items.items(), start=1):
        assert (catalog.row(item_id), catalog.item_id(row), catalog.attributes(row)) == (row, item_id, attributes)


def test_ids_that_look_alike_are_different_items(tmp_path: Path) -> None:
    catalog = write(tmp_path, ["\u00e9", "e\u0301", "E\u0301"])
    assert [catalog.row(item_id) for item_id in ("\u00e9", "e\u0301", "E\u0301")] == [1, 2, 3]


@pytest.mark.parametrize("ids", [["a", "a"], ["a", "b\tc"], ["a", ""], ["\u00e9", "b\u2028"]])
def test_invalid_ids_are_not_written(tmp_path: Path, ids: list[str]) -> None:
    with pytest.raises(BundleError, match=r"^ids.txt: line 2: "):
        write(tmp_path, ids)


@pytest.mark.parametrize("popularity", [[0, 1], [0, 1, -1], [0, 1, float("nan")]])
def test_invalid_popularity_is_not_written(tmp_path: Path, popularity: list[float]) -> None:
    with pytest.raises(BundleError, match=r"^popularity.npy: "):
        write(tmp_path, ["a", "b"], popularity=popularity)


@pytest.mark.parametrize("attributes", [[{}], [{}, {}, {}], [{}, {"price": float("inf")}], [{}, {"tags": {1}}]])
def test_invalid_attributes_are_not_written(tmp_path: Path, attributes: list[object]) -> None:
    with pytest.raises(BundleError, match=r"^attributes.jsonl: "):
        write(tmp_path, ["a", "b"], attributes=attributes)


def test_attributes_that_are_not_one_object_at_each_offset_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"], attributes=[{"price": 1}, {"price": 2}])
    content = (tmp_path / ATTRIBUTES).read_bytes()
    (tmp_path / ATTRIBUTES).write_bytes(content.replace(b'\n{"price":2}', b'{\n"price":2}'))
    with pytest.raises(BundleError, match=r"^attributes.jsonl: not one JSON object a line"):
        Catalog.load(tmp_path, 2)
    assert json.loads(content.splitlines()[1]) == {"price": 2}


def test_ties_in_popularity_are_broken_by_the_smaller_row(tmp_path: Path) -> None:
    assert write(tmp_path, ["a", "b", "c"], popularity=[9, 1, 5, 1]).most_popular_rows.tolist() == [2, 1, 3]


VECTOR = np.ones(3, dtype=np.float32)
STORED_IDS, NEW_IDS = ["a", "b", "c", "d"], ["w", "x", "y", "z"]
rows_of_files = st.lists(st.tuples(some_attributes, st.booleans()), min_size=4, max_size=4)
changes = st.lists(
    st.builds(
        ItemChange,
        item_id=st.sampled_from(STORED_IDS + NEW_IDS),
        sequence=st.integers(1, 12),
        attributes=patches,
        available=st.none() | st.booleans(),
        deleted=st.booleans(),
        vector_D=st.none() | st.just(VECTOR),
    ),
    max_size=10,
)


def rows_of(catalog: Catalog) -> list[int]:
    """Return the rows that are an item's."""
    new_rows = [catalog.row(change.item_id) for change in catalog.new_items]
    return [*range(1, catalog.items + 1), *(row for row in new_rows if row is not None)]


class Expected:
    """Reference implementation of a catalog after changes."""

    def __init__(self, files: Sequence[tuple[Mapping[str, Any], bool]], changes: Sequence[ItemChange]) -> None:
        newest: dict[str, ItemChange] = {}
        for change in changes:
            if change.item_id not in newest or newest[change.item_id].sequence <= change.sequence:
                newest[change.item_id] = change
        new = [change for change in newest.values() if change.item_id in NEW_IDS and not change.deleted]
        new.sort(key=lambda change: (change.sequence, change.item_id))
        self.ids = STORED_IDS + [change.item_id for change in new]
        before: dict[str, tuple[Mapping[str, Any], bool]] = dict(zip(STORED_IDS, files, strict=True))
        before |= {change.item_id: ({}, change.vector_D is not None) for change in new}
        self.attributes: list[dict[str, Any]] = []
        self.available: list[bool] = []
        for item_id in self.ids:
            attributes, available = before[item_id]
            change = newest.get(item_id, ItemChange(item_id, 0))
            explicit = {} if change.available is None else {"available": change.available}
            after = {**attributes, **change.attributes, **explicit}
            self.attributes.append(without_nulls(after))
            wanted = available if change.available is None else change.available
            self.available.append(wanted and not change.deleted and (item_id in STORED_IDS or available))
        stored_schema = infer_schema(attributes for attributes, _ in files)
        self.schema = infer_schema(self.attributes, known=stored_schema)

    def shown(self, condition: Mapping[str, Any]) -> list[str]:
        rows = zip(self.ids, self.attributes, self.available, strict=True)
        return [item_id for item_id, item, available in rows if available and holds(condition, item, self.schema)]


def without_nulls(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def shown(catalog: Catalog, condition: Mapping[str, Any]) -> list[str]:
    eligible = catalog.eligible(Filter.model_validate(condition))
    assert eligible.count == len(eligible.selected)
    return [catalog.item_id(row) for row in eligible.selected.tolist()]


@given(
    files=rows_of_files, changes=changes, cut=st.integers(0, 10), filters=st.lists(conditions, min_size=1, max_size=3)
)
def test_a_changed_catalog_equals_a_reference_implementation(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[dict[str, Any], bool]],
    changes: list[ItemChange],
    cut: int,
    filters: list[dict[str, Any]],
) -> None:
    folder = tmp_path_factory.mktemp("catalog")
    available = [False, *(available for _, available in files)]
    catalog = write(folder, STORED_IDS, attributes=[attributes for attributes, _ in files], available=available)
    first = catalog.changed(changes[:cut])
    for changed, expected in (
        (catalog, Expected(files, [])),
        (first, Expected(files, changes[:cut])),
        (first.changed(changes[cut:]), Expected(files, changes)),
        (catalog.changed(changes), Expected(files, changes)),
        (catalog, Expected(files, [])),
    ):
        rows = rows_of(changed)
        assert [changed.item_id(row) for row in rows] == expected.ids
        assert [changed.row(item_id) for item_id in expected.ids] == list(rows)
        assert [without_nulls(changed.attributes(row)) for row in rows] == expected.attributes
        assert changed.schema == expected.schema
        assert changed.eligible().selected.tolist() == [
            row for row, available in zip(rows, expected.available, strict=True) if available
        ]
        for condition in filters:
            assert shown(changed, condition) == expected.shown(condition)
            assert shown(changed, {"not": condition}) == expected.shown({"not": condition})


@given(files=rows_of_files, changes=changes, random=st.randoms(use_true_random=False))
def test_the_order_in_which_changes_of_different_times_arrive_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[dict[str, Any], bool]],
    changes: list[ItemChange],
    random: Any,
) -> None:
    catalog = write(tmp_path_factory.mktemp("catalog"), STORED_IDS, attributes=[attributes for attributes, _ in files])
    distinct = list({change.sequence: change for change in changes}.values())
    in_order = catalog.changed(sorted(distinct, key=lambda change: change.sequence))
    random.shuffle(distinct)
    one_by_one = catalog
    for change in distinct:
        one_by_one = one_by_one.changed([change])
    rows = rows_of(one_by_one), rows_of(in_order)
    for read in (Catalog.item_id, Catalog.attributes, lambda catalog, row: catalog.eligible().rows_R1[row]):
        one, other = (
            [read(catalog, row) for row in some] for catalog, some in zip((one_by_one, in_order), rows, strict=True)
        )
        assert one == other


def test_a_deleted_item_keeps_its_row_and_a_deleted_new_item_has_none(tmp_path: Path) -> None:
    catalog = write(tmp_path, ["a", "b"]).changed(
        [
            ItemChange("a", 1, deleted=True),
            ItemChange("x", 2, vector_D=VECTOR),
            ItemChange("y", 3, vector_D=VECTOR, deleted=True),
        ]
    )
    assert (catalog.row("a"), catalog.row("x"), catalog.row("y"), catalog.row("z")) == (1, 3, None, None)
    assert [catalog.is_deleted(item_id) for item_id in "abxyz"] == [True, False, False, True, False]
    assert catalog.eligible().selected.tolist() == [2, 3]


def test_a_deleted_item_that_is_restored_is_shown_again(tmp_path: Path) -> None:
    catalog = write(tmp_path, ["a"]).changed([ItemChange("a", 1, deleted=True)]).changed([ItemChange("a", 2)])
    assert catalog.eligible().selected.tolist() == [1]
    assert not catalog.is_deleted("a")


def test_a_new_item_is_not_shown_before_it_has_a_vector(tmp_path: Path) -> None:
    catalog = write(tmp_path, ["a"]).changed([ItemChange("x", 1, {"price": 1}), ItemChange("y", 2, vector_D=VECTOR)])
    assert (catalog.row("x"), catalog.attributes(2)) == (2, {"price": 1})
    assert catalog.eligible().selected.tolist() == [1, 3]
    assert catalog.new_vectors_MD(3).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert catalog.changed([ItemChange("x", 3, {"price": 1}, vector_D=VECTOR)]).eligible().count == 3


def test_a_changed_availability_also_changes_the_attribute(tmp_path: Path) -> None:
    catalog = write(tmp_path, ["a", "b"], attributes=[{"available": True}, {}])
    changed = catalog.changed([ItemChange("a", 1, available=False), ItemChange("b", 2, available=False)])
    assert [changed.attributes(row) for row in (1, 2)] == [{"available": False}] * 2
    assert changed.eligible().count == 0
    assert catalog.eligible().count == 2


def test_a_filter_may_use_an_attribute_that_a_change_added(tmp_path: Path) -> None:
    condition = {"attribute": "sale", "equals": True}
    catalog = write(tmp_path, ["a", "b"], attributes=[{"price": 1}, {"price": 2}])
    changed = catalog.changed([ItemChange("b", 1, {"sale": True})])
    assert [fault.path for fault in Filter.model_validate(condition).check(catalog.schema)] == [("attribute",)]
    assert Filter.model_validate(condition).check(changed.schema) == []
    assert (shown(catalog, condition), shown(changed, condition)) == ([], ["b"])


def test_the_stored_schema_is_used_and_values_of_another_kind_match_nothing(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"], attributes=[{"price": 1}, {"price": "1"}])
    catalog = Catalog.load(tmp_path, 2, {"price": "number"})
    assert catalog.schema == {"price": "number"}
    assert shown(catalog, {"attribute": "price", "in": [1, "1"]}) == ["a"]
    assert shown(catalog, {"attribute": "price", "exists": True}) == ["a", "b"]


def test_eligible_rows_of_a_filter_are_cached(tmp_path: Path) -> None:
    catalog = write(tmp_path, ["a"], attributes=[{"price": 1}])
    filters = [Filter.model_validate({"attribute": "price", "equals": 1}) for _ in range(2)]
    assert catalog.eligible(filters[0]) is catalog.eligible(filters[1])
    assert catalog.eligible() is catalog.eligible()


def test_an_unreferenced_catalog_is_freed_without_garbage_collection(tmp_path: Path) -> None:
    catalog = write(tmp_path, ["a"], attributes=[{"price": 1}])
    changed = catalog.changed([ItemChange("a", 1, {"price": 2}), ItemChange("x", 2, vector_D=VECTOR)])
    for read in (catalog, changed):
        assert shown(read, {"attribute": "price", "range": {"min": 0}})
    held: list[weakref.ref[Any]] = [weakref.ref(catalog), weakref.ref(changed), weakref.ref(changed._stored)]
    gc.disable()
    try:
        del catalog, changed, read
        assert [reference() for reference in held] == [None] * 3
    finally:
        gc.enable()


def test_concurrent_threads_get_the_same_rows(tmp_path: Path) -> None:
    ids = [f"a{number}" for number in range(2_000)]
    catalog = write(tmp_path, ids, attributes=[{"price": number, "brand": f"b{number % 7}"} for number in range(2_000)])
    filters = [
        Filter.model_validate(
            {"and": [{"attribute": "price", "range": {"min": low}}, {"attribute": "brand", "equals": "b3"}]}
        )
        for low in range(0, 2_000, 20)
    ]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda condition: catalog.eligible(condition).count, filters * 2))
    assert (
        counts == [sum(number >= low and number % 7 == 3 for number in range(2_000)) for low in range(0, 2_000, 20)] * 2
    )


@pytest.mark.parametrize("items", [50, 9_000])
def test_eligible_rows_are_ordered_by_popularity_with_new_items_last(tmp_path: Path, items: int) -> None:
    ids = [f"a{number}" for number in range(items)]
    popularity = np.random.default_rng(0).integers(0, items // 5, items + 1).astype(np.float32)
    catalog = write(
        tmp_path, ids, popularity=popularity, attributes=[{"price": number % 10} for number in range(items)]
    ).changed([ItemChange("a7", 1, available=False), ItemChange("x", 2, {"price": 9}, vector_D=VECTOR)])
    for low in (0, 5, 9):
        eligible = catalog.eligible(Filter.model_validate({"attribute": "price", "range": {"min": low}}))
        hidden = set(eligible.selected[::3].tolist())
        by_the_rule = sorted(
            (row for row in eligible.selected.tolist() if row not in hidden),
            key=lambda row: (-popularity[row] if row <= items else 0, row),
        )
        for k in (1, 20, items + 1):
            found = catalog.most_popular(eligible, k, hidden_rows=hidden)
            assert found.tolist() == list(islice(by_the_rule, k))
            assert catalog.popularity(found).tolist() == [popularity[row] if row <= items else 0 for row in found]


def test_a_manifest_stores_the_schema_and_an_older_one_is_read_without_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"attributes": [{"price": number, "launched": "2026-01-01"} for number in range(9)]}
    bundle = make_bundle(tmp_path, [f"a{number}" for number in range(9)], **options)
    assert bundle.manifest.attributes == bundle.catalog.schema == {"price": "number", "launched": "date"}
    content = json.loads((tmp_path / MANIFEST).read_text())
    del content["attributes"], content["folded_changes"]
    for name in [name for name in content["files"] if name.startswith("attribute_")]:
        del content["files"][name]
        (tmp_path / name).unlink()
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    older = Bundle.load(tmp_path)
    assert (older.manifest.attributes, older.catalog.schema) == ({}, bundle.catalog.schema)
    assert shown(older.catalog, {"attribute": "price", "range": {"above": 6}}) == ["a7", "a8"]


ATTRIBUTES_OF_ALL_KINDS: list[dict[str, Any]] = [
    {"price": 3.5, "brand": "Acme", "tags": ["a", "b"], "new": True, "launched": "2026-01-01", "any": 1},
    {"price": 7, "brand": "Apex", "tags": [], "new": False, "launched": "2026-02-01T10:00:00Z", "any": "x"},
    {},
]


def test_stored_columns_equal_those_built_from_the_items(tmp_path: Path) -> None:
    stored = write(tmp_path, ["a", "b", "c"], attributes=ATTRIBUTES_OF_ALL_KINDS)
    schema = dict(stored.schema)
    of_files = Catalog.load(tmp_path, 3, schema).columns
    of_items = Columns(schema, 4, lambda: enumerate(ATTRIBUTES_OF_ALL_KINDS, start=1))
    assert set(of_files._columns) == set(schema) == set(ATTRIBUTES_OF_ALL_KINDS[0])
    for name in schema:
        assert of_files[name].kind == of_items[name].kind
        for part in ("present_R", "values_V", "rows_V"):
            np.testing.assert_array_equal(getattr(of_files[name], part), getattr(of_items[name], part))
            assert getattr(of_files[name], part).dtype == getattr(of_items[name], part).dtype


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("attribute_0_rows.npy", np.array([0], dtype=np.int32)),
        ("attribute_0_rows.npy", np.array([1, 4], dtype=np.int32)),
        ("attribute_0_rows.npy", np.array([[1, 2]], dtype=np.int32)),
        ("attribute_0_values.npy", np.zeros(3)),
        ("attribute_0_values.npy", np.zeros(2, dtype=np.int64)),
        ("attribute_0_present.npy", np.zeros(3, dtype=np.bool_)),
    ],
)
def test_invalid_stored_columns_are_refused(tmp_path: Path, name: str, array: NDArray[np.generic]) -> None:
    write(tmp_path, ["a", "b", "c"], attributes=[{"price": 1}, {"price": 2}, {}])
    np.save(tmp_path / name, array)
    with pytest.raises(BundleError, match=f"^{name[:12]}"):
        Catalog.load(tmp_path, 3, {"price": "number"})


def test_a_bundle_has_all_columns_or_none(tmp_path: Path) -> None:
    make_bundle(tmp_path, [f"a{number}" for number in range(9)], attributes=[{"price": 1} for _ in range(9)])
    (tmp_path / "attribute_0_rows.npy").unlink()
    with pytest.raises(BundleError, match=r"^attribute_0_rows.npy: missing"):
        write_manifest(tmp_path, read_manifest(tmp_path)[0])
