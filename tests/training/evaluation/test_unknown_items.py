"""Items that training never saw are counted and said."""

from pathlib import Path

import polars as pl
import pytest

from onward.training.data.dataset import Dataset
from onward.training.evaluation.evaluation import evaluate_baselines, evaluate_bundle
from tests.training.conftest import walks
from tests.training.data.conftest import Prepare


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    (tmp_path / "other").mkdir()
    return Prepare(tmp_path / "other")


@pytest.fixture
def half_known(prepared: Prepare) -> Dataset:
    """Walks of which every second item, and one test session, is of another catalog."""

    def renamed(events: pl.DataFrame) -> pl.DataFrame:
        is_odd = pl.col("item_id").str.slice(-1).cast(pl.Int64) % 2 == 1
        return events.with_columns(item_id=pl.when(is_odd).then("other-" + pl.col("item_id")).otherwise("item_id"))

    return prepared(renamed(walks(300, seed=6)), test=renamed(walks(40, seed=7)))


def test_another_catalog_is_said_with_the_share_that_the_bundle_knows(
    exported: Path, dataset: Dataset, half_known: Dataset
) -> None:
    lines: list[str] = []
    report = evaluate_bundle(exported, half_known.folder, "test", on_warning=lines.append)
    assert (
        f"{half_known.folder}: is not the data set that the bundle was trained on; the bundle knows 30 of 60 (50.0%) "
        "items of its catalog"
    ) in lines
    sessions = half_known.sessions("test")
    targets = [item for item, target in zip(sessions.item_ids, sessions.is_target, strict=True) if target]
    unknown = sum(item.startswith("other-") for item in targets)
    assert report["unknown_targets"] == unknown > 0
    assert any(f"test.parquet: {unknown} of {len(targets)} (" in line and "counts as a miss" in line for line in lines)


def test_the_data_set_of_a_bundle_is_evaluated_without_a_warning(exported: Path, dataset: Dataset) -> None:
    lines: list[str] = []
    assert evaluate_bundle(exported, dataset.folder, "test", on_warning=lines.append)["unknown_targets"] == 0
    evaluate_baselines(dataset.folder, "test", on_warning=lines.append)
    assert lines == []


def test_a_test_of_items_that_training_never_saw_is_said(prepared: Prepare) -> None:
    cold = walks(10, seed=7).with_columns(item_id="new-" + pl.col("item_id"))
    dataset = prepared(walks(100, seed=6), test=cold)
    lines: list[str] = []
    metrics = evaluate_baselines(dataset.folder, "test", on_warning=lines.append)
    assert metrics["popularity"]["recall@20"] == 0
    examples, file = dataset.info.parts["test"].examples, dataset.folder / "test.parquet"
    assert lines == [
        f"{file}: {examples} of {examples} (100.0%) targets are items that training never saw; each counts as a miss",
        f"{file}: {examples} of {examples} (100.0%) examples have no item before the target that training saw; their "
        "session says nothing",
    ]
