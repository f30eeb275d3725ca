"""What ranks take for a step: `python -m tests.benchmarks.ranks --ranks 2 --items 1000000 --table sharded`.

Starts ranks on this machine by torchrun, which train an SR-GNN by the full softmax on random sessions for a few steps.
Prints as a line of JSON: examples a second of all ranks and of each, bytes that a rank sends in a step, and for each
rank its largest resident memory and the memory after the last step, libraries included (`libraries_mib`).
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from onward.training.data.corpus import Corpus
from onward.training.data.examples import Examples
from onward.training.data.small_corpus import sessions
from onward.training.hardware import machine
from onward.training.interruption import Interruption
from onward.training.losses.objectives import FullSoftmax
from onward.training.models.layers import InnerProduct
from onward.training.models.srgnn import SRGNN, SRGNNOptions
from onward.training.ranks.ranks import Ranks
from onward.training.recipe import RECIPES, Recipe
from onward.training.trainer import keep_freed_memory, loss_and_gradients, make_optimizers, shard_items

SESSIONS, LENGTH = 4_096, 6
WARM_UP_STEPS = 2


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def train_steps(ranks: Ranks, items: int, dimension: int, batch: int, steps: int, table: str) -> list[dict[str, Any]]:
    """Train for some steps, and return what each rank took, on rank 0."""
    keep_freed_memory()
    libraries = _resident_mib()
    rows = np.random.default_rng(1).integers(1, items + 1, (SESSIONS, LENGTH))
    corpus = Corpus(items, 0, (sessions(*rows.tolist()),))
    recipe = Recipe.load(RECIPES / "srgnn.toml")
    options = SRGNNOptions(
        dimension=dimension,
        steps=1,
        max_length=LENGTH,
        similarity=InnerProduct(kind="inner_product"),
        positions=False,
        dropout=0,
        objective=FullSoftmax(kind="full_softmax"),
    )
    torch.manual_seed(1)
    encoder = SRGNN(corpus, options)
    if table == "sharded":
        shard_items(recipe, encoder, ranks)
    optimizers = make_optimizers(encoder, recipe.training)
    examples = Examples.of(corpus.sessions, LENGTH, torch.device("cpu"))
    batches = examples.shuffled_batches(batch, 1, 0)[: WARM_UP_STEPS + steps]
    encoder.train()
    began, sent = 0.0, 0
    for number, examples_B in enumerate(batches):
        if number == WARM_UP_STEPS:
            ranks.any(False)  # all begin together
            began, sent = time.perf_counter(), ranks.sent_bytes
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss_and_gradients(encoder, examples, examples_B, ranks, Interruption())
        for optimizer in optimizers:
            optimizer.step()
    seconds = time.perf_counter() - began
    taken = {
        "examples_per_s": round(steps * batch / ranks.size / seconds, 1),
        "sent_bytes_a_step": (ranks.sent_bytes - sent) // steps,
        "libraries_mib": libraries,
        "peak_mib": _peak_mib(),
        "resident_mib": _resident_mib(),
    }
    return ranks.gathered(taken)


def main(
    ranks: Annotated[int, typer.Option(min=1, help="Number of ranks.")] = 2,
    items: Annotated[int, typer.Option(min=1_000, help="Items of the catalog.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(min=1, help="Numbers of an item.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Examples of a batch of all ranks.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure.")] = 5,
    table: Annotated[str, typer.Option(help="whole or sharded.")] = "sharded",
) -> None:
    """Start the ranks, and print what they take."""
    if "RANK" in os.environ:
        own = Ranks.of_environment()
        with own.joined(torch.device("cpu")):
            taken = train_steps(own, items, dimension, batch, steps, table)
        if own.is_leader:
            print(json.dumps(taken))
        return
    options = {"items": items, "dimension": dimension, "batch": batch, "steps": steps, "table": table}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", "tests.benchmarks.ranks", *arguments]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    of_ranks = json.loads(ended.stdout.splitlines()[-1])
    together = round(sum(taken["examples_per_s"] for taken in of_ranks), 1)
    print(json.dumps({**machine("torch"), "ranks": ranks, **options, "examples_per_s": together, "each": of_ranks}))


if __name__ == "__main__":
    typer.run(main)
