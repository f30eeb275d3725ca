"""Every model of MODELS is trained on the synthetic shop, and one running service serves each bundle in turn."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit

from onward.training.baselines import BASELINES
from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.synthetic import generate
from onward.training.evaluation.cases import held_out_cases
from onward.training.evaluation.evaluation import evaluate, evaluate_bundle
from onward.training.export.export import export
from onward.training.models import MODELS
from onward.training.recipe import RECIPES, Recipe
from onward.training.trainer import train
from tests.bundles import item_ids, publish_bundle
from tests.service.process import ServiceProcess, wait_until

EVENTS = 12_000
REQUIRED_GAIN = 1.5
"""Least ratio of a model's recall@20 to that of the most popular items."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shop")
    generate(EVENTS, seed=1).write(folder / "shop")
    preparation = Preparation(split=SplitKind.TEMPORAL, min_support=5, min_length=2)
    events, items = str(folder / "shop" / "events.parquet"), str(folder / "shop" / "items.parquet")
    prepare([events], folder / "dataset", preparation, PolarsEngine, items=items)
    return Dataset.open(folder / "dataset")


@pytest.fixture(scope="module")
def floor(dataset: Dataset) -> float:
    """recall@20 of the most popular items."""
    retrieve = BASELINES["popularity"](dataset, "test").retrieve
    return evaluate(retrieve, held_out_cases(dataset, "test"), items=len(dataset.item_ids()))["recall@20"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles; the current one holds an untrained test encoder."""
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, item_ids("item-", 5))
    return folder


@pytest.fixture(scope="module")
def service(bundles: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(bundles) as process:
        yield process.wait_until_ready()


def small_recipe(model: str) -> Recipe:
    """Return the model's recipe, reduced to train in seconds and to recommend seen items too."""
    recipe = tomlkit.parse((RECIPES / f"{model}.toml").read_text())
    for table, changes in {
        "encoder": {"dimension": 32, "max_length": 12},
        "training": {"batch_size": 64, "epochs": 3, "refit": False},
        "serving": {"exclude_seen": False},
    }.items():
        recipe[table].update(changes)
    if model == "knn":
        for key in ("batch_size", "epochs"):
            recipe["training"].remove(key)
    return Recipe.parse(tomlkit.dumps(recipe), f"{model}.toml")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_model_beats_popularity_and_is_served_without_a_restart(
    model: str, dataset: Dataset, floor: float, bundles: Path, service: ServiceProcess, tmp_path: Path
) -> None:
    assert train(small_recipe(model), dataset.folder, tmp_path / "run", device_name="cpu")
    digest = export([tmp_path / "run"], bundles)

    metrics = evaluate_bundle(bundles, dataset.folder, "test")
    assert metrics["model"] == model
    assert metrics["recall@20"] > REQUIRED_GAIN * floor

    session = dataset.item_ids()[:3]
    with service.client() as client:
        wait_until(lambda: client.get("/v1/version").json()["bundle"] == digest)
        answer = client.post("/v1/recommendations", json={"items": session, "k": 10}).json()
    assert answer["bundle"] == digest
    assert {item["source"] for item in answer["items"]} == {"encoder"}
    assert (answer["count"], answer["degraded"], answer["unknown_item_ids"]) == (10, [], [])
