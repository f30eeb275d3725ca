"""Choose a FAISS index by what it finds of an exact search and how soon, with queries of real sessions.

Dimension key: N items, D embedding, Q queries, K interests.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from onward.bundle import IndexInfo, TriedIndex
from onward.training.index.building import (
    NEIGHBOURS,
    IndexVectors,
    InvertedLists,
    flat_index,
    graph_index,
    inverted_file,
    list_count,
)
from onward.training.index.kind import TARGET_RECALL, IndexKind
from onward.training.index.tuning import RECALL_AT, IndexTuner, TunedIndex

FLAT_BELOW = 20_000
"""Items up to which scanning all of them takes less than half a millisecond."""
SMALL_BELOW = 100_000
"""Items up to which a graph is built within a minute, and a flat index is worth a comparison."""
GRAPH_OF_LISTS_FROM = 4_096
"""Lists from which on it may pay to find the nearest ones by a graph."""
MAX_QUERIES = 1_000


class Quantizer(NamedTuple):
    """How the vectors of an inverted file are kept, and how many candidates it is worth to let them find for each."""

    name: str
    candidates_per_k: tuple[int, ...]


QUANTIZERS = (Quantizer("SQfp16", (1,)), Quantizer("SQ8", (2, 4)), Quantizer("SQ4", (4, 8)))
"""In 16, 8 and 4 bits a number; candidates by fewer bits are compared again by the vectors, which are there anyway."""


def build_index(
    vectors_N1D: NDArray[np.float32],
    queries_QKD: NDArray[np.float32],
    kind: IndexKind = IndexKind.AUTO,
    *,
    target_recall: float = TARGET_RECALL,
    on_step: Callable[[str], object] = lambda step: None,
) -> tuple[faiss.Index, IndexInfo]:
    """Build the index that answers soonest of those that find `target_recall` of the 20 best items of an exact search.

    They find two standard errors more for the given sessions, so that others get the target too.

    Inverted files with several codes are tried, of up to 100,000 items a graph and a flat index too, each tuned to the
    target; what was tried stands in the result. Where none reaches the target, the one that finds most is taken.

    Args:
        vectors_N1D: item vectors, which may be mapped from a file; row 0, the padding, is left out.
        queries_QKD: interests of real sessions; never random vectors, on which any such index looks bad.
        kind: flat, ivf, hnsw, or auto to choose by size and measurement.
        target_recall: recall@20 against the exact search.
        on_step: told what goes on, for a progress display.
    """
    vectors, queries_QKD = IndexVectors(vectors_N1D), queries_QKD[:MAX_QUERIES]
    if kind is IndexKind.FLAT or (kind is IndexKind.AUTO and len(vectors) < FLAT_BELOW) or len(queries_QKD) == 0:
        info = IndexInfo(
            description="Flat",
            recall_at_20=1.0,
            padded_dimension=vectors.padded_dimension,
            queries=len(queries_QKD),
        )
        return flat_index(vectors), info
    on_step(f"searching exactly for {len(queries_QKD):,} sessions")
    tuning = IndexTuner.of(vectors, queries_QKD, target_recall)
    running, beaten = _running(_candidates(tuning, kind, on_step), target_recall)
    durations_us = tuning.search_us(running)
    timed = [_described(one, search_us) for one, search_us in zip(running, durations_us, strict=True)]
    for one in (*timed, *beaten):
        on_step(_told(one))
    chosen = int(np.argmin(durations_us))
    info = IndexInfo(
        **timed[chosen].model_dump(),
        padded_dimension=vectors.padded_dimension,
        queries=len(queries_QKD),
        tried=(*timed, *beaten),
    )
    return running[chosen].index, info


def _running(candidates: Iterable[TunedIndex], target_recall: float) -> tuple[list[TunedIndex], list[TriedIndex]]:
    """Those that reach the target, or that which finds most, and what is to be told of the others, which are let go."""
    running: list[TunedIndex] = []
    beaten: list[TriedIndex] = []
    for one in candidates:
        if one.reaches(target_recall):
            beaten += [_described(other, None) for other in running if not other.reaches(target_recall)]
            running = [*(other for other in running if other.reaches(target_recall)), one]
        elif not running or (not running[0].reaches(target_recall) and one.recall > running[0].recall):
            beaten += [_described(other, None) for other in running]
            running = [one]
        else:
            beaten.append(_described(one, None))
    return running, beaten


def _candidates(tuning: IndexTuner, kind: IndexKind, on_step: Callable[[str], object]) -> Iterator[TunedIndex]:
    vectors, small = tuning.vectors, len(tuning.vectors) <= SMALL_BELOW
    if kind is IndexKind.AUTO and small:
        yield tuning.tuned("Flat", flat_index(vectors))
    if kind is IndexKind.HNSW or (kind is IndexKind.AUTO and small):
        description = f"HNSW{NEIGHBOURS}"
        on_step(f"building {description}")
        yield tuning.tuned(description, graph_index(vectors, description))
    if kind is not IndexKind.HNSW:
        yield from _inverted_files(tuning, on_step)


def _inverted_files(tuning: IndexTuner, on_step: Callable[[str], object]) -> Iterator[TunedIndex]:
    """Of few items also with half as many lists: there it is as much work to find the nearest lists as to read them."""
    count = list_count(len(tuning.vectors))
    if len(tuning.vectors) <= SMALL_BELOW and count > 1:
        yield from _of_lists(tuning, count // 2, QUANTIZERS[:1], on_step)
    yield from _of_lists(tuning, count, QUANTIZERS, on_step)


def _of_lists(
    tuning: IndexTuner, count: int, codes: Sequence[Quantizer], on_step: Callable[[str], object]
) -> Iterator[TunedIndex]:
    on_step(f"placing {count:,} lists")
    lists = InvertedLists.of(tuning.vectors, count)
    described = [(f"IVF{count},{code.name}", code.candidates_per_k) for code in codes]
    if count >= GRAPH_OF_LISTS_FROM:
        described.append((f"IVF{count}_HNSW{NEIGHBOURS},{QUANTIZERS[0].name}", QUANTIZERS[0].candidates_per_k))
    for description, candidates_per_k in described:
        on_step(f"building {description} and tuning it to recall@{RECALL_AT} of {tuning.target_recall}")
        index = inverted_file(tuning.vectors, lists, description)
        for per_k in candidates_per_k:
            yield tuning.tuned(description, index, per_k)


def _described(tuned: TunedIndex, search_us: float | None) -> TriedIndex:
    is_file = isinstance(tuned.index, faiss.IndexIVF)
    return TriedIndex(
        description=tuned.description,
        nprobe=tuned.effort.visits if is_file else None,
        ef_search=None if is_file else tuned.effort.visits,
        candidates_per_k=tuned.effort.candidates_per_k,
        recall_at_20=tuned.recall,
        search_us=None if search_us is None else round(search_us, 1),
    )


def _told(tried: TriedIndex) -> str:
    visits = next((f", {name} {n}" for name, n in (("nprobe", tried.nprobe), ("ef", tried.ef_search)) if n), "")
    refined = f", {tried.candidates_per_k} candidates for each" if tried.candidates_per_k > 1 else ""
    took = "" if tried.search_us is None else f" in {tried.search_us} us"
    return f"{tried.description}{visits}{refined}: recall@{RECALL_AT} {tried.recall_at_20:.4f}{took}"
