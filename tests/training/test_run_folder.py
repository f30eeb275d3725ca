"""Damage to a run folder is said in one line, and mended by resuming where checkpoints allow it."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from onward.training.atomic_file import write_text
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.evaluation.evaluation import evaluate_baselines, evaluate_bundle
from onward.training.export.export import export
from onward.training.recipe import Recipe
from onward.training.run_folder import best_validation, checkpoint_of, read_run
from onward.training.trainer import train


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to damage."""
    return shutil.copytree(run, tmp_path / "run")


def resume(recipe: Recipe, dataset: Dataset, out: Path) -> bool:
    return train(recipe, dataset.folder, out, device_name="cpu", epochs=3, resume=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seed": 1}'])
def test_a_damaged_run_file_is_restored_from_a_checkpoint(
    content: str, damaged: Path, recipe: Recipe, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (damaged / "run.json").read_text()
    (damaged / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json: is damaged; .* --resume` restores it"):
        read_run(damaged)
    assert resume(recipe, dataset, damaged)
    assert (damaged / "run.json").read_text() == whole
    assert "run.json: was damaged; restored from " in capsys.readouterr().err


def test_a_missing_run_file_is_restored_too(damaged: Path, recipe: Recipe, dataset: Dataset) -> None:
    (damaged / "run.json").unlink()
    assert resume(recipe, dataset, damaged)
    assert read_run(damaged)["seed"] == 1


def test_a_restored_run_is_still_that_of_its_seed(damaged: Path, recipe: Recipe, dataset: Dataset) -> None:
    (damaged / "run.json").write_text("")
    with pytest.raises(InputError, match="was started with another seed"):
        train(recipe, dataset.folder, damaged, device_name="cpu", epochs=3, seed=2, resume=True)


def test_a_run_of_which_nothing_was_trained_begins_anew(
    damaged: Path, recipe: Recipe, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged / "run.json").write_text("")
    for fit in ("selection", "refit"):
        shutil.rmtree(damaged / fit)
    assert resume(recipe, dataset, damaged)
    assert "nothing was trained yet, so the run begins anew" in capsys.readouterr().err
    assert read_run(damaged)["data_fingerprint"] == dataset.info.fingerprint


def test_a_run_of_an_earlier_version_cannot_be_restored(damaged: Path, recipe: Recipe, dataset: Dataset) -> None:
    (damaged / "run.json").write_text("")
    for fit in ("selection", "refit"):
        content = torch.load(checkpoint_of(damaged, fit), weights_only=True)
        del content["run"]
        torch.save(content, checkpoint_of(damaged, fit))
    with pytest.raises(InputError, match=r"run\.json: is damaged, and no checkpoint holds it; train again in another"):
        resume(recipe, dataset, damaged)


@pytest.mark.parametrize("cut", [-1, -30, 40])
def test_a_history_that_was_cut_off_is_said_and_mended(
    cut: int, damaged: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (damaged / "metrics.jsonl").read_text()
    (damaged / "metrics.jsonl").write_text(whole[:cut])
    with pytest.raises(InputError, match=r"metrics\.jsonl: is damaged; .* --resume` writes it anew"):
        export([damaged], tmp_path / "bundles")
    assert resume(recipe, dataset, damaged)
    assert (damaged / "metrics.jsonl").read_text() == whole
    assert "metrics.jsonl: was damaged; written anew from the checkpoints" in capsys.readouterr().err


def test_an_empty_history_is_no_validation(damaged: Path) -> None:
    (damaged / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match=r"metrics\.jsonl: is empty"):
        best_validation(damaged)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_text(file, "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "half" * 100_000 + "\ud800")
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    write_text(file, json.dumps([1]))
    assert file.read_text() == "[1]"


def test_a_dataset_that_was_edited_is_refused_by_all_that_read_it(
    damaged: Path, exported: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    data = shutil.copytree(dataset.folder, tmp_path / "dataset")
    for part in ("train", "validation", "test"):
        file = data / f"{part}.parquet"
        pl.read_parquet(file).with_columns(row=pl.col("row").reverse()).write_parquet(file)
    for read in (
        lambda: train(recipe, data, tmp_path / "new", device_name="cpu", epochs=3),
        lambda: train(recipe, data, damaged, device_name="cpu", epochs=3, resume=True),
        lambda: export([damaged], tmp_path / "bundles", data=data),
        lambda: evaluate_bundle(exported, data, "test"),
        lambda: evaluate_baselines(data, "test"),
    ):
        with pytest.raises(
            InputError, match=r"\.parquet: has changed since `prepare` wrote it; prepare the dataset again"
        ):
            read()
