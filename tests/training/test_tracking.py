"""Trackers hold the metrics of every epoch of a training."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from onward.training.data.dataset import Dataset
from onward.training.errors import InputError
from onward.training.recipe import Recipe
from onward.training.tracking import MLflow, TensorBoard, epoch_metrics
from onward.training.trainer import train

Metrics = dict[tuple[str, int], float]


def trained(recipe: Recipe, dataset: Dataset, out: Path, tracker: TensorBoard | MLflow) -> Metrics:
    """Train two epochs and return the metrics of its history by name and epoch."""
    train(recipe, dataset.folder, out, epochs=2, device_name="cpu", on_epoch=tracker)
    lines: list[dict[str, Any]] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {(name, line["epoch"]): value for line in lines for name, value in epoch_metrics(line)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard_reads_the_metrics_of_all_epochs(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoard(tmp_path / "logs") as tracker:
        expected = trained(recipe, dataset, tmp_path / "run", tracker)
    written = EventAccumulator(str(tmp_path / "logs"))
    written.Reload()
    actual = {(name, of.step): of.value for name in written.Tags()["scalars"] for of in written.Scalars(name)}
    assert actual == {key: pytest.approx(value, rel=1e-6) for key, value in expected.items()}
    assert ("selection/recall@20", 2) in actual


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_mlflow_has_a_run_with_the_metrics_of_all_epochs(
    recipe: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'onward[mlflow]'")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with MLflow("shop", "srgnn") as tracker:
        expected = trained(recipe, dataset, tmp_path / "run", tracker)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    actual = {
        (name.replace("_at_", "@"), of.step): of.value
        for name in run.data.metrics
        for of in client.get_metric_history(run.info.run_id, name)
    }
    assert (run.info.run_name, run.info.status) == ("srgnn", "FINISHED")
    assert actual == {key: pytest.approx(value) for key, value in expected.items()}


@pytest.mark.parametrize(("module", "extra"), [("torch.utils.tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_what_is_not_installed_is_said(
    module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"is not installed: pip install 'onward\[{extra}\]'"):
        TensorBoard(tmp_path) if extra == "tensorboard" else MLflow("shop")
