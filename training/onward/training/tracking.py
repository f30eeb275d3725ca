"""Send the metrics of each epoch to an experiment tracker: a tracker is an `on_epoch` of `train`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from onward.training.errors import InputError


def epoch_metrics(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the metrics of a line of `metrics.jsonl`, named by its fit: `selection/recall@20`, `refit/loss`."""
    for name in ("loss", "learning_rate", "examples_per_s"):
        yield f"{line['fit']}/{name}", line[name]
    for name, value in line.get("validation", {}).items():
        yield f"{line['fit']}/{name}", value


class TensorBoard:
    """Writes event files for TensorBoard, one scalar for each metric, by epoch; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Begin files in `folder`. Raises InputError if TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("TensorBoard is not installed: pip install 'onward[tensorboard]'") from error
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def __call__(self, line: Mapping[str, Any]) -> bool:
        """Write the metrics of an epoch, and return True: training goes on."""
        for name, value in epoch_metrics(line):
            self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()
        return True


class MLflow:
    """Logs to a run of MLflow, where its own settings say (`MLFLOW_TRACKING_URI`); a context manager.

    MLflow allows no @ in names: recall@20 is recall_at_20 there.
    """

    def __init__(self, experiment: str, run_name: str | None = None) -> None:
        """Choose an experiment, which is created if there is none. Raises InputError if MLflow is not installed."""
        try:
            import mlflow
        except ImportError as error:
            raise InputError("MLflow is not installed: pip install 'onward[mlflow]'") from error
        self._mlflow, self._run_name = mlflow, run_name
        mlflow.set_experiment(experiment)

    def __enter__(self) -> Self:
        self._mlflow.start_run(run_name=self._run_name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mlflow.end_run("FINISHED" if error is None else "FAILED")

    def __call__(self, line: Mapping[str, Any]) -> bool:
        """Log the metrics of an epoch, and return True: training goes on."""
        metrics = {name.replace("@", "_at_"): value for name, value in epoch_metrics(line)}
        self._mlflow.log_metrics(metrics, step=line["epoch"])
        return True
