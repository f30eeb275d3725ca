import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import ATTRIBUTES, BundleError, Catalog, is_valid_id

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
items = st.dictionaries(visible, st.dictionaries(visible, values, max_size=3), min_size=1, max_size=20)


def write(folder: Path, ids: list[str], *, popularity: object = None, attributes: object = None) -> Catalog:
    count = len(ids)
    Catalog.write(
        folder,
        ids,
        np.ones(count + 1) if popularity is None else np.array(popularity),
        [{}] * count if attributes is None else attributes,  # type: ignore[arg-type]  # wrong ones are refused
        np.ones(count + 1, dtype=np.bool_),
    )
    return Catalog.load(folder, count)


@given(items=items)
def test_ids_and_attributes_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, items: dict[str, dict[str, object]]
) -> None:
    catalog = write(tmp_path_factory.mktemp("catalog"), list(items), attributes=items.values())
    for row, (item_id, attributes) in enumerate(items.items(), start=1):
        assert (catalog.row(item_id), catalog.item_id(row), catalog.attributes(row)) == (row, item_id, attributes)


def test_ids_that_look_alike_are_different_items(tmp_path: Path) -> None:
    catalog = write(tmp_path, ["\u00e9", "e\u0301", "E\u0301"])
    assert [catalog.row(item_id) for item_id in ("\u00e9", "e\u0301", "E\u0301")] == [1, 2, 3]


@given(st.text(min_size=1, max_size=130))
def test_an_id_is_1_to_128_visible_characters(value: str) -> None:
    visible = all(unicodedata.category(character)[0] not in "CZ" for character in value)
    assert is_valid_id(value) == (visible and len(value) <= 128)


@pytest.mark.parametrize("value", ["", "a b", "a\n", "\x00", "\u200b", "\u2028", "\ud800", "x" * 129])
def test_what_cannot_be_seen_is_no_id(value: str) -> None:
    assert not is_valid_id(value)


@pytest.mark.parametrize("ids", [["a", "a"], ["a", "b c"], ["a", ""]])
def test_unusable_ids_are_not_written(tmp_path: Path, ids: list[str]) -> None:
    with pytest.raises(BundleError, match=r"^ids.txt: line 2: "):
        write(tmp_path, ids)


@pytest.mark.parametrize("popularity", [[0, 1], [0, 1, -1], [0, 1, float("nan")]])
def test_unusable_popularity_is_not_written(tmp_path: Path, popularity: list[float]) -> None:
    with pytest.raises(BundleError, match=r"^popularity.npy: "):
        write(tmp_path, ["a", "b"], popularity=popularity)


@pytest.mark.parametrize("attributes", [[{}], [{}, {}, {}], [{}, {"price": float("inf")}], [{}, {"tags": {1}}]])
def test_unusable_attributes_are_not_written(tmp_path: Path, attributes: list[object]) -> None:
    with pytest.raises(BundleError, match=r"^attributes.jsonl: "):
        write(tmp_path, ["a", "b"], attributes=attributes)


def test_attributes_that_are_not_one_object_at_each_offset_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"], attributes=[{"price": 1}, {"price": 2}])
    content = (tmp_path / ATTRIBUTES).read_bytes()
    (tmp_path / ATTRIBUTES).write_bytes(content.replace(b'\n{"price":2}', b'{\n"price":2}'))
    with pytest.raises(BundleError, match=r"^attributes.jsonl: not one JSON object a line"):
        Catalog.load(tmp_path, 2)
    assert json.loads(content.splitlines()[1]) == {"price": 2}


def test_the_most_popular_come_first_and_the_earlier_row_where_they_tie(tmp_path: Path) -> None:
    assert write(tmp_path, ["a", "b", "c"], popularity=[9, 1, 5, 1]).most_popular_rows.tolist() == [2, 1, 3]
