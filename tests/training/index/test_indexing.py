"""The index is chosen and tuned by its recall on queries of real sessions."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from onward.bundle import FaissIndex, ItemIndex, SearchParameters
from onward.training.cli import cli
from onward.training.index.building import IndexVectors, list_count
from onward.training.index.indexing import build_index
from onward.training.index.kind import FAST_RECALL, IndexKind
from onward.training.index.tuning import TunedIndex, exact_rows


def clustered(items: int, queries: int, dimension: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(2)
    centres = generator.normal(size=(40, dimension))
    vectors_N1D = centres[generator.integers(40, size=items + 1)] + generator.normal(size=(items + 1, dimension)) / 2
    vectors_N1D[0] = 0
    queries_QKD = vectors_N1D[generator.integers(1, items + 1, size=(queries, 1))] + 0.1
    return vectors_N1D.astype(np.float32), queries_QKD.astype(np.float32)


def test_a_small_catalog_gets_a_flat_index() -> None:
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
    searched = ItemIndex(
        FaissIndex(index), vectors_N1D=vectors_N1D, parameters=SearchParameters(info.nprobe, info.candidates_per_k)
    )
    overlaps = [
        len(
            set(searched.search(query_KD, 20).rows.tolist())
            & set(searched.search(query_KD, 20, exact=True).rows.tolist())
        )
        for query_KD in queries_QKD
    ]
    assert np.mean(overlaps) / 20 == pytest.approx(info.recall_at_20)
    assert (np.mean(overlaps) - 2 * np.std(overlaps) / np.sqrt(len(overlaps))) / 20 >= target


@pytest.mark.parametrize(
    ("recall", "error", "reaches"), [(0.99, 0, True), (0.9921, 0.001, True), (0.9919, 0.001, False)]
)
def test_a_recall_within_two_standard_errors_does_not_reach_the_target(
    recall: float, error: float, *, reaches: bool
) -> None:
    assert TunedIndex("Flat", None, SearchParameters(), recall, error).reaches(0.99) is reaches


def test_a_higher_target_visits_more_lists() -> None:
    vectors_N1D, queries_QKD = clustered(4_000, 100, 24)
    probes = [
        build_index(vectors_N1D, queries_QKD, IndexKind.IVF, target_recall=target)[1].nprobe for target in (0.5, 0.99)
    ]
    assert probes[0] < probes[1]  # type: ignore[operator]  # neither is None for this kind


def test_lists_hold_enough_items_to_be_trained() -> None:
    for items in (10, 1_000, 43_097, 1_000_000):
        assert items / list_count(items) >= min(39, items)


def test_the_fastest_index_that_reaches_the_target_is_taken_and_all_are_listed() -> None:
    vectors_N1D, queries_QKD = clustered(21_000, 100, 24)
    steps: list[str] = []
    index, info = build_index(vectors_N1D, queries_QKD, target_recall=FAST_RECALL, on_step=steps.append)
    files = {"IVF256,SQfp16", "IVF512,SQfp16", "IVF512,SQ8", "IVF512,SQ4"}
    assert {"Flat", "HNSW32"} | files == {one.description for one in info.tried}
    good = [one for one in info.tried if one.recall_at_20 >= FAST_RECALL]
    assert info.search_us == min(one.search_us for one in good if one.search_us is not None)
    assert {one.candidates_per_k > 1 for one in info.tried if one.description.endswith(("SQ8", "SQ4"))} == {True}
    assert all(one.search_us is not None for one in good)
    assert sum(": recall@20" in line for line in steps) == len(info.tried)
    assert (index.ntotal, index.d) == (21_000, info.padded_dimension)


def test_a_graph_can_be_requested() -> None:
    vectors_N1D, queries_QKD = clustered(1_000, 50, 24)
    _, info = build_index(vectors_N1D, queries_QKD, IndexKind.HNSW, target_recall=0.9)
    assert (info.description, info.nprobe) == ("HNSW32", None)
    assert info.ef_search
    assert info.recall_at_20 >= 0.9


def test_if_no_index_reaches_the_target_the_best_recall_is_taken() -> None:
    vectors_N1D, _ = clustered(3_000, 1, 24)
    queries_QKD = np.random.default_rng(3).normal(size=(50, 1, 24)).astype(np.float32)
    _, info = build_index(vectors_N1D, queries_QKD, IndexKind.IVF, target_recall=1.0)
    assert info.recall_at_20 == max(one.recall_at_20 for one in info.tried)


def test_memory_mapped_vectors_give_the_same_exact_rows_as_brute_force(tmp_path: Path) -> None:
    vectors_N1D, queries_QKD = clustered(2_000, 60, 20)
    np.save(tmp_path / "vectors.npy", vectors_N1D)
    of_two_interests = queries_QKD.reshape(30, 2, 20)
    scores_QN = np.einsum("qkd,nd->qkn", of_two_interests, vectors_N1D[1:]).max(axis=1)
    expected = [set((1 + np.argsort(-scores_N)[:20]).tolist()) for scores_N in scores_QN]
    assert exact_rows(IndexVectors(np.load(tmp_path / "vectors.npy", mmap_mode="r")), of_two_interests) == expected


def test_fast_and_recall_cannot_be_combined(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["rebuild", "--bundles", str(tmp_path), "--recall", "0.9", "--fast"])
    assert "--recall and --fast: give one of them" in str(done.exception)
