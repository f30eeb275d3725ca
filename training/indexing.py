"""Choose and tune a FAISS index by what it finds of an exact search, with queries of real sessions.

Dimension key: N items, D embedding, P padded dimension, Q queries, K interests.
"""

import time
from collections.abc import Callable

import faiss
import numpy as np
from numpy.typing import NDArray

from service.bundle import IndexInfo, ItemIndex, pad_dimension
from training.index_kind import IndexKind

RECALL_AT = 20
FLAT_BELOW = 20_000
"""Items up to which scanning all of them takes less than half a millisecond."""
DIMENSION_MULTIPLE = 16
"""FAISS falls back to scalar code, eight times slower, where a quantised dimension is no multiple of this."""
MAX_QUERIES = 1_000
TIMED_QUERIES = 200


def build_index(
    vectors_N1D: NDArray[np.float32],
    queries_QKD: NDArray[np.float32],
    kind: IndexKind = IndexKind.AUTO,
    *,
    target_recall: float = 0.99,
    on_step: Callable[[str], object] = lambda step: None,
) -> tuple[faiss.Index, IndexInfo]:
    """Build the fastest index that finds at least `target_recall` of the 20 best items of an exact search.

    An inverted-file index with 16-bit vectors is tuned to the target; it is taken when it answers sooner than a flat
    one, or when `kind` asks for it.

    Args:
        vectors_N1D: item vectors; row 0, the padding, is left out.
        queries_QKD: interests of real sessions; never random vectors, on which any such index looks bad.
        kind: flat, ivf, or auto to choose by size and measurement.
        target_recall: recall@20 against the exact search.
        on_step: told what goes on, for a progress display.
    """
    dimension = -(-vectors_N1D.shape[1] // DIMENSION_MULTIPLE) * DIMENSION_MULTIPLE
    vectors_NP = pad_dimension(vectors_N1D[1:], dimension)
    queries_QKD = queries_QKD[:MAX_QUERIES]
    flat = faiss.IndexFlatIP(dimension)
    flat.add(vectors_NP)
    flat_info = IndexInfo(
        description="Flat", nprobe=None, padded_dimension=dimension, recall_at_20=1.0, queries=len(queries_QKD)
    )
    if kind is IndexKind.FLAT or (kind is IndexKind.AUTO and len(vectors_NP) < FLAT_BELOW) or len(queries_QKD) == 0:
        return flat, flat_info

    lists = list_count(len(vectors_NP))
    description = f"IVF{lists},SQfp16"
    on_step(f"training {description}")
    ivf = faiss.index_factory(dimension, description, faiss.METRIC_INNER_PRODUCT)
    ivf.train(vectors_NP)
    ivf.add(vectors_NP)
    on_step(f"tuning {description} to recall@{RECALL_AT} of {target_recall}")
    nprobe, recall = tune(ivf, vectors_N1D, queries_QKD, lists, target_recall)
    ivf_info = flat_info.model_copy(update={"description": description, "nprobe": nprobe, "recall_at_20": recall})
    if kind is IndexKind.AUTO and not _sooner(
        item_index(ivf, vectors_N1D, nprobe), item_index(flat, vectors_N1D, None), queries_QKD
    ):
        return flat, flat_info
    return ivf, ivf_info


def list_count(items: int) -> int:
    """About 4 sqrt(N) inverted lists, a power of two, with at least 39 items each, as FAISS wants for training."""
    wanted = 2 ** round(np.log2(4 * np.sqrt(items)))
    return int(max(1, min(wanted, 2 ** int(np.log2(max(items / 39, 1))))))


def tune(
    index: faiss.IndexIVF,
    vectors_N1D: NDArray[np.float32],
    queries_QKD: NDArray[np.float32],
    lists: int,
    target_recall: float,
) -> tuple[int, float]:
    """The smallest nprobe whose recall@20 reaches the target, and that recall; all lists when none does."""
    exact = item_index(index, vectors_N1D, lists)
    expected = [set(exact.search(query_KD, RECALL_AT, exact=True).rows.tolist()) for query_KD in queries_QKD]

    def recall(nprobe: int) -> float:
        searched = item_index(index, vectors_N1D, nprobe)
        found = (
            len(best.intersection(searched.search(query_KD, RECALL_AT).rows.tolist()))
            for query_KD, best in zip(queries_QKD, expected, strict=True)
        )
        return sum(found) / sum(map(len, expected))

    low, high = 0, 1
    while (reached := recall(high)) < target_recall and high < lists:
        low, high = high, min(2 * high, lists)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        measured = recall(middle)
        if measured >= target_recall:
            high, reached = middle, measured
        else:
            low = middle
    return high, reached


def item_index(index: faiss.Index, vectors_N1D: NDArray[np.float32], nprobe: int | None) -> ItemIndex:
    """An index as the service searches it."""
    return ItemIndex(index, vectors_N1D=vectors_N1D, nprobe=nprobe)


def _sooner(one: ItemIndex, other: ItemIndex, queries_QKD: NDArray[np.float32]) -> bool:
    """Whether `one` answers sooner, by the median over queries asked in turn."""
    durations: list[tuple[float, float]] = []
    for query_KD in queries_QKD[:TIMED_QUERIES]:
        started = time.perf_counter()
        one.search(query_KD, RECALL_AT)
        between = time.perf_counter()
        other.search(query_KD, RECALL_AT)
        durations.append((between - started, time.perf_counter() - between))
    one_s, other_s = np.median(np.array(durations), axis=0)
    return bool(one_s < other_s)
