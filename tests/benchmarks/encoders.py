"""Latency of encoders as the service runs them: `python -m tests.benchmarks.encoders [BUNDLES ...]`.

Encodes sessions of 20 items, one at a time in one thread, with the encoder of every bundle in turn. Without arguments:
with an untrained encoder of each model, exported at its paper's sizes. With `--engines`: one SR-GNN on every engine
that can run it, at several lengths; see `tests.benchmarks.engines`. Prints one line of JSON.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import quantiles
from typing import Annotated

import torch
import typer

from onward.bundle import Bundle, Encoder
from onward.training.export.onnx_program import write_program
from onward.training.hardware import machine
from onward.training.models.encoder import UserEncoder
from onward.training.recipe import Recipe
from tests.benchmarks.engines import PROFILED, RECIPE, compare, kernel_parts
from tests.benchmarks.paper_recipes import paper_recipes
from tests.benchmarks.synthetic_corpus import sizes_of, synthetic_corpus

DISTINCT = 0.7
"""Share of a session's clicks that are on a new item."""
WARM_UP = 20


def bundled_encoders(folders: list[Path]) -> Iterator[tuple[str, Encoder, int]]:
    """Yield name, encoder and item count of each bundle; a folder of bundles stands for its current one."""
    for folder in folders:
        bundle = Bundle.load(folder / "current" if (folder / "current").is_symlink() else folder)
        yield f"{bundle.manifest.model} ({folder})", bundle.encoder, bundle.manifest.items


def untrained_encoders(folder: Path) -> Iterator[tuple[str, Encoder, int]]:
    """Yield name, encoder and item count of every paper's recipe; exports the programs to `folder`."""
    for name in paper_recipes():
        recipe, sizes = Recipe.load(Path(name)), sizes_of(name)
        torch.manual_seed(1)
        encoder = recipe.build(synthetic_corpus(sizes, seed=1)).eval()
        with torch.inference_mode():
            interests, dimension = encoder(torch.tensor([[1, 2]])).shape[1:]
        program = folder / name / "encoder.onnx"
        program.parent.mkdir()
        write_program(encoder, program)
        yield (
            name,
            Encoder.load(
                program,
                items=sizes.items,
                dimension=dimension,
                interests=interests,
                max_length=encoder.max_length,
                users=sizes.users if isinstance(encoder, UserEncoder) else 0,
            ),
            sizes.items,
        )


def session(generator: random.Random, items: int, length: int) -> list[int]:
    """Draw item rows, some of them repeated."""
    pool = generator.sample(range(1, items + 1), min(items, max(1, round(DISTINCT * length))))
    return pool[:length] + generator.choices(pool, k=length - len(pool[:length]))


def durations_us(encoders: Mapping[str, tuple[Encoder, int]], sessions: int, length: int) -> dict[str, list[float]]:
    """Return the latencies of each encoder; the encoders take turns session by session."""
    generator = random.Random(1)
    durations: dict[str, list[float]] = {name: [] for name in encoders}
    for number in range(WARM_UP + sessions):
        for name, (encoder, items) in encoders.items():
            rows = session(generator, items, length)
            started = time.perf_counter()
            encoder.encode(rows)
            if number >= WARM_UP:
                durations[name].append(1e6 * (time.perf_counter() - started))
    return durations


def main(
    bundles: Annotated[list[Path] | None, typer.Argument(exists=True, help="Bundles, or folders of bundles.")] = None,
    sessions: Annotated[int, typer.Option(min=2)] = 2_000,
    length: Annotated[int, typer.Option(min=1, help="Items per session.")] = 20,
    engines: Annotated[bool, typer.Option("--engines", help="Compare the engines of one encoder instead.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of --engines.")] = 15,
) -> None:
    """Print the latency of each bundle's encoder, or of each model's."""
    if engines:
        with tempfile.TemporaryDirectory() as folder:
            compared = compare(Path(folder), session, rounds)
            parts = kernel_parts(Path(folder), session, rounds)
        figures = {"recipe": RECIPE, "by_length": compared, "kernel_items": PROFILED, "kernel_parts_us": parts}
        typer.echo(json.dumps({"benchmark": "engines", **machine("torch", "onnxruntime", "numba"), **figures}))
        return
    with tempfile.TemporaryDirectory() as folder:
        named = bundled_encoders(bundles) if bundles else untrained_encoders(Path(folder))
        encoders = {name: (encoder, items) for name, encoder, items in named}
        durations = durations_us(encoders, sessions, length)
    cuts = {name: quantiles(values, n=100) for name, values in durations.items()}
    result = {
        "benchmark": "encoders",
        **machine("onnxruntime"),
        "length": length,
        "encoders": {
            name: {"items": encoders[name][1], "p50_us": round(cut[49], 1), "p99_us": round(cut[98], 1)}
            for name, cut in cuts.items()
        },
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
