"""Training speed and memory of every model at its paper's sizes: `python -m tests.benchmarks.models [RECIPES]`.

Each recipe is trained for some seconds in a fresh process, on synthetic sessions with the number of items and users and
the mean length of its data set; prints one line of JSON per recipe. Without arguments: the recipes of all papers.

`python -m tests.benchmarks.models srgnn --items 1000000` measures training on a catalog of that size: the recipe then
uses sampled softmax and updates only the rows that a step touches.
"""

import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from onward.training.data.examples import Examples
from onward.training.data.padding import PADDING
from onward.training.hardware import machine
from onward.training.losses.objectives import SampledSoftmax
from onward.training.recipe import Recipe
from onward.training.trainer import keep_freed_memory, make_optimizers
from tests.benchmarks.paper_recipes import paper_recipes
from tests.benchmarks.synthetic_corpus import sizes_of, synthetic_corpus
from tests.benchmarks.training_step import training_step

KIB_PER_GIB = 2**20
SAMPLED = SampledSoftmax(kind="sampled_softmax", negatives=2_000, distribution="log_uniform", log_q=True)


def for_a_large_catalog(recipe: Recipe) -> Recipe:
    """Give the recipe sampled softmax, if its model has a choice of objective, and row-sparse updates."""
    encoder = recipe.encoder
    if "objective" in type(encoder).model_fields:
        encoder = encoder.model_copy(update={"objective": SAMPLED})
    sparse = {"optimizer": "adam", "sparse_updates": True, "weight_decay": 0.0}
    return recipe.model_copy(update={"encoder": encoder, "training": recipe.training.model_copy(update=sparse)})


def measure(name: str, items: int | None, seconds: float, threads: int) -> dict[str, Any]:
    """Train a recipe for some seconds; run in a fresh process, so that the peak memory is the recipe's own."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    recipe = Recipe.load(Path(name))
    sizes = sizes_of(recipe.name)
    if items is not None:
        recipe, sizes = for_a_large_catalog(recipe), sizes._replace(items=items)
    corpus = synthetic_corpus(sizes, seed=1)
    torch.manual_seed(1)
    encoder = recipe.build(corpus).train()
    examples = Examples.of(
        corpus.sessions,
        encoder.max_length,
        torch.device("cpu"),
        horizon=encoder.horizon,
        every_position=encoder.every_position,
    )
    optimizers = make_optimizers(encoder, recipe.training)
    batches = cycle(examples.shuffled_batches(recipe.training.batch_size, seed=1, epoch=0))
    for _ in range(3):  # warm-up
        training_step(encoder, optimizers, examples.gather(next(batches)))
    examples_seen = targets = steps = 0
    started = time.perf_counter()
    while (elapsed_s := time.perf_counter() - started) < seconds:
        batch = examples.gather(next(batches))
        training_step(encoder, optimizers, batch)
        examples_seen, steps = examples_seen + len(batch.items_BL), steps + 1
        targets += int((batch.targets_BT != PADDING).sum())
    return {
        **sizes._asdict(),
        "batch_size": recipe.training.batch_size,
        "max_length": encoder.max_length,
        "examples_per_s": round(examples_seen / elapsed_s, 1),
        "targets_per_s": round(targets / elapsed_s, 1),
        "ms_per_step": round(1000 * elapsed_s / steps, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_GIB, 2),
    }


def main(
    recipes: Annotated[
        list[str] | None, typer.Argument(help="Names of recipes.  [default: those of all papers]")
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="Items of the catalog, trained with sampled softmax and sparse updates.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each is trained.")] = 30,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print examples per second and peak memory of each recipe, one line of JSON each."""
    for name in recipes or paper_recipes():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            figures = process.submit(measure, name, items, seconds, threads).result()
        model = {"recipe": name, "model": Recipe.load(Path(name)).model}
        typer.echo(json.dumps({"benchmark": "models", **model, **machine("torch"), "threads": threads, **figures}))


if __name__ == "__main__":
    typer.run(main)
