"""Choose a FAISS index by its measured recall against exact search and its search time, on queries of real sessions.

Dimension key: N items, D embedding, Q queries, K interests.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from onward.bundle import IndexInfo, TriedIndex
from onward.training.index.building import (
    GRAPH_DEGREE,
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
"""Number of items below which a scan of all vectors takes less than half a millisecond."""
SMALL_BELOW = 100_000
"""Number of items up to which a graph is built within a minute and a flat index is worth comparing."""
GRAPH_OF_LISTS_FROM = 4_096
"""Number of lists from which finding them by a graph over their centroids may pay off."""
MAX_QUERIES = 1_000


class Quantizer(NamedTuple):
    """A scalar quantizer of an inverted file, and the candidates per result that are worth trying with it."""

    name: str
    candidates_per_k: tuple[int, ...]


QUANTIZERS = (Quantizer("SQfp16", (1,)), Quantizer("SQ8", (2, 4)), Quantizer("SQ4", (4, 8)))
"""16, 8 and 4 bits per number; candidates found by few bits are re-ranked by the full vectors, which exist anyway."""


def build_index(
    vectors_N1D: NDArray[np.float32],
    queries_QKD: NDArray[np.float32],
    kind: IndexKind = IndexKind.AUTO,
    *,
    target_recall: float = TARGET_RECALL,
    on_step: Callable[[str], object] = lambda step: None,
) -> tuple[faiss.Index, IndexInfo]:
    """Build the fastest index that reaches `target_recall`, the recall@20 against exact search.

    An index reaches the target if its recall exceeds it by two standard errors, so that other sessions get it too.
    Inverted files with several quantizers are tried; up to 100,000 items also a graph and a flat index. Each is tuned
    to the target, and all are listed in the result. If none reaches the target, the one with the best recall is taken.

    Args:
        vectors_N1D: item vectors, possibly memory-mapped; row 0, the padding, is left out.
        queries_QKD: interests of real sessions; never random vectors, on which any approximate index performs badly.
        kind: flat, ivf, hnsw, or auto to choose by size and measurement.
        target_recall: recall@20 against exact search.
        on_step: called with a description of each step, for a progress display.
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
    on_step(f"exact search for {len(queries_QKD):,} sessions")
    tuner = IndexTuner.of(vectors, queries_QKD, target_recall)
    finalists, rejected = _select(_candidates(tuner, kind, on_step), target_recall)
    durations_us = tuner.search_us(finalists)
    timed = [_info_of(index, search_us) for index, search_us in zip(finalists, durations_us, strict=True)]
    for tried in (*timed, *rejected):
        on_step(_describe(tried))
    chosen = int(np.argmin(durations_us))
    info = IndexInfo(
        **timed[chosen].model_dump(),
        padded_dimension=vectors.padded_dimension,
        queries=len(queries_QKD),
        tried=(*timed, *rejected),
    )
    return finalists[chosen].index, info


def _select(candidates: Iterable[TunedIndex], target_recall: float) -> tuple[list[TunedIndex], list[TriedIndex]]:
    """Return the candidates that reach the target, else the one with the best recall, and the infos of the others.

    Indexes of rejected candidates are freed at once.
    """
    finalists: list[TunedIndex] = []
    rejected: list[TriedIndex] = []
    for candidate in candidates:
        if candidate.reaches(target_recall):
            rejected += [_info_of(other, None) for other in finalists if not other.reaches(target_recall)]
            finalists = [*(other for other in finalists if other.reaches(target_recall)), candidate]
        elif not finalists or (not finalists[0].reaches(target_recall) and candidate.recall > finalists[0].recall):
            rejected += [_info_of(other, None) for other in finalists]
            finalists = [candidate]
        else:
            rejected.append(_info_of(candidate, None))
    return finalists, rejected


def _candidates(tuner: IndexTuner, kind: IndexKind, on_step: Callable[[str], object]) -> Iterator[TunedIndex]:
    vectors, small = tuner.vectors, len(tuner.vectors) <= SMALL_BELOW
    if kind is IndexKind.AUTO and small:
        yield tuner.tune("Flat", flat_index(vectors))
    if kind is IndexKind.HNSW or (kind is IndexKind.AUTO and small):
        description = f"HNSW{GRAPH_DEGREE}"
        on_step(f"building {description}")
        yield tuner.tune(description, graph_index(vectors, description))
    if kind is not IndexKind.HNSW:
        yield from _inverted_files(tuner, on_step)


def _inverted_files(tuner: IndexTuner, on_step: Callable[[str], object]) -> Iterator[TunedIndex]:
    """Yield inverted files. For small catalogs, in which finding the lists costs as much as reading them, also try half
    as many lists.
    """
    count = list_count(len(tuner.vectors))
    if len(tuner.vectors) <= SMALL_BELOW and count > 1:
        yield from _with_lists(tuner, count // 2, QUANTIZERS[:1], on_step)
    yield from _with_lists(tuner, count, QUANTIZERS, on_step)


def _with_lists(
    tuner: IndexTuner, count: int, quantizers: Sequence[Quantizer], on_step: Callable[[str], object]
) -> Iterator[TunedIndex]:
    on_step(f"clustering items into {count:,} lists")
    lists = InvertedLists.of(tuner.vectors, count)
    variants = [(f"IVF{count},{quantizer.name}", quantizer.candidates_per_k) for quantizer in quantizers]
    if count >= GRAPH_OF_LISTS_FROM:
        variants.append((f"IVF{count}_HNSW{GRAPH_DEGREE},{QUANTIZERS[0].name}", QUANTIZERS[0].candidates_per_k))
    for description, candidates_per_k in variants:
        on_step(f"building {description} and tuning it to recall@{RECALL_AT} of {tuner.target_recall}")
        index = inverted_file(tuner.vectors, lists, description)
        for per_k in candidates_per_k:
            yield tuner.tune(description, index, per_k)


def _info_of(tuned: TunedIndex, search_us: float | None) -> TriedIndex:
    is_inverted_file = isinstance(tuned.index, faiss.IndexIVF)
    return TriedIndex(
        description=tuned.description,
        nprobe=tuned.parameters.search_width if is_inverted_file else None,
        ef_search=None if is_inverted_file else tuned.parameters.search_width,
        candidates_per_k=tuned.parameters.candidates_per_k,
        recall_at_20=tuned.recall,
        search_us=None if search_us is None else round(search_us, 1),
    )


def _describe(tried: TriedIndex) -> str:
    visits = next((f", {name} {n}" for name, n in (("nprobe", tried.nprobe), ("ef", tried.ef_search)) if n), "")
    candidates = f", {tried.candidates_per_k} candidates per result" if tried.candidates_per_k > 1 else ""
    duration = "" if tried.search_us is None else f" in {tried.search_us} us"
    return f"{tried.description}{visits}{candidates}: recall@{RECALL_AT} {tried.recall_at_20:.4f}{duration}"
