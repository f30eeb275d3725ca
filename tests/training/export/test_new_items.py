"""Products that training does not know get the vectors that the live catalog would give them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.bundle import Bundle, Filter, Options, SessionView
from onward.bundle.catalog.cold_start import ColdItem, ColdStart
from onward.training.data.dataset import NEW_ITEMS_FILE, Dataset
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.session_index import index_sessions, with_items
from onward.training.export.export import export
from onward.training.export.new_items import MOST_PLACES, PLACES, fair_length
from onward.training.export.rebuild import rebuild
from onward.training.recipe import Recipe
from onward.training.trainer import train
from tests.training.conftest import AROUND, CIRCLES, walks
from tests.training.corpora import sessions

NEW: list[dict[str, Any]] = [
    {"item_id": "new-1", "circle": "2", "price": 4.0, "available": True},
    {"item_id": "new-2", "circle": "3", "price": 1.5, "available": None},
    {"item_id": "hidden", "circle": "2", "price": 4.0, "available": False},
    {"item_id": "bare"},
    {"item_id": "alone", "circle": "nowhere", "price": 4.0},
]
NOTE = (
    "3 products that training does not know got a vector from items that share their attributes; 1 left out, as they "
    "have no attributes; 1 left out, as no trained item shares a text, list entry or boolean with them that is not "
    "common to most"
)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    known = [
        {"item_id": f"item-{circle}-{place}", "circle": str(circle), "price": float(place), "available": True}
        for circle in range(CIRCLES)
        for place in range(AROUND)
    ]
    path = tmp_path_factory.mktemp("products") / "products.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in [*known, *NEW]))
    return path


@pytest.fixture(scope="module")
def new_run(recipe: Recipe, products: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a dataset with a catalog of more products than its events have."""
    folder = tmp_path_factory.mktemp("new")
    walks(600, seed=5).write_parquet(folder / "events.parquet")
    preparation = Preparation(split=SplitKind.TEMPORAL, min_support=1, min_length=2)
    prepare([str(folder / "events.parquet")], folder / "dataset", preparation, PolarsEngine, items=str(products))
    train(recipe, folder / "dataset", folder / "run", device_name="cpu", epochs=1)
    return folder / "run"


@pytest.fixture(scope="module")
def trained_only(new_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "bundles"
    export([new_run], folder, new_items=False)
    return folder


def check_new_items(bundle: Bundle, trained: Bundle) -> None:
    """New items have rows after the trained ones, the vectors of the live catalog, and are recommended if available."""
    cold_start, factors = ColdStart(trained.catalog, trained.vectors_N1D), list[float]()
    for place, item in enumerate(NEW[:3], start=1):
        cold = cold_start.vector(ColdItem({"circle": item["circle"], "price": item["price"]}))
        assert cold is not None
        assert bundle.catalog.row(str(item["item_id"])) == trained.manifest.items + place
        factors.append(float(np.mean(bundle.vectors_N1D[trained.manifest.items + place] / cold.vector_D)))
        np.testing.assert_allclose(
            bundle.vectors_N1D[trained.manifest.items + place], factors[0] * cold.vector_D, rtol=1e-4
        )
    assert 0 < factors[0] <= 1
    assert (bundle.manifest.items, bundle.manifest.encodable_items) == (CIRCLES * AROUND + 3, CIRCLES * AROUND)
    assert "bare" not in bundle.catalog
    listed = {item.item_id for item in bundle.retrieve(SessionView(["item-2-3"]), Options(100)).items}
    assert {"new-1", "new-2"} <= listed
    assert "hidden" not in listed
    assert bundle.retrieve(SessionView(["new-1"]), Options(3)).items[0].source == "similar"
    assert bundle.attributes("new-2")["circle"] == "3"


def test_a_dataset_keeps_products_without_events(new_run: Path) -> None:
    new = Dataset.open(new_run.parent / "dataset").new_items()
    assert new["item_id"].to_list() == [item["item_id"] for item in NEW]
    assert set(new.columns) == {"item_id", "circle", "price", "available"}


@pytest.mark.slow
def test_an_export_gives_products_without_events_vectors(new_run: Path, trained_only: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    export([new_run], tmp_path, on_note=notes.append)
    assert NOTE in notes
    trained = Bundle.load(trained_only / "current")
    assert (trained.manifest.items, trained.manifest.encoder_items) == (CIRCLES * AROUND, None)
    bundle = Bundle.load(tmp_path / "current")
    check_new_items(bundle, trained)
    live = ColdStart(bundle.catalog, bundle.vectors_N1D, trained_items=bundle.manifest.encodable_items)
    again = live.vector(ColdItem({"circle": "2", "price": 4.0}))
    assert again is not None
    shortened_D = bundle.vectors_N1D[bundle.catalog.row("new-1") or 0]
    length = np.linalg.norm(shortened_D) / np.linalg.norm(again.vector_D)
    np.testing.assert_allclose(shortened_D, length * again.vector_D, rtol=1e-4)


def test_a_rebuild_with_a_catalog_gives_them_the_same(trained_only: Path, products: Path, tmp_path: Path) -> None:
    trained, notes = Bundle.load(trained_only / "current"), list[str]()
    digest = rebuild(trained_only, items=products, staged=True, on_note=notes.append)
    assert notes[0] == NOTE
    check_new_items(Bundle.load(trained_only / digest), trained)


@pytest.fixture(scope="module")
def nearest_run(new_run: Path) -> Path:
    """Nearest sessions of the same dataset."""
    train(Recipe.load(Path("knn")), new_run.parent / "dataset", new_run.parent / "knn", device_name="cpu", epochs=1)
    return new_run.parent / "knn"


def check_new_items_beside_votes(bundle: Bundle) -> None:
    """New items are recommended behind the items with votes, with any filter, and by the index as by exact search."""
    info, session = bundle.manifest.nearest_sessions, SessionView(["item-2-3", "item-2-4"])
    assert info is not None
    assert (info.items, bundle.manifest.items) == (CIRCLES * AROUND + 3, CIRCLES * AROUND + 3)
    new_rows = np.array([bundle.catalog.row("new-1"), bundle.catalog.row("new-2")])
    assert not bundle.votes_for(session.item_ids, new_rows).any()
    whole = bundle.retrieve(session, Options(200, exclude_seen=True)).items
    assert len(whole) == CIRCLES * AROUND + 2 - 2  # all that are available but the session's own
    voted = [bool(bundle.votes_for(session.item_ids, np.array([bundle.catalog.row(of.item_id)]))[0]) for of in whole]
    assert sum(voted) > 0
    assert voted == sorted(voted, reverse=True)
    assert {"new-1", "new-2"} <= {of.item_id for of in whole}
    exact = bundle.retrieve(session, Options(200, exclude_seen=True, exact=True)).items
    assert [of.item_id for of in exact] == [of.item_id for of in whole]
    price = Filter.model_validate({"attribute": "price", "range": {"min": 1.5, "max": 1.5}})
    assert [of.item_id for of in bundle.retrieve(session, Options(5, filter=price)).items] == ["new-2"]


def test_beside_nearest_sessions_they_are_recommended_behind_the_items_with_votes(
    nearest_run: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    export([nearest_run], tmp_path, on_note=notes.append)
    assert NOTE in notes
    check_new_items_beside_votes(Bundle.load(tmp_path / "current"))


def test_a_rebuild_with_a_catalog_takes_them_in_beside_nearest_sessions(
    nearest_run: Path, products: Path, tmp_path: Path
) -> None:
    export([nearest_run], tmp_path, new_items=False)
    rebuild(tmp_path, items=products)
    check_new_items_beside_votes(Bundle.load(tmp_path / "current"))


def test_an_index_of_sessions_is_extended_by_rows_without_any() -> None:
    stored = index_sessions([sessions([1, 2], [2, 3])], 3, candidates=10).stored
    longer = with_items(stored, 5)
    assert longer.counts.tolist() == [*stored.counts.tolist(), 0, 0]
    assert longer.sessions_offsets.tolist() == [*stored.sessions_offsets.tolist(), 4, 4]
    assert longer.items is stored.items


def test_new_items_take_their_share_of_places_at_the_most() -> None:
    random = np.random.default_rng(0)
    known_N1D, queries_QKD, crowding_MD = (
        random.normal(size=shape).astype(np.float32) for shape in ((301, 8), (100, 2, 8), (200, 8))
    )
    crowding_MD *= 2
    factor = fair_length(known_N1D, crowding_MD, queries_QKD)
    scores = (queries_QKD @ np.vstack([known_N1D[1:], factor * crowding_MD]).T).max(axis=1)
    first = np.argsort(-scores, axis=1)[:, :PLACES]
    assert MOST_PLACES / 2 < (first >= 300).mean() <= MOST_PLACES
    few_MD = (crowding_MD / 1_000).astype(np.float32)
    assert fair_length(known_N1D, few_MD, queries_QKD) == 1


def test_a_dataset_of_an_earlier_version_has_no_such_products(new_run: Path) -> None:
    dataset = Dataset.open(new_run.parent / "dataset")
    file = dataset.folder / NEW_ITEMS_FILE
    content = file.read_bytes()
    file.unlink()
    assert dataset.new_items().is_empty()
    file.write_bytes(content)
