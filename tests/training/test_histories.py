"""User histories, split leave-one-out or by user, from preparation to evaluation."""

import json
from pathlib import Path

import polars as pl
import pytest

from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.evaluation.evaluation import evaluate_bundle
from onward.training.export.export import export
from onward.training.recipe import Recipe
from onward.training.trainer import train
from tests.training.conftest import walks

CHANCE = 20 / 60


@pytest.mark.parametrize("split", [SplitKind.LEAVE_ONE_OUT, pytest.param(SplitKind.BY_USER, marks=pytest.mark.slow)])
def test_histories_can_be_trained_on_and_evaluated(split: SplitKind, recipe: Recipe, tmp_path: Path) -> None:
    walks(600, seed=5).rename({"session_id": "user_id"}).write_parquet(tmp_path / "events.parquet")
    preparation = Preparation(split=split, min_support=1, min_length=3)
    prepare([str(tmp_path / "events.parquet")], tmp_path / "data", preparation, PolarsEngine)
    train(recipe, tmp_path / "data", tmp_path / "run", device_name="cpu", epochs=5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["validation"]["recall@20"] for line in lines if "validation" in line) > 2 * CHANCE

    export([tmp_path / "run"], tmp_path / "bundles")
    metrics = evaluate_bundle(tmp_path / "bundles", tmp_path / "data", "test")
    dataset = Dataset.open(tmp_path / "data")
    test = pl.read_parquet(tmp_path / "data" / "test.parquet")
    assert metrics["examples"] == test["session_id"].n_unique() == dataset.info.parts["test"].examples
    assert metrics["recall@20"] > 2 * CHANCE
