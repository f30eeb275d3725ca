"""The encoder of a finished run, as one of its fits has it."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset
from onward.training.models.encoder import SessionEncoder
from onward.training.recipe import Recipe
from onward.training.run_folder import REFIT, SELECTION, WEIGHTS, checkpoint_of, read_run, read_tensors, sessions_of_fit


class FittedRun(NamedTuple):
    """A recipe and its fitted encoder, in evaluation mode."""

    recipe: Recipe
    encoder: SessionEncoder


def fitted_to_training(run: Path, dataset: Dataset) -> FittedRun | None:
    """Return a run's encoder as fitted to the training part alone, None if there was no such fit."""
    weights = read_tensors(run / WEIGHTS, torch.device("cpu"))
    if weights["fit"] == REFIT:
        checkpoint = checkpoint_of(run, SELECTION)
        if not checkpoint.exists():
            return None
        weights = read_tensors(checkpoint, torch.device("cpu"))
    return _with_weights(run, dataset, {**weights, "fit": SELECTION})


def fitted_last(run: Path, dataset: Dataset) -> FittedRun:
    """Return a run's encoder with the weights that `export` takes: those of its refit, if it has one."""
    return _with_weights(run, dataset, read_tensors(run / WEIGHTS, torch.device("cpu")))


def _with_weights(run: Path, dataset: Dataset, weights: dict[str, Any]) -> FittedRun:
    recipe = Recipe.parse(read_run(run)["recipe"], str(run / "recipe.toml"))
    encoder = recipe.build(Corpus.of(dataset, sessions_of_fit(dataset, weights["fit"])))
    encoder.load_state_dict(weights["encoder"])
    return FittedRun(recipe, encoder.eval())
