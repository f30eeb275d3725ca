"""Training speed of SR-GNN at Diginetica's sizes: `python -m tests.benchmarks.training [--batch-size 512]`.

Times steps of the trainer's own loop body on made-up sessions with Diginetica's number of items and lengths, and in
turn with them the same encoder under a plain softmax (float32 scores, autograd's cross-entropy, Adam weight by weight).
Prints one line of JSON: medians of rounds, and their ratio.
"""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from training.data.dataset import Sessions
from training.data.examples import Examples
from training.losses import fast_product_dtype
from training.machine import machine
from training.models.srgnn import SRGNN, InnerProduct, SRGNNOptions
from training.trainer import keep_freed_memory

ITEMS, SESSIONS, MEAN_LENGTH = 43_097, 60_000, 4.85
OPTIONS = SRGNNOptions(
    dimension=100, steps=1, max_length=50, similarity=InnerProduct(kind="inner_product"), positions=False, dropout=0
)


def sessions(seed: int) -> Sessions:
    """Sessions of 2 to 70 clicks, on average as long as Diginetica's, over items of power-law popularity."""
    generator = np.random.default_rng(seed)
    lengths = np.minimum(1 + generator.geometric(1 / (MEAN_LENGTH - 1), size=SESSIONS), 70)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    popularity = 1 / np.arange(10, ITEMS + 10)
    rows = 1 + generator.choice(ITEMS, size=offsets[-1], p=popularity / popularity.sum())
    is_target = np.ones(len(rows), dtype=np.bool_)
    is_target[offsets[:-1]] = False
    return Sessions(rows.astype(np.int64), offsets.astype(np.int64), is_target)


def fused_step(encoder: SRGNN, optimizer: torch.optim.Optimizer) -> Callable[[Tensor, Tensor], None]:
    """A step as `training.trainer` takes it."""

    def step(items_BL: Tensor, targets_B: Tensor) -> None:
        loss = encoder.loss(items_BL, targets_B)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def plain_step(encoder: SRGNN, optimizer: torch.optim.Optimizer) -> Callable[[Tensor, Tensor], None]:
    """The same mathematics as most code writes it."""

    def step(items_BL: Tensor, targets_B: Tensor) -> None:
        scores_BN = encoder(items_BL).squeeze(1) @ encoder.item_vectors()[1:].T
        loss = torch.nn.functional.cross_entropy(scores_BN, targets_B - 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def main(
    batch_size: Annotated[int, typer.Option(min=1)] = 512,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each kind in a round.")] = 40,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print examples a second of SR-GNN's training step and of a plain one, taken in turn."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    examples = Examples.of([sessions(seed=1)], OPTIONS.max_length, torch.device("cpu"))
    torch.manual_seed(1)
    encoder, plain_encoder = SRGNN(ITEMS, OPTIONS), SRGNN(ITEMS, OPTIONS)
    kinds = {
        "fused": fused_step(encoder, torch.optim.Adam(encoder.parameters(), weight_decay=1e-5, fused=True)),
        "plain": plain_step(
            plain_encoder, torch.optim.Adam(plain_encoder.parameters(), weight_decay=1e-5, foreach=False)
        ),
    }
    batches = [examples.gather(batch) for batch in examples.shuffled(batch_size, seed=1, epoch=0)]
    per_s: dict[str, list[float]] = {name: [] for name in kinds}
    for round_number in range(rounds + 1):
        for name, step in kinds.items():
            taken = [batches[(round_number * steps + i) % len(batches)] for i in range(steps)]
            started = time.perf_counter()
            for items_BL, targets_B in taken:
                step(items_BL, targets_B)
            if round_number > 0:  # the first round warms up
                per_s[name].append(sum(len(targets_B) for _, targets_B in taken) / (time.perf_counter() - started))
    result = {
        "benchmark": "training",
        **machine("torch"),
        "threads": threads,
        "product": str(fast_product_dtype(torch.device("cpu"))).removeprefix("torch."),
        "items": ITEMS,
        "dimension": OPTIONS.dimension,
        "batch_size": batch_size,
        "examples_per_s": round(median(per_s["fused"])),
        "plain_examples_per_s": round(median(per_s["plain"])),
        "ratio": round(median(a / b for a, b in zip(per_s["fused"], per_s["plain"], strict=True)), 2),
        "rounds": {name: [round(value) for value in values] for name, values in per_s.items()},
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
