"""A content tower gives products without events vectors from their attributes, wherever they come from."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr
from starlette.testclient import TestClient

from onward.bundle import Bundle, BundleError, read_manifest, write_manifest
from onward.bundle.catalog.cold_start import ColdItem, ColdStart
from onward.bundle.files.manifest import CONTENT, CONTENT_FILES, CONTENT_RARITY
from onward.service.app import create_app
from onward.service.settings import Settings
from onward.training.content.fit import HiddenTargets, mean_reciprocal_rank
from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.synthetic import generate
from onward.training.export.export import export
from onward.training.export.rebuild import rebuild
from onward.training.recipe import Recipe
from onward.training.trainer import train

pytestmark = pytest.mark.slow

EVENTS, HIDDEN = 30_000, 150


class HiddenShop(NamedTuple):
    """A run on a generated shop of which some items have no event, and the sessions that have them."""

    run: Path
    items: Path
    hidden: dict[str, dict[str, Any]]
    """Attributes of the items without events."""
    sessions: pl.DataFrame


@pytest.fixture(scope="module")
def shop(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> HiddenShop:
    folder = tmp_path_factory.mktemp("content")
    generated = generate(EVENTS, seed=3)
    products = generated.items.to_dicts()
    chosen = np.random.default_rng(5).permutation(len(products))[:HIDDEN]
    hidden = {products[place]["item_id"]: products[place] for place in chosen}
    for attributes in hidden.values():
        attributes["available"] = True
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in products))
    is_hidden = pl.col("item_id").is_in(list(hidden))
    generated.events.filter(~is_hidden).write_parquet(folder / "events.parquet")
    preparation = Preparation(split=SplitKind.TEMPORAL, min_support=1, min_length=2, validation=0.1, test_share=0.1)
    items = str(folder / "items.jsonl")
    prepare([str(folder / "events.parquet")], folder / "dataset", preparation, PolarsEngine, items=items)
    train(recipe, folder / "dataset", folder / "run", device_name="cpu", refit_epochs=6)
    attributes = {
        item_id: {name: value for name, value in item.items() if name not in ("item_id", "available")}
        for item_id, item in hidden.items()
    }
    sessions = generated.events.sort("session_id", "timestamp").group_by("session_id").agg("item_id")
    return HiddenShop(folder / "run", folder / "items.jsonl", attributes, sessions)


def _got_vectors(shop: HiddenShop) -> str:
    new = len(Dataset.open(shop.run.parent / "dataset").new_items())
    assert new >= HIDDEN
    return f"{new:,} products that training does not know got a vector from their content"


@pytest.fixture(scope="module")
def with_all(shop: HiddenShop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("with-all") / "bundles"
    notes: list[str] = []
    export([shop.run], folder, on_note=notes.append)
    assert any(note.startswith("a content tower learned to give new products vectors") for note in notes)
    assert _got_vectors(shop) in notes
    return folder


@pytest.fixture(scope="module")
def trained_only(shop: HiddenShop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained-only") / "bundles"
    export([shop.run], folder, new_items=False)
    return folder


@pytest.fixture
def copied(trained_only: Path, tmp_path: Path) -> Path:
    """A bundle whose files a test may change."""
    shutil.copytree(trained_only / "current", tmp_path / "copy")
    for file in (tmp_path / "copy").iterdir():
        file.chmod(0o644)
    return tmp_path / "copy"


def targets(bundle: Bundle, shop: HiddenShop) -> HiddenTargets:
    """Sessions of known items followed by a hidden one."""
    ids = sorted(shop.hidden)
    inputs, places = list[list[int]](), list[int]()
    for _, session in shop.sessions.iter_rows():
        for place, item_id in enumerate(session):
            before = [row for row in bundle.catalog.rows(session[:place]) if row and row <= bundle.encoder.items]
            if item_id in shop.hidden and before:
                inputs.append(before)
                places.append(ids.index(item_id))
    return HiddenTargets(bundle.encoder.encode_all(inputs, [0] * len(inputs)), np.array(places))


def vectors(cold_start: ColdStart, shop: HiddenShop) -> NDArray[np.float32]:
    found = [cold_start.vector(ColdItem(shop.hidden[item_id])) for item_id in sorted(shop.hidden)]
    assert all(cold is not None for cold in found)
    return np.vstack([cold.vector_D for cold in found if cold is not None])


def test_a_tower_ranks_hidden_products_better_than_means_of_neighbours(trained_only: Path, shop: HiddenShop) -> None:
    bundle = Bundle.load(trained_only / "current")
    assert bundle.content is not None
    asked = targets(bundle, shop)
    assert len(asked.places_Q) > 300
    neighbours = ColdStart(bundle.catalog, bundle.vectors_N1D)
    tower_mrr = mean_reciprocal_rank(asked, vectors(bundle.cold_start(), shop))
    assert tower_mrr > 1.15 * mean_reciprocal_rank(asked, vectors(neighbours, shop))


def test_export_rebuild_and_live_catalog_give_equal_vectors(
    with_all: Path, trained_only: Path, shop: HiddenShop, tmp_path: Path
) -> None:
    exported = Bundle.load(with_all / "current")
    shutil.copytree(trained_only, tmp_path / "bundles", symlinks=True)
    notes: list[str] = []
    rebuild(tmp_path / "bundles", items=shop.items, on_note=notes.append)
    assert notes[0] == _got_vectors(shop)
    rebuilt = Bundle.load(tmp_path / "bundles" / "current")
    assert exported.manifest.content is not None
    assert exported.manifest.content == rebuilt.manifest.content
    assert exported.manifest.content.factor < 1
    for item_id, attributes in shop.hidden.items():
        live = exported.cold_start().vector(ColdItem(attributes))
        assert live is not None
        assert (live.source, live.neighbours) == ("content", ())
        for bundle in (exported, rebuilt):
            np.testing.assert_array_equal(bundle.vectors_N1D[bundle.catalog.row(item_id) or 0], live.vector_D)


def test_an_available_product_is_recommended_for_its_content(with_all: Path, shop: HiddenShop) -> None:
    bundle = Bundle.load(with_all / "current")
    available_R1 = bundle.catalog.eligible().rows_R1
    item_id = next(item_id for item_id in shop.hidden if available_R1[bundle.catalog.row(item_id) or 0])
    attributes = shop.hidden[item_id]
    with TestClient(create_app(Settings(bundles=with_all, redis_url=SecretStr("memory://")))) as client:
        assert client.patch("/v1/items/brand-new", json={"attributes": attributes}).json()["recommendable"]
        assert client.get("/v1/items/brand-new").json()["vector"] == {"source": "content"}
        assert client.get(f"/v1/items/{item_id}").json()["vector"] == {"source": "content"}
        viewed = bundle.catalog.item_id(1)
        assert client.get(f"/v1/items/{viewed}").json()["vector"] == {"source": "training"}
        same = {"attribute": "title", "equals": attributes["title"]}
        answers = [
            client.post("/v1/recommendations", json={"items": [viewed], "k": 50, "filter": filtered}).json()
            for filtered in (same, {"not": same})
        ]
        explained: dict[str, dict[str, Any]] = {}
        for answer in answers:
            address = f"/v1/recommendations/{answer['recommendation_id']}/explanation"
            explained |= {item["id"]: item for item in client.get(address).json()["items"]}
    for of_item in (explained["brand-new"], explained[item_id]):
        assert {one["attribute"] for one in of_item["content"]} == set(attributes)
        contributions = [one["contribution"] for one in of_item["content"]]
        assert contributions == sorted(contributions, reverse=True)
    for shown, of_item in explained.items():
        row = bundle.catalog.row(shown)
        assert ("content" in of_item) == (row is None or row > bundle.encoder.items)
    assert len(explained) > 40


def test_a_damaged_program_is_refused(copied: Path) -> None:
    (copied / CONTENT).write_bytes(b"no program")
    with pytest.raises(BundleError, match=rf"^{CONTENT}: 10 bytes"):
        Bundle.load(copied)
    write_manifest(copied, read_manifest(copied)[0])
    with pytest.raises(BundleError, match=rf"^{CONTENT}: "):
        Bundle.load(copied)


def test_features_that_give_other_vectors_than_at_export_are_refused(copied: Path) -> None:
    rarity_F = np.load(copied / CONTENT_RARITY)
    np.save(copied / CONTENT_RARITY, rarity_F[::-1].copy())
    write_manifest(copied, read_manifest(copied)[0])
    with pytest.raises(BundleError, match=f"^content probe 0: {CONTENT} gives another vector than at export"):
        Bundle.load(copied)
    np.save(copied / CONTENT_RARITY, -rarity_F)
    write_manifest(copied, read_manifest(copied)[0])
    with pytest.raises(BundleError, match=f"^{CONTENT_RARITY}: holds a number that is not positive"):
        Bundle.load(copied)


def test_a_missing_or_unnamed_file_is_refused(copied: Path) -> None:
    manifest = read_manifest(copied)[0]
    with pytest.raises(BundleError, match=f"^{CONTENT}: not a file of a bundle"):
        write_manifest(copied, manifest.model_copy(update={"content": None}))
    (copied / CONTENT).unlink()
    with pytest.raises(BundleError, match=f"^{CONTENT}: missing"):
        write_manifest(copied, manifest)


def test_a_bundle_without_a_tower_serves_as_before(copied: Path, shop: HiddenShop) -> None:
    manifest = read_manifest(copied)[0]
    for name in CONTENT_FILES:
        (copied / name).unlink()
    write_manifest(copied, manifest.model_copy(update={"content": None}))
    assert "content" not in json.loads((copied / "manifest.json").read_text())
    bundle = Bundle.load(copied)
    cold = bundle.cold_start().vector(ColdItem(next(iter(shop.hidden.values()))))
    assert cold is not None
    assert cold.source == "attributes"
