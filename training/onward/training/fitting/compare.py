"""Compare recipes over one dataset: train each without a refit, and test the differences on validation sessions."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from onward.training.atomic_file import replacement, write_text
from onward.training.data.dataset import Dataset
from onward.training.errors import InputError, disk_faults
from onward.training.evaluation.paired_test import paired_difference
from onward.training.fitting.compared_examples import ComparedExamples, Values, means
from onward.training.fitting.records import METRIC
from onward.training.fitting.trials import Interrupted, without_refit
from onward.training.learning_curve import draw_curves
from onward.training.recipe import Recipe
from onward.training.run_folder import RUN_FILE, read_history
from onward.training.trained_run import fitted_to_training
from onward.training.trainer import train

RESULT, CURVES = "compare.json", "curves.png"


class ComparedRecipe(BaseModel):
    """A recipe among those that were compared."""

    model_config = ConfigDict(frozen=True)
    recipe: str
    metrics: dict[str, float]
    difference: float
    """The metric of the comparison minus that of the best recipe, with its 95 % confidence interval."""
    low: float
    high: float
    best_epoch: int
    epochs: int
    seconds: float
    """Of this training; 0 if it was there already."""
    curve: tuple[float, ...]
    """The validation metric of the recipe after each epoch."""


class Comparison(BaseModel):
    """Recipes on the same validation examples, the best one first."""

    model_config = ConfigDict(frozen=True)
    data_fingerprint: str
    seed: int
    metric: str
    examples: int
    recipes: tuple[ComparedRecipe, ...]


def compare(
    recipes: Sequence[Recipe],
    data: Path,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int = 1,
    device_name: str = "auto",
    on_note: Callable[[str], object] = lambda note: None,
) -> Comparison:
    """Train recipes on the training part, each in a folder of `out`, and compare them on newest validation sessions.

    The same call goes on after an interruption. The result is also written to `compare.json`, the learning curves to
    `curves.png`.

    Args:
        recipes: two or more, with names of their own.
        data: the dataset; it needs a validation part.
        out: the folder of the comparison.
        epochs: maximum number of epochs of each, instead of the recipe's.
        seed: seed of every training.
        device_name: cpu, cuda or auto.
        on_note: called with a line for each recipe.

    Raises:
        InputError: two recipes have one name, or leave different items out of answers.
        Interrupted: SIGINT or SIGTERM ended a training.
    """
    dataset = Dataset.open(data)
    names = [recipe.name for recipe in recipes]
    if len(set(names)) < max(2, len(names)):
        raise InputError(f"compare {' '.join(names)}: give two recipes or more, each with a file name of its own")
    left_out = {recipe.name: recipe.serving.exclude_seen_in(dataset) for recipe in recipes}
    if len(set(left_out.values())) > 1:
        raise InputError(f"serving.exclude_seen differs ({left_out}), so figures would not compare: give all the same")
    examples = ComparedExamples(dataset, next(iter(left_out.values())))
    values, tried = {}, {}
    out.mkdir(parents=True, exist_ok=True)
    with disk_faults(out):
        for recipe in recipes:
            folder, began = out / recipe.name, time.monotonic()
            has_begun = (folder / RUN_FILE).exists()
            if not train(
                without_refit(recipe),
                data,
                folder,
                epochs=epochs,
                seed=seed,
                device_name=device_name,
                resume=has_begun,
                reports_epochs=False,
            ):
                raise Interrupted
            fitted = fitted_to_training(folder, dataset)
            if fitted is None:
                raise InputError(f"{folder}: holds a run with a refit; name another folder")
            values[recipe.name] = examples.of_encoder(fitted.encoder)
            metric = recipe.training.validation_metric
            curve = tuple(line["validation"][metric] for line in read_history(folder))
            tried[recipe.name] = (curve, time.monotonic() - began)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in means(values[recipe.name]).items())
            on_note(f"{recipe.name}: {shown}; {tried[recipe.name][1]:,.0f} s")
        order = sorted(names, key=lambda name: -float(values[name][METRIC].mean()))
        comparison = Comparison(
            data_fingerprint=dataset.info.fingerprint,
            seed=seed,
            metric=METRIC,
            examples=len(examples),
            recipes=tuple(
                ComparedRecipe(
                    recipe=name,
                    metrics=means(values[name]),
                    **_difference(values[name], values[order[0]], examples),
                    best_epoch=tried[name][0].index(max(tried[name][0])) + 1,
                    epochs=len(tried[name][0]),
                    seconds=tried[name][1],
                    curve=tried[name][0],
                )
                for name in order
            ),
        )
        write_text(out / RESULT, comparison.model_dump_json(indent=2) + "\n")
        with replacement(out / CURVES) as temporary:
            draw_curves({of.recipe: of.curve for of in comparison.recipes}, temporary)
    return comparison


def _difference(values: Values, best: Values, examples: ComparedExamples) -> dict[str, float]:
    of = paired_difference(values[METRIC], best[METRIC], examples.session_E)
    return {"difference": of.mean, "low": of.low, "high": of.high}
