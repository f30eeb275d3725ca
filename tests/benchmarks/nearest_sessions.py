"""Processor time of nearest sessions in one thread: `python -m tests.benchmarks.nearest_sessions --clicks 1000000`.

Sessions have geometric lengths, and independent items of power-law popularity: neighbours share little, so that they
vote for more items than in a real log. Measured are the compiled search alone (the votes for all items) and the whole
retrieval from the bundle (k = 20), beside what Serenade publishes for its search. Prints one line of JSON.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))  # before they are imported

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onward.bundle import (
    Bundle,
    KernelUnavailable,
    NearestSessionsInfo,
    Options,
    SessionView,
    write_manifest,
    write_stored_sessions,
)
from onward.training.data.dataset import Sessions
from onward.training.data.session_index import index_sessions
from onward.training.hardware import machine
from onward.training.models.nearest_sessions import INTEREST_LENGTH
from onward.training.recipe import Recipe
from tests.benchmarks.synthetic_corpus import Sizes, synthetic_corpus
from tests.bundles import item_ids, write_files

SERENADE = {
    "search_p90_ms": 1.7,
    "clicks": "up to 60 million, 1.76 million items",
    "source": "github.com/bolcom/serenade, readme; Kersbergen et al., SIGMOD 2022",
}
AIMS_US = {"p50": 300, "p99": 1_000}
MEAN_LENGTH = 4.85
WARM_UP = 200


def main(
    clicks: Annotated[int, typer.Option(min=10_000, help="Events of the past sessions.")] = 1_000_000,
    items: Annotated[int, typer.Option(min=1_000, help="Items of the catalog.")] = 100_000,
    queries: Annotated[int, typer.Option(min=100, help="Sessions to answer.")] = 5_000,
) -> None:
    """Print quantiles of the processor time."""
    options = Recipe.load(Path("knn")).encoder
    generator = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vectors_ND = generator.normal(0, INTEREST_LENGTH, (items, options.dimension)).astype(np.float32)
        manifest = write_files(folder, item_ids("i", items), vectors_ND=vectors_ND, index="IVF256,Flat", nprobe=8)
        started = time.perf_counter()
        stored, counted = index_sessions([_sessions(clicks, items, seed=1)], items, options.candidates)
        indexed_s = time.perf_counter() - started
        write_stored_sessions(folder, stored)
        info = NearestSessionsInfo(
            sessions=len(stored.items_offsets) - 1,
            counted_sessions=counted,
            items=items,
            last_events=options.max_length,
            weight=1.0,
            **options.model_dump(exclude={"dimension", "max_length"}),
        )
        write_manifest(folder, manifest.model_copy(update={"nearest_sessions": info}))
        bundle = Bundle.load(folder, verify=False)
        with suppress(KernelUnavailable):
            bundle.accelerate(folder)
        assert bundle.nearest_sessions is not None
        assert bundle.nearest_sessions.engine == "kernel"
        asked = _sessions(round(queries * MEAN_LENGTH * 1.2), items, seed=2)
        sessions = [rows.tolist() for rows in np.split(asked.rows, asked.offsets[1:-1])][:queries]
        sessions = [rows[: generator.integers(1, len(rows) + 1)] for rows in sessions]
        views = [SessionView([f"i{row}" for row in rows]) for rows in sessions]
        result = {
            "benchmark": "nearest_sessions",
            **machine("numba", "faiss-cpu", "onnxruntime"),
            "clicks": clicks,
            "items": items,
            "stored_sessions": info.sessions,
            "index_mb": round(sum(array.nbytes for array in stored) / 1e6, 1),
            "indexed_s": round(indexed_s, 1),
            "items_with_votes": round(float(np.mean([len(bundle.nearest_sessions.votes(s)[0]) for s in sessions]))),
            "search_us": _us(bundle.nearest_sessions.votes, sessions),
            "retrieve_us": _us(lambda view: bundle.retrieve(view, Options(20)), views),
            "aims_us": AIMS_US,
            "serenade": SERENADE,
        }
    typer.echo(json.dumps(result))


def _sessions(clicks: int, items: int, *, seed: int) -> Sessions:
    """Draw sessions of about this many clicks."""
    parts = [
        synthetic_corpus(Sizes(items, 0, MEAN_LENGTH), seed=seed * 10_000 + part).sessions[0]
        for part in range(-(-clicks // 280_000))
    ]
    rows = np.concatenate([part.rows for part in parts])
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    count = int(np.searchsorted(offsets, clicks, "right")) - 1
    end = int(offsets[count])
    return Sessions(rows[:end], offsets[: count + 1], np.ones(end, np.bool_), np.zeros(count, np.int64))


def _us(call: Callable[[Any], object], queries: Sequence[Any]) -> dict[str, float]:
    for query in queries[:WARM_UP]:
        call(query)
    durations = []
    for query in queries:
        started = time.thread_time()
        call(query)
        durations.append(1e6 * (time.thread_time() - started))
    cuts = np.quantile(durations, [0.5, 0.9, 0.99])
    return {name: round(float(cut), 1) for name, cut in zip(("p50", "p90", "p99"), cuts, strict=True)}


if __name__ == "__main__":
    typer.run(main)
