"""Time to load and to search one catalog: `python -m tests.benchmarks.catalog_latency BUNDLE`.

Prints one line of JSON; `tests.benchmarks.catalogs` runs it in a separate process with one thread.

Dimension key: Q queries, K interests, D embedding.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, TypeVar

import faiss
import numpy as np
import typer
from numpy.typing import NDArray

from onward.bundle import (
    INDEX,
    QUERIES,
    Bundle,
    Eligible,
    Filter,
    IndexInfo,
    ItemIndex,
    Options,
    SearchParameters,
    SessionView,
)
from onward.training.index.building import IndexVectors, flat_index
from onward.training.index.tuning import IndexTuner, TunedIndex
from tests.benchmarks.catalog_memory import K, sessions_of
from tests.benchmarks.large_bundles import CATEGORIES, MAX_PRICE

TARGETS = (0.95, 0.99)
FILTERS = {
    round(1 / CATEGORIES, 2): {"attribute": "category", "equals": "category-3"},
    0.5: {"attribute": "price", "range": {"max": MAX_PRICE / 2}},
}
"""Filters by the share of items that pass them."""
FLAT_QUERIES = 20
SCANNED_QUERIES = 200
Query = TypeVar("Query")


def main(bundle: Annotated[Path, typer.Argument(exists=True, help="A bundle.")]) -> None:
    """Print the time to load a bundle, and to search it in processor time of one thread."""
    started = time.perf_counter()
    loaded = Bundle.load(bundle)
    loading_s = time.perf_counter() - started
    started = time.perf_counter()
    loaded.catalog.make_columns()
    columns_s = time.perf_counter() - started
    queries_QKD = np.load(bundle / QUERIES, allow_pickle=False)
    sessions = sessions_of(loaded)
    typer.echo(
        json.dumps(
            {
                "load_s": round(loading_s, 2),
                "columns_s": round(columns_s, 2),
                **_with_targets(loaded, bundle.resolve(), queries_QKD),
                "filters": {share: _filtered(loaded, share, queries_QKD) for share in FILTERS},
                "retrieve": {
                    "without_filter": _retrieved(loaded, sessions, None),
                    **{share: _retrieved(loaded, sessions, _filter(share)) for share in FILTERS},
                },
            }
        )
    )


def timed_us(search: Callable[[Query], object], queries: Sequence[Query] | NDArray[np.float32]) -> dict[str, float]:
    """Return the median and the 99th percentile over the queries, in microseconds of processor time.

    All queries run once before, so that the parts of the bundle's files that they read are mapped into memory.
    """
    durations = []
    for query in queries:
        search(query)
    for query in queries:
        started = time.thread_time_ns()
        search(query)
        durations.append((time.thread_time_ns() - started) / 1000)
    return {"p50_us": round(median(durations), 1), "p99_us": round(quantiles(durations, n=100)[98], 1)}


def _with_targets(bundle: Bundle, folder: Path, queries_QKD: NDArray[np.float32]) -> dict[str, Any]:
    """Measure the bundle's index tuned to each target recall, and a flat index for comparison."""
    info, vectors = bundle.manifest.index, IndexVectors(bundle.vectors_N1D)
    index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP_IFC)
    flat = TunedIndex("Flat", flat_index(vectors), SearchParameters(), 1.0).item_index(vectors)
    flat_times = timed_us(lambda query: flat.search(query, K), queries_QKD[:FLAT_QUERIES])
    tuning = IndexTuner.of(vectors, queries_QKD, max(TARGETS))
    return {
        "flat": flat_times,
        "targets": {
            target: _at_target(replace(tuning, target_recall=target), info, index, flat_times["p50_us"])
            for target in TARGETS
        },
    }


def _at_target(tuning: IndexTuner, info: IndexInfo, index: faiss.Index, flat_us: float) -> dict[str, Any]:
    tuned = tuning.tune(info.description, index, info.candidates_per_k)
    searched = tuned.item_index(tuning.vectors)
    index_times = timed_us(lambda query: searched.search(query, K), tuning.queries_QKD)
    return {
        "visits": tuned.parameters.search_width,
        "recall_at_20": round(tuned.recall, 4),
        **index_times,
        "share_flat_times": round(index_times["p50_us"] / flat_us, 5),
    }


def _filter(share: float) -> Filter:
    return Filter.model_validate(FILTERS[share])


def _filtered(bundle: Bundle, share: float, queries_QKD: NDArray[np.float32]) -> dict[str, Any]:
    """Measure searches under a filter; recall is against a scan of the eligible items."""
    started = time.perf_counter()
    eligible = bundle.catalog.eligible(_filter(share))
    first_s = time.perf_counter() - started
    queries = queries_QKD[:SCANNED_QUERIES]
    return {
        "eligible": eligible.count,
        "first_use_ms": round(1000 * first_s, 1),
        "strategy": bundle.index.plan(eligible).strategy,
        "recall_at_20": round(_recall(bundle.index, eligible, queries), 4),
        **timed_us(lambda query: bundle.index.search(query, K, eligible=eligible), queries),
    }


def _recall(index: ItemIndex, eligible: Eligible, queries_QKD: NDArray[np.float32]) -> float:
    hits = expected = 0
    for query_KD in queries_QKD:
        best = set(index.scan(query_KD, K, eligible=eligible).rows.tolist())
        hits += len(best.intersection(index.search(query_KD, K, eligible=eligible).rows.tolist()))
        expected += len(best)
    return hits / expected


def _retrieved(bundle: Bundle, sessions: list[SessionView], condition: Filter | None) -> dict[str, float]:
    """Measure complete retrievals for sessions: encoding and search."""
    options = Options(K, filter=condition)
    bundle.retrieve(sessions[0], options)
    return timed_us(lambda session: bundle.retrieve(session, options), sessions)


if __name__ == "__main__":
    typer.run(main)
