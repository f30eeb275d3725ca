"""Onward's training side: learns encoders from click logs and writes bundles.

The functions that the commands of `onward-training` run, for notebooks and pipelines. They are imported when they are
first used, since some of them load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onward.training.data.dataset import Dataset
    from onward.training.data.preparation.prepare import prepare
    from onward.training.data.preparation.prepare_options import Preparation, SplitKind
    from onward.training.data.remote_dataset import local_dataset, written_dataset
    from onward.training.evaluation.evaluation import evaluate_baselines, evaluate_bundle
    from onward.training.evaluation.gate import gate
    from onward.training.export.export import export as export_bundle
    from onward.training.export.rebuild import rebuild
    from onward.training.fitting.compare import compare
    from onward.training.fitting.fit import fit
    from onward.training.recipe import Recipe
    from onward.training.tracking import MLflow, TensorBoard
    from onward.training.trainer import train
    from onward.training.tuning.study import tune

__all__ = [
    "Dataset",
    "MLflow",
    "Preparation",
    "Recipe",
    "SplitKind",
    "TensorBoard",
    "compare",
    "evaluate_baselines",
    "evaluate_bundle",
    "export_bundle",
    "fit",
    "gate",
    "local_dataset",
    "prepare",
    "rebuild",
    "train",
    "tune",
    "written_dataset",
]

_PLACES = {
    "Dataset": ("data.dataset", "Dataset"),
    "MLflow": ("tracking", "MLflow"),
    "Preparation": ("data.preparation.prepare_options", "Preparation"),
    "Recipe": ("recipe", "Recipe"),
    "SplitKind": ("data.preparation.prepare_options", "SplitKind"),
    "TensorBoard": ("tracking", "TensorBoard"),
    "compare": ("fitting.compare", "compare"),
    "evaluate_baselines": ("evaluation.evaluation", "evaluate_baselines"),
    "evaluate_bundle": ("evaluation.evaluation", "evaluate_bundle"),
    "export_bundle": ("export.export", "export"),
    "fit": ("fitting.fit", "fit"),
    "gate": ("evaluation.gate", "gate"),
    "local_dataset": ("data.remote_dataset", "local_dataset"),
    "prepare": ("data.preparation.prepare", "prepare"),
    "rebuild": ("export.rebuild", "rebuild"),
    "train": ("trainer", "train"),
    "tune": ("tuning.study", "tune"),
    "written_dataset": ("data.remote_dataset", "written_dataset"),
}
"""Module and name of each; `export` is a package here, so that its function has another name."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
