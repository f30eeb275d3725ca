"""What one catalog costs to load and to search: `python -m tests.benchmarks.catalog_figures BUNDLE`.

Prints one line of JSON; `tests.benchmarks.catalogs` runs it in a process of its own, of one thread.

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
from tests.benchmarks.catalog_holder import K, sessions_of
from tests.benchmarks.large_bundles import CATEGORIES, MAX_PRICE

TARGETS = (0.95, 0.99)
FILTERS = {
    round(1 / CATEGORIES, 2): {"attribute": "category", "equals": "category-3"},
    0.5: {"attribute": "price", "range": {"max": MAX_PRICE / 2}},
}
"""By the share of items that pass them."""
FLAT_QUERIES = 20
SCANNED_QUERIES = 200
Query = TypeVar("Query")


def main(bundle: Annotated[Path, typer.Argument(exists=True, help="A bundle.")]) -> None:
    """Print how long it takes to load and to search a bundle, in processor time of one thread."""
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


def timed_us(ask: Callable[[Query], object], questions: Sequence[Query] | NDArray[np.float32]) -> dict[str, float]:
    """Median and 99th percentile of what each question takes, in microseconds of processor time.

    All are asked once before, so that what they read of the bundle's files is mapped into memory.
    """
    durations = []
    for question in questions:
        ask(question)
    for question in questions:
        started = time.thread_time_ns()
        ask(question)
        durations.append((time.thread_time_ns() - started) / 1000)
    return {"p50_us": round(median(durations), 1), "p99_us": round(quantiles(durations, n=100)[98], 1)}


def _with_targets(bundle: Bundle, folder: Path, queries_QKD: NDArray[np.float32]) -> dict[str, Any]:
    """The bundle's index tuned to each target, beside a flat one."""
    info, vectors = bundle.manifest.index, IndexVectors(bundle.vectors_N1D)
    index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP_IFC)
    flat = TunedIndex("Flat", flat_index(vectors), SearchParameters(), 1.0).item_index(vectors)
    of_flat = timed_us(lambda query: flat.search(query, K), queries_QKD[:FLAT_QUERIES])
    tuning = IndexTuner.of(vectors, queries_QKD, max(TARGETS))
    return {
        "flat": of_flat,
        "targets": {
            target: _at_target(replace(tuning, target_recall=target), info, index, of_flat["p50_us"])
            for target in TARGETS
        },
    }


def _at_target(tuning: IndexTuner, info: IndexInfo, index: faiss.Index, flat_us: float) -> dict[str, Any]:
    tuned = tuning.tune(info.description, index, info.candidates_per_k)
    searched = tuned.item_index(tuning.vectors)
    of_index = timed_us(lambda query: searched.search(query, K), tuning.queries_QKD)
    return {
        "visits": tuned.parameters.visits,
        "recall_at_20": round(tuned.recall, 4),
        **of_index,
        "share_of_flat": round(of_index["p50_us"] / flat_us, 5),
    }


def _filter(share: float) -> Filter:
    return Filter.model_validate(FILTERS[share])


def _filtered(bundle: Bundle, share: float, queries_QKD: NDArray[np.float32]) -> dict[str, Any]:
    """Searches under a filter, compared with scans of what passes it."""
    started = time.perf_counter()
    eligible = bundle.catalog.eligible(_filter(share))
    first_s = time.perf_counter() - started
    asked = queries_QKD[:SCANNED_QUERIES]
    return {
        "eligible": eligible.count,
        "first_use_ms": round(1000 * first_s, 1),
        "strategy": bundle.index.plan(eligible).strategy,
        "recall_at_20": round(_recall(bundle.index, eligible, asked), 4),
        **timed_us(lambda query: bundle.index.search(query, K, eligible=eligible), asked),
    }


def _recall(index: ItemIndex, eligible: Eligible, queries_QKD: NDArray[np.float32]) -> float:
    found = wanted = 0
    for query_KD in queries_QKD:
        best = set(index.scan(query_KD, K, eligible=eligible).rows.tolist())
        found += len(best.intersection(index.search(query_KD, K, eligible=eligible).rows.tolist()))
        wanted += len(best)
    return found / wanted


def _retrieved(bundle: Bundle, sessions: list[SessionView], condition: Filter | None) -> dict[str, float]:
    """Whole answers to sessions, encoded and searched."""
    options = Options(K, filter=condition)
    bundle.retrieve(sessions[0], options)
    return timed_us(lambda seen: bundle.retrieve(seen, options), sessions)


if __name__ == "__main__":
    typer.run(main)
