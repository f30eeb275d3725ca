"""Measure how long a training of a recipe takes on a dataset, by a few of its steps."""

import time

import torch

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.evaluation.validation import exact_ranks
from onward.training.models.encoder import SessionEncoder
from onward.training.recipe import RandomCutPerUser, Recipe
from onward.training.trainer import keep_freed_memory, make_optimizers, pick_device

WARM_UP_STEPS, STEPS, MOST_SECONDS = 2, 8, 6.0
VALIDATED = 1_024
"""Number of validation examples that are ranked to measure the time of a validation."""


def expected_seconds(recipe: Recipe, dataset: Dataset, device_name: str) -> float:
    """Return the seconds that a training with validation takes in full, without a refit."""
    keep_freed_memory()
    device = pick_device(device_name)
    torch.manual_seed(0)
    began = time.perf_counter()
    sessions = [dataset.sessions("train")]
    encoder = recipe.build(Corpus.of(dataset, sessions)).to(device)
    examples = Examples.of(
        sessions, encoder.max_length, device, horizon=encoder.horizon, every_position=encoder.every_position
    )
    setup = time.perf_counter() - began
    if not recipe.has_steps:
        return setup + _validation_seconds(recipe, dataset, encoder.max_length, encoder, device)
    optimizers = make_optimizers(encoder, recipe.training)
    kind, size = recipe.training.examples, recipe.training.batch_size
    batches = (
        examples.random_cuts(size, kind.batches, kind.fewest_items, 0, 0)
        if isinstance(kind, RandomCutPerUser)
        else examples.shuffled_batches(size, 0, 0)
    )
    encoder.train()
    seconds: list[float] = []
    for examples_B in batches[: WARM_UP_STEPS + STEPS]:
        began = time.perf_counter()
        loss = encoder.loss(examples.gather(examples_B))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - began)
        if len(seconds) > WARM_UP_STEPS and sum(seconds) > MOST_SECONDS:
            break
    steady = seconds[WARM_UP_STEPS:] or seconds
    epoch = len(batches) * sum(steady) / len(steady)
    validation = _validation_seconds(recipe, dataset, encoder.max_length, encoder, device)
    return setup + recipe.training.epochs * (epoch + validation)


def _validation_seconds(
    recipe: Recipe, dataset: Dataset, max_length: int, encoder: SessionEncoder, device: torch.device
) -> float:
    examples = Examples.of([dataset.sessions("validation")], max_length, device)
    chosen = torch.linspace(0, len(examples) - 1, min(VALIDATED, len(examples))).long()
    exact_ranks(encoder, examples.subset(chosen[:2]), exclude_seen=False)  # compiles what is compiled
    began = time.perf_counter()
    exact_ranks(encoder, examples.subset(chosen), exclude_seen=False)
    return (time.perf_counter() - began) * len(examples) / len(chosen)
