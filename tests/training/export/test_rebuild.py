"""A rebuild gives the current bundle another catalog or index and keeps its encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from onward.bundle import Bundle, BundleError, Options, SessionView, current_digest
from onward.bundle.catalog.live_item import read_changes
from onward.bundle.search.retrieval import Retrieval
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.export.rebuild import rebuild
from onward.training.index.kind import IndexKind

SESSION = ["item-0-1", "item-0-2"]


def ranked_ids(bundles: Path) -> list[str]:
    return [item.item_id for item in Bundle.load(bundles / "current").retrieve(SessionView(SESSION), Options(5)).items]


@pytest.mark.slow
def test_another_index_gives_the_same_results(bundles: Path) -> None:
    before, old = ranked_ids(bundles), Bundle.load(bundles / "current")
    digest = rebuild(bundles, index=IndexKind.IVF)
    new = Bundle.load(bundles / "current")
    assert current_digest(bundles) == digest == new.digest != old.digest
    assert new.manifest.index.description.startswith("IVF")
    assert ranked_ids(bundles) == before
    np.testing.assert_array_equal(new.vectors_N1D, old.vectors_N1D)
    assert new.attributes(SESSION[0]) == old.attributes(SESSION[0])
    assert (new.manifest.metrics, new.manifest.recipe) == (old.manifest.metrics, old.manifest.recipe)


def test_a_new_catalog_decides_which_items_are_recommended_and_their_attributes(
    bundles: Path, dataset: Dataset, tmp_path: Path
) -> None:
    best, second, *_ = ranked_ids(bundles)
    listed = [
        {"item_id": item, "title": f"about {item}", "available": item != second}
        for item in dataset.item_ids()
        if item != best
    ]
    catalog = tmp_path / "catalog.jsonl"
    catalog.write_text("".join(json.dumps(item) + "\n" for item in [*listed, {"item_id": "new", "title": "no vector"}]))
    notes: list[str] = []
    rebuild(bundles, items=catalog, on_note=notes.append)
    assert any("1 left out, as no trained item shares" in note for note in notes)
    after = ranked_ids(bundles)
    assert len(after) == 5
    assert {best, second}.isdisjoint(after)
    bundle = Bundle.load(bundles / "current")
    assert bundle.attributes(after[0])["title"] == f"about {after[0]}"
    assert (
        bundle.retrieve(SessionView([best]), Options(5)).items[0].source == "encoder"
    )  # still understood in a session


def test_availability_and_attributes_stay_without_a_new_catalog(
    bundles: Path, tmp_path: Path, dataset: Dataset
) -> None:
    best = ranked_ids(bundles)[0]
    items = pl.DataFrame({"item_id": dataset.item_ids()})
    items.with_columns(available=pl.col("item_id") != best, price=9.5).write_parquet(tmp_path / "items.parquet")
    rebuild(bundles, items=tmp_path / "items.parquet")
    rebuild(bundles)
    assert best not in ranked_ids(bundles)
    assert Bundle.load(bundles / "current").attributes(SESSION[0])["price"] == 9.5


def test_a_staged_rebuild_does_not_move_current(bundles: Path) -> None:
    live = current_digest(bundles)
    digest = rebuild(bundles, staged=True)
    assert current_digest(bundles) == live != digest
    assert Bundle.load(bundles / digest).digest == digest


def test_a_folder_without_a_bundle_cannot_be_rebuilt(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no current bundle; export one first"):
        rebuild(tmp_path)


def test_a_damaged_bundle_is_not_rebuilt_or_changed(bundles: Path) -> None:
    digest = current_digest(bundles)
    vectors = bundles / "current" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(BundleError, match=r"vectors\.npy"):
        rebuild(bundles)
    assert current_digest(bundles) == digest


def written(path: Path, *changes: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(change) + "\n" for change in changes))
    return path


def in_order(retrieval: Retrieval) -> list[str]:
    """Ids by score, ties by id: a new item has the same vector as the item that it is similar to."""
    return [item.item_id for item in sorted(retrieval.items, key=lambda item: (-round(item.score, 4), item.item_id))]


def test_live_changes_become_part_of_the_bundle(bundles: Path, tmp_path: Path) -> None:
    best, second, third, *_ = ranked_ids(bundles)
    old = Bundle.load(bundles / "current")
    changes = written(
        tmp_path / "changes.jsonl",
        {"item_id": best, "sequence": 10, "deleted": True},
        {"item_id": second, "sequence": 11, "available": False},
        {"item_id": third, "sequence": 12, "attributes": {"price": 4.5}},
        {"item_id": "new", "sequence": 13, "attributes": {"price": 3}, "similar_to": [third]},
    )
    vector_D = old.vectors_N1D[old.catalog.row(third) or 0]
    live_changes = [change.change(change.item_id, change.sequence, vector_D) for change in read_changes(changes)]
    live = old.with_changes(live_changes)
    rebuild(bundles, changes=changes)
    new = Bundle.load(bundles / "current")
    assert in_order(new.retrieve(SessionView(SESSION), Options(k=8))) == in_order(
        live.retrieve(SessionView(SESSION), Options(k=8))
    )
    assert (new.manifest.items, new.manifest.encoder_items) == (old.manifest.items + 1, old.manifest.items)
    assert new.manifest.folded_changes == 13
    assert new.attributes(third)["price"] == 4.5
    assert new.attributes("new") == {"price": 3}
    assert new.retrieve(SessionView(["new"]), Options(k=3)).items[0].source == "similar"
    assert new.retrieve(SessionView([best, "new"]), Options(k=3)).items[0].source == "encoder"
    assert len(new.with_changes(live_changes).catalog) == new.manifest.items

    rebuild(bundles)
    again = Bundle.load(bundles / "current")
    assert (again.manifest.items, again.manifest.folded_changes) == (new.manifest.items, 13)
    assert [item.item_id for item in again.retrieve(SessionView(SESSION), Options(k=8)).items] == [
        item.item_id for item in new.retrieve(SessionView(SESSION), Options(k=8)).items
    ]


def test_a_new_item_without_a_vector_stays_in_the_live_catalog(bundles: Path, tmp_path: Path) -> None:
    best = ranked_ids(bundles)[0]
    notes: list[str] = []
    changes = written(
        tmp_path / "changes.jsonl",
        {"item_id": "new", "sequence": 20},
        {"item_id": best, "sequence": 30, "available": False},
    )
    rebuild(bundles, changes=changes, on_note=notes.append)
    new = Bundle.load(bundles / "current")
    assert any("1 new items have no vector yet" in note for note in notes)
    assert new.manifest.folded_changes == 19
    assert "new" not in new.catalog
    assert best not in ranked_ids(bundles)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "line 2: Invalid JSON"),
        ('{"item_id": "a"}', "line 2: sequence: Field required"),
        ('{"item_id": "a\\tb", "sequence": 1}', "line 2: item_id: an id may not have U\\+0009, a control character"),
        ('{"item_id": "a", "sequence": 1, "colour": 3}', "line 2: colour: Extra inputs"),
    ],
)
def test_an_invalid_changes_file_is_an_error_that_names_the_line(
    bundles: Path, tmp_path: Path, line: str, fault: str
) -> None:
    changes = tmp_path / "changes.jsonl"
    changes.write_text('{"item_id": "a", "sequence": 1}\n' + line + "\n")
    with pytest.raises(InputError, match=f"changes.jsonl: {fault}"):
        rebuild(bundles, changes=changes)


def test_items_and_changes_cannot_be_combined(bundles: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--items and --changes"):
        rebuild(bundles, items=tmp_path, changes=tmp_path)
