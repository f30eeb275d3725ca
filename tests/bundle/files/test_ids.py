"""Rows are found by ids, and ids by rows."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.bundle import BundleError, is_valid_id
from onward.bundle.files import ids as ids_module
from onward.bundle.files.ids import Ids, write_ids

VALID = st.text(min_size=1, max_size=128).filter(is_valid_id)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ids") / "ids.txt"


@given(values=st.lists(VALID, min_size=1, max_size=40, unique=True), others=st.lists(st.text(), max_size=10))
def test_every_id_maps_to_its_row_and_unknown_ids_to_none(path: Path, values: list[str], others: list[str]) -> None:
    write_ids(path, values)
    ids = Ids.load(path, len(values))
    for _ in range(2):  # looked up, then cached
        assert [ids.row(value) for value in values] == list(range(1, len(values) + 1))
        assert [ids.id_of(row) for row in range(1, len(values) + 1)] == values
    assert {ids.row(other) for other in set(others) - set(values)} <= {None}


@pytest.mark.parametrize("count", [1, 2, 3, 1_000, 70_000])
def test_similar_ids_are_distinguished_and_the_cache_stays_bounded(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids_module, "CACHED_IDS", 500)
    values = [f"item-{number}" for number in range(count)]
    write_ids(tmp_path / "ids.txt", values)
    ids = Ids.load(tmp_path / "ids.txt", count)
    assert len(ids) == count
    assert [ids.row(value) for value in values] == list(range(1, count + 1))
    assert all(ids.row(f"item-{number}") is None for number in range(count, count + 1_000))
    assert len(ids._cached_rows) <= 500


def test_ids_with_equal_hashes_are_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_module, "PRIME", 7)
    values = [f"item-{number}" for number in range(100)]
    write_ids(tmp_path / "ids.txt", values)
    ids = Ids.load(tmp_path / "ids.txt", 100)
    assert [ids.row(value) for value in values] == list(range(1, 101))
    (tmp_path / "ids.txt").write_text("".join(f"{value}\n" for value in [*values, "item-9"]))
    with pytest.raises(BundleError, match=r"^ids.txt: line 101: the id of line 10 again"):
        Ids.load(tmp_path / "ids.txt", 101)
