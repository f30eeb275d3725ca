"""A rebuild gives the current bundle another catalog or index, and leaves its encoder as it is."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from service.bundle import Bundle, BundleError, Options, Seen, current_digest
from training.data.dataset import Dataset
from training.errors import InputError
from training.index_kind import IndexKind
from training.rebuild import rebuild

SESSION = ["item-0-1", "item-0-2"]


def answer(bundles: Path) -> list[str]:
    return [item.item_id for item in Bundle.load(bundles / "current").retrieve(Seen(SESSION), Options(5)).items]


def test_another_index_gives_the_same_answers(bundles: Path) -> None:
    before, old = answer(bundles), Bundle.load(bundles / "current")
    digest = rebuild(bundles, index=IndexKind.IVF)
    new = Bundle.load(bundles / "current")
    assert current_digest(bundles) == digest == new.digest != old.digest
    assert new.manifest.index.description.startswith("IVF")
    assert answer(bundles) == before
    np.testing.assert_array_equal(new.vectors_N1D, old.vectors_N1D)
    assert new.attributes(SESSION[0]) == old.attributes(SESSION[0])
    assert (new.manifest.metrics, new.manifest.recipe) == (old.manifest.metrics, old.manifest.recipe)


def test_a_new_catalog_says_what_is_recommended_and_known(bundles: Path, dataset: Dataset, tmp_path: Path) -> None:
    best, second, *_ = answer(bundles)
    listed = [
        {"item_id": item, "title": f"about {item}", "available": item != second}
        for item in dataset.item_ids()
        if item != best
    ]
    catalog = tmp_path / "catalog.jsonl"
    catalog.write_text("".join(json.dumps(item) + "\n" for item in [*listed, {"item_id": "new", "title": "no vector"}]))
    told: list[str] = []
    rebuild(bundles, items=catalog, on_step=told.append)
    assert any("1 items of the catalog have no vector" in step for step in told)
    after = answer(bundles)
    assert len(after) == 5
    assert {best, second}.isdisjoint(after)
    bundle = Bundle.load(bundles / "current")
    assert bundle.attributes(after[0])["title"] == f"about {after[0]}"
    assert bundle.retrieve(Seen([best]), Options(5)).items[0].source == "encoder"  # still understood in a session


def test_availability_and_attributes_stay_without_a_new_catalog(
    bundles: Path, tmp_path: Path, dataset: Dataset
) -> None:
    best = answer(bundles)[0]
    items = pl.DataFrame({"item_id": dataset.item_ids()})
    items.with_columns(available=pl.col("item_id") != best, price=9.5).write_parquet(tmp_path / "items.parquet")
    rebuild(bundles, items=tmp_path / "items.parquet")
    rebuild(bundles)
    assert best not in answer(bundles)
    assert Bundle.load(bundles / "current").attributes(SESSION[0])["price"] == 9.5


def test_there_is_nothing_to_rebuild_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no current bundle; export one first"):
        rebuild(tmp_path)


def test_a_damaged_bundle_is_not_rebuilt_and_stays_as_it_is(bundles: Path) -> None:
    digest = current_digest(bundles)
    vectors = bundles / "current" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(BundleError, match=r"vectors\.npy"):
        rebuild(bundles)
    assert current_digest(bundles) == digest
