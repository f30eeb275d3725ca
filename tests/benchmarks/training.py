"""Training speed of SR-GNN at Diginetica's sizes: `python -m tests.benchmarks.training [--batch-size 512]`.

Times the trainer's steps and, in turn, those of a plain implementation like most public code
(`tests.benchmarks.plain_srgnn`): Python loops over sessions, float32, autograd through the softmax, Adam weight by
weight. Both start from the same weights, are checked to have the same loss, and build their batches as part of the
step: the trainer from sessions of similar length, the plain one from shuffled sessions. Prints one line of JSON:
medians of rounds, and their ratio.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from statistics import median
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

from onward.training.data.examples import Examples
from onward.training.data.padding import PADDING
from onward.training.hardware import machine
from onward.training.losses.objectives import FullSoftmax
from onward.training.losses.softmax import fast_product_dtype
from onward.training.models.layers import InnerProduct
from onward.training.models.srgnn import SRGNN, SRGNNOptions
from onward.training.trainer import keep_freed_memory
from tests.benchmarks.plain_srgnn import PlainBatch, PlainSRGNN, plain_batch
from tests.benchmarks.synthetic_corpus import DIGINETICA, synthetic_corpus
from tests.benchmarks.training_step import training_step

L2 = 1e-5
LOSS_TOLERANCE = 0.01
"""Largest difference between the two losses, in nats: bfloat16 against float32."""

Step = Callable[[Tensor], float]
"""Trains on the chosen examples and returns the loss."""


def paper_options(dimension: int) -> SRGNNOptions:
    """Return the options of SR-GNN as published."""
    return SRGNNOptions(
        dimension=dimension,
        steps=1,
        max_length=50,
        similarity=InnerProduct(kind="inner_product"),
        positions=False,
        dropout=0,
        objective=FullSoftmax(kind="full_softmax"),
    )


def trainer_step(encoder: SRGNN, examples: Examples) -> Step:
    """Return a step as `onward.training.trainer` runs it."""
    optimizers = [torch.optim.Adam(encoder.parameters(), weight_decay=L2, fused=True)]
    return lambda chosen_B: training_step(encoder, optimizers, examples.gather(chosen_B))


def plain_step(encoder: PlainSRGNN, examples: Examples) -> Step:
    """Return a step as most public code runs it."""
    optimizer = torch.optim.Adam(encoder.parameters(), weight_decay=L2, foreach=False, fused=False)

    def step(chosen_B: Tensor) -> float:
        loss = encoder.loss(with_graphs(examples, chosen_B))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def with_graphs(examples: Examples, chosen_B: Tensor) -> PlainBatch:
    """Return the chosen examples as a batch of the plain implementation, whose step includes building the graphs."""
    batch = examples.gather(chosen_B)
    sessions = [[item for item in session if item != PADDING] for session in batch.items_BL.tolist()]
    return plain_batch(sessions, batch.next_items_B.tolist())


class Speed(NamedTuple):
    """The speed of some training steps."""

    examples_per_s: float
    cpu_us_per_example: float
    """Processor time of all threads."""


def speed(step: Step, batches: Iterator[Tensor], steps: int) -> Speed:
    """Measure `step` over some steps."""
    chosen = list(islice(batches, steps))
    started, cpu_started = time.perf_counter(), time.process_time()
    for chosen_B in chosen:
        step(chosen_B)
    examples = sum(map(len, chosen))
    return Speed(examples / (time.perf_counter() - started), (time.process_time() - cpu_started) / examples * 1e6)


def main(
    batch_size: Annotated[int, typer.Option(min=1)] = 512,
    dimension: Annotated[int, typer.Option(min=1)] = 100,
    items: Annotated[int, typer.Option(min=1)] = DIGINETICA.items,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the trainer per round.")] = 40,
    plain_steps: Annotated[int, typer.Option(min=1, help="Steps of the plain implementation per round.")] = 10,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print examples per second of SR-GNN's training step and of a plain implementation's, measured in turn."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    corpus = synthetic_corpus(DIGINETICA._replace(items=items), seed=1)
    torch.manual_seed(1)
    encoder = SRGNN(corpus, paper_options(dimension))
    examples = Examples.of(corpus.sessions, encoder.max_length, torch.device("cpu"))
    step, plain = trainer_step(encoder, examples), plain_step(PlainSRGNN.like(encoder), examples)
    by_length = cycle(examples.shuffled_batches(batch_size, seed=1, epoch=0))
    shuffled = cycle(torch.randperm(len(examples)).split(batch_size))

    probe_B = next(shuffled)
    losses = step(probe_B), plain(probe_B)
    if abs(losses[0] - losses[1]) > LOSS_TOLERANCE:
        raise AssertionError(f"the implementations differ: their losses are {losses[0]} and {losses[1]}")
    speeds: dict[str, list[Speed]] = {"trainer": [], "plain": []}
    for round_number in range(rounds + 1):
        measured = speed(step, by_length, steps), speed(plain, shuffled, plain_steps)
        if round_number > 0:  # the first round is the warm-up
            for values, value in zip(speeds.values(), measured, strict=True):
                values.append(value)
    per_s = {name: [each.examples_per_s for each in values] for name, values in speeds.items()}
    result = {
        "benchmark": "training",
        **machine("torch"),
        "threads": threads,
        "product": str(fast_product_dtype(torch.device("cpu"))).removeprefix("torch."),
        "items": items,
        "dimension": dimension,
        "batch_size": batch_size,
        "examples_per_s": round(median(per_s["trainer"])),
        "cpu_us_per_example": round(median(each.cpu_us_per_example for each in speeds["trainer"]), 1),
        "plain_examples_per_s": round(median(per_s["plain"])),
        "ratio": round(median(a / b for a, b in zip(per_s["trainer"], per_s["plain"], strict=True)), 2),
        "rounds": {name: [round(value) for value in values] for name, values in per_s.items()},
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
