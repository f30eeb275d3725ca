"""A small data set that an encoder can learn: items in circles, and sessions that walk along them."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.export.export import export
from onward.training.recipe import RECIPES, Recipe
from onward.training.trainer import train

CIRCLES, AROUND = 6, 10


def walks(sessions: int, seed: int) -> pl.DataFrame:
    """Sessions that step to the next item of their circle nine times in ten, and stay otherwise."""
    generator = np.random.default_rng(seed)
    events = []
    for session in range(sessions):
        circle, place = generator.integers(CIRCLES), generator.integers(AROUND)
        for position in range(generator.integers(2, 9)):
            events.append(
                (f"s{session}", f"item-{circle}-{place}", 1_700_000_000_000 + 60_000 * (10 * session + position))
            )
            place = (place + (generator.random() < 0.9)) % AROUND
    return pl.DataFrame(events, schema=["session_id", "item_id", "timestamp"], orient="row")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """600 walks, the last tenth of the time held out as test, a tenth of the rest as validation."""
    folder = tmp_path_factory.mktemp("walks")
    walks(600, seed=5).write_parquet(folder / "events.parquet")
    preparation = Preparation(split=SplitKind.TEMPORAL, min_support=1, min_length=2, validation=0.1, test_share=0.1)
    prepare([str(folder / "events.parquet")], folder / "dataset", preparation, PolarsEngine)
    return Dataset.open(folder / "dataset")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """A small SR-GNN and a short fit."""
    text = (RECIPES / "srgnn.toml").read_text()
    for before, after in (
        ("dimension = 100", "dimension = 16"),
        ("batch_size = 128", "batch_size = 64"),
        ("epochs = 8", "epochs = 6"),
        ("learning_rate = 4e-3", "learning_rate = 1e-2"),
        ('exclude_seen = "auto"', "exclude_seen = false"),
    ):
        assert before in text
        text = text.replace(before, after)
    return Recipe.parse(text, "test recipe")


@pytest.fixture(scope="session")
def run(recipe: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training."""
    out = tmp_path_factory.mktemp("export") / "run"
    train(recipe, dataset.folder, out, device_name="cpu", epochs=3)
    return out


@pytest.fixture
def bundles(exported: Path, tmp_path: Path) -> Path:
    """A folder of bundles that a test may change, with the run's bundle as the current one."""
    shutil.copytree(exported, tmp_path / "bundles", symlinks=True)
    return tmp_path / "bundles"


@pytest.fixture(scope="session")
def exported_twice(run: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles with the run's bundle as the current one and staged once more; tests must not change it."""
    folder = tmp_path_factory.mktemp("exported") / "bundles"
    shutil.copytree(exported, folder, symlinks=True)
    export([run], folder, staged=True)
    return folder


@pytest.fixture
def bundles_with_staged(exported_twice: Path, tmp_path: Path) -> Path:
    """A copy of `exported_twice` that a test may change."""
    shutil.copytree(exported_twice, tmp_path / "bundles", symlinks=True)
    return tmp_path / "bundles"


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    export([run], folder)
    return folder
