"""Search under filters of every selectivity: `python -m tests.benchmarks.filters BUNDLE`.

Searches a bundle's index with the queries it was tuned on, where a random share of the items is eligible. Each search
strategy is timed and its recall measured against exact search, and the strategy that ItemIndex chooses is named.
Prints one line of JSON.
"""

import json
import time
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from onward.bundle import (
    INDEX,
    QUERIES,
    VECTORS,
    Eligible,
    FaissIndex,
    IndexInfo,
    ItemIndex,
    SearchParameters,
    read_manifest,
)
from onward.training.hardware import machine
from onward.training.index.building import IndexVectors
from onward.training.index.tuning import exact_rows

K = 20
SHARES = (0.95, 0.9, 0.5, 0.1, 0.01, 0.001)

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


class Query(NamedTuple):
    """A query and the nearest of the eligible rows."""

    query_KD: NDArray[np.float32]
    best: set[int]


def measure(search: Search, queries: Sequence[Query]) -> dict[str, Any]:
    """Return the median processor time of a query in microseconds, and recall@20, after a warm-up over all queries."""
    durations, hits = [], 0
    for query_KD, _ in queries:
        search(query_KD)
    for query_KD, best in queries:
        started = time.thread_time()
        rows = search(query_KD)
        durations.append(1e6 * (time.thread_time() - started))
        hits += len(best.intersection(rows.tolist()))
    expected = max(1, sum(len(best) for _, best in queries))
    return {"p50_us": round(median(durations), 1), "recall_at_20": round(hits / expected, 3)}


def measure_strategies(
    faiss_index: FaissIndex,
    index: ItemIndex,
    parameters: SearchParameters,
    eligible: Eligible,
    queries_QKD: NDArray[np.float32],
) -> dict[str, Any]:
    """Measure every strategy to search the eligible items."""
    queries = [Query(query, set(index.scan(query, K, eligible=eligible).rows.tolist())) for query in queries_QKD]

    def visiting(visits: int) -> Search:
        per_k = parameters.candidates_per_k

        def search(query_KD: NDArray[np.float32]) -> NDArray[np.int64]:
            ids, _ = faiss_index.search(query_KD, per_k * K, search_width=visits, selector=eligible.selector)
            rows: NDArray[np.int64] = ids[0] + 1
            if per_k == len(query_KD) == 1:
                return rows
            rows = np.unique(ids[ids >= 0]) + 1
            scores = (index.vectors(rows) @ query_KD.T).max(axis=1)
            return rows[np.argsort(-scores)[:K]]

        return search

    plan = index.plan(eligible)
    result = {
        "eligible": eligible.count,
        "chosen": {
            "strategy": plan.strategy,
            "visits": plan.search_width,
            **measure(lambda query_KD: index.search(query_KD, K, eligible=eligible).rows, queries),
        },
        "scan": measure(lambda query_KD: index.scan(query_KD, K, eligible=eligible).rows, queries),
    }
    if parameters.search_width is None:
        return result
    wider = faiss_index.clamp_width(ceil(parameters.search_width * eligible.items / max(1, eligible.count)))
    return {
        **result,
        "masked": measure(visiting(parameters.search_width), queries),
        "wide": {"visits": wider, **measure(visiting(wider), queries)},
    }


def random_share(items: int, share: float, generator: np.random.Generator) -> Eligible:
    """Make each item eligible with a probability of `share`."""
    rows_N1 = generator.random(items + 1) < share
    rows_N1[0] = False
    return Eligible(rows_N1, items=items)


def measure_index(
    folder: Path, info: IndexInfo, vectors_N1D: NDArray[np.float32], queries_QKD: NDArray[np.float32]
) -> dict[str, Any]:
    """Measure the time and recall of each strategy, by the share of eligible items."""
    generator = np.random.default_rng(1)
    index = ItemIndex.load(folder / INDEX, info, vectors_N1D=vectors_N1D)
    faiss_index = FaissIndex.load(folder / INDEX, info, len(vectors_N1D) - 1)
    best = exact_rows(IndexVectors(vectors_N1D), queries_QKD)
    queries = [Query(query, rows) for query, rows in zip(queries_QKD, best, strict=True)]
    parameters = SearchParameters(info.nprobe or info.ef_search, info.candidates_per_k)
    return {
        "without": measure(lambda query_KD: index.search(query_KD, K).rows, queries),
        "shares": {
            share: measure_strategies(
                faiss_index, index, parameters, random_share(len(vectors_N1D) - 1, share, generator), queries_QKD
            )
            for share in SHARES
        },
    }


def main(
    bundle: Annotated[Path, typer.Argument(exists=True, help="A bundle.")],
    queries: Annotated[int, typer.Option(min=2)] = 200,
) -> None:
    """Print the time and recall of each strategy for search under a filter."""
    folder = bundle.resolve()
    info = read_manifest(folder)[0].index
    vectors_N1D = np.load(folder / VECTORS, mmap_mode="r")
    queries_QKD = np.load(folder / QUERIES, allow_pickle=False)[:queries]
    result = {
        "benchmark": "filters",
        **machine("faiss-cpu", "numpy"),
        "items": len(vectors_N1D) - 1,
        "dimension": vectors_N1D.shape[1],
        "index": info.model_dump(exclude={"tried"}),
        **measure_index(folder, info, np.asarray(vectors_N1D), queries_QKD),
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
