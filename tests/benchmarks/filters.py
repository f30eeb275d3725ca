"""Search under filters of every selectivity: `python -m tests.benchmarks.filters`.

Builds an index of made-up clustered vectors and asks it for items of which only some are eligible: each way to search
them is timed and compared with an exact search, and the way that ItemIndex takes is named. Prints one line of JSON.
"""

import json
import time
from collections.abc import Callable
from math import ceil
from statistics import median
from typing import Annotated, Any

import faiss
import numpy as np
import typer
from numpy.typing import NDArray

from service.bundle import Effort, FaissIndex, ItemIndex
from service.bundle.eligible import Eligible
from training.machine import machine

K, DIMENSION, CLUSTERS, SPREAD = 20, 64, 2_000, 0.7
SHARES = (0.9, 0.5, 0.1, 0.01, 0.001)

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def clustered_vectors(items: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """vectors_N1D of lengths 0.8 to 1.2 around random centres."""
    centres = generator.normal(size=(CLUSTERS, DIMENSION))
    vectors_ND = centres[generator.integers(0, CLUSTERS, items)] + SPREAD * generator.normal(size=(items, DIMENSION))
    vectors_ND *= generator.uniform(0.8, 1.2, (items, 1)) / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.vstack([np.zeros((1, DIMENSION)), vectors_ND]).astype(np.float32)


def measured(search: Search, queries_Q1D: NDArray[np.float32], best: list[set[int]] | None = None) -> dict[str, Any]:
    """Median microseconds of a query, and recall@20 of the best items where they are given."""
    durations, found = [], []
    for query_1D in queries_Q1D:
        started = time.perf_counter()
        rows = search(query_1D)
        durations.append(1e6 * (time.perf_counter() - started))
        found.append(set(rows.tolist()))
    result: dict[str, Any] = {"p50_us": round(median(durations))}
    if best is not None:
        hits = sum(len(expected & rows) for expected, rows in zip(best, found, strict=True))
        result["recall_at_20"] = round(hits / max(1, sum(map(len, best))), 3)
    return result


def under_mask(
    faiss_index: faiss.IndexIVF, index: ItemIndex, eligible: Eligible, queries_Q1D: NDArray[np.float32], nprobe: int
) -> dict[str, Any]:
    """Every way to search the eligible items."""
    best = [set(index.scan(query_1D, K, eligible=eligible).rows.tolist()) for query_1D in queries_Q1D]

    def visiting(lists: int) -> Search:
        parameters = faiss.SearchParametersIVF(sel=eligible.selector, nprobe=lists)
        return lambda query_1D: faiss_index.search(query_1D, K, params=parameters)[1][0] + 1

    plan, wider = index.plan(eligible), min(faiss_index.nlist, ceil(nprobe * eligible.items / eligible.count))
    return {
        "eligible": eligible.count,
        "chosen": {
            "strategy": plan.strategy,
            "nprobe": plan.visits,
            **measured(lambda query_1D: index.search(query_1D, K, eligible=eligible).rows, queries_Q1D, best),
        },
        "masked": measured(visiting(nprobe), queries_Q1D, best),
        "wide": {"nprobe": wider, **measured(visiting(wider), queries_Q1D, best)},
        "scan": measured(lambda query_1D: index.scan(query_1D, K, eligible=eligible).rows, queries_Q1D),
    }


def main(
    items: Annotated[int, typer.Option(min=CLUSTERS)] = 100_000,
    lists: Annotated[int, typer.Option(min=1)] = 1_024,
    nprobe: Annotated[int, typer.Option(min=1)] = 64,
    queries: Annotated[int, typer.Option(min=2)] = 200,
) -> None:
    """Print what each way to search under a filter costs and finds."""
    generator = np.random.default_rng(1)
    vectors_N1D = clustered_vectors(items, generator)
    faiss.omp_set_num_threads(1)
    faiss_index = faiss.index_factory(DIMENSION, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    faiss_index.train(vectors_N1D[1:])
    faiss_index.add(vectors_N1D[1:])
    index = ItemIndex(FaissIndex(faiss_index), vectors_N1D=vectors_N1D, effort=Effort(nprobe))
    noise_QD = generator.normal(size=(queries, DIMENSION)) / np.sqrt(DIMENSION)
    queries_Q1D = (vectors_N1D[generator.integers(1, items, queries)] + noise_QD).astype(np.float32)[:, np.newaxis]
    best = [set(index.search(query_1D, K, exact=True).rows.tolist()) for query_1D in queries_Q1D]
    result = {
        "benchmark": "filters",
        **machine("faiss-cpu", "numpy"),
        "index": {"items": items, "dimension": DIMENSION, "description": f"IVF{lists},SQfp16", "nprobe": nprobe},
        "without": measured(lambda query_1D: index.search(query_1D, K).rows, queries_Q1D, best),
        "shares": {
            share: under_mask(faiss_index, index, random_share(items, share, generator), queries_Q1D, nprobe)
            for share in SHARES
        },
    }
    typer.echo(json.dumps(result))


def random_share(items: int, share: float, generator: np.random.Generator) -> Eligible:
    """Each item eligible by chance."""
    rows_N1 = generator.random(items + 1) < share
    rows_N1[0] = False
    return Eligible(rows_N1, items=items)


if __name__ == "__main__":
    typer.run(main)
