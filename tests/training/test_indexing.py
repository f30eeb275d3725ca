"""The index is chosen and tuned by what it finds for queries like the real ones."""

import numpy as np
import pytest
from numpy.typing import NDArray

from service.bundle import Effort, FaissIndex, ItemIndex
from training.index_building import list_count
from training.index_kind import IndexKind
from training.indexing import build_index


def clustered(items: int, queries: int, dimension: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(2)
    centres = generator.normal(size=(40, dimension))
    vectors_N1D = centres[generator.integers(40, size=items + 1)] + generator.normal(size=(items + 1, dimension)) / 2
    vectors_N1D[0] = 0
    queries_QKD = vectors_N1D[generator.integers(1, items + 1, size=(queries, 1))] + 0.1
    return vectors_N1D.astype(np.float32), queries_QKD.astype(np.float32)


def test_a_small_catalog_is_scanned_whole() -> None:
    vectors_N1D, queries_QKD = clustered(500, 20, 20)
    index, info = build_index(vectors_N1D, queries_QKD)
    assert (info.description, info.nprobe, info.padded_dimension) == ("Flat", None, 32)
    assert (index.ntotal, index.d) == (500, 32)


@pytest.mark.parametrize("target", [0.9, 0.99])
def test_an_inverted_file_index_is_tuned_to_the_target(target: float) -> None:
    vectors_N1D, queries_QKD = clustered(4_000, 100, 24)
    index, info = build_index(vectors_N1D, queries_QKD, IndexKind.IVF, target_recall=target)
    assert info.nprobe is not None
    assert info.recall_at_20 >= target
    searched = ItemIndex(FaissIndex(index), vectors_N1D=vectors_N1D, effort=Effort(info.nprobe, info.candidates_per_k))
    overlaps = [
        len(
            set(searched.search(query_KD, 20).rows.tolist())
            & set(searched.search(query_KD, 20, exact=True).rows.tolist())
        )
        for query_KD in queries_QKD
    ]
    assert np.mean(overlaps) / 20 == pytest.approx(info.recall_at_20)


def test_a_higher_target_visits_more_lists() -> None:
    vectors_N1D, queries_QKD = clustered(4_000, 100, 24)
    probes = [
        build_index(vectors_N1D, queries_QKD, IndexKind.IVF, target_recall=target)[1].nprobe for target in (0.5, 0.99)
    ]
    assert probes[0] < probes[1]  # type: ignore[operator]  # neither is None for this kind


def test_lists_hold_enough_items_to_be_trained() -> None:
    for items in (10, 1_000, 43_097, 1_000_000):
        assert items / list_count(items) >= min(39, items)
