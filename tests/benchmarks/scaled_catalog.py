"""Scale a trained catalog up to any number of items by interpolation, keeping the structure of its vectors.

A new item lies between a trained item (its parent) and one of the parent's nearest neighbours, with noise at the scale
of their distance and a norm between theirs. This keeps the clusters, norms and spectrum of the trained table. Sessions
are real ones in which each item is replaced by one of its children.

Dimension key: N trained items, M items of the scaled catalog, D embedding; row 0 pads in both.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 8
NOISE = 0.7
"""Norm of the noise, in distances between the two trained items; makes N new items as hard to search as the trained."""
BLOCK_ROWS = 262_144


@dataclass(frozen=True, slots=True)
class ScaledCatalog:
    """For each of M items: its parent, a neighbour of the parent, and its position between the two, from 0 to 1."""

    parents_M1: NDArray[np.int32]
    neighbours_M1: NDArray[np.int32]
    positions_M1: NDArray[np.float32]

    @classmethod
    def draw(cls, vectors_N1D: NDArray[np.float32], items: int, generator: np.random.Generator) -> "ScaledCatalog":
        """Draw `items` items; the first N of them are the trained items themselves."""
        trained = min(len(vectors_N1D) - 1, items)
        neighbours_NK = nearest(vectors_N1D[1:])
        parents_M1 = np.concatenate(
            [np.arange(trained + 1), generator.integers(1, len(vectors_N1D), items - trained)]
        ).astype(np.int32)
        neighbours_M1 = parents_M1.copy()
        choices = generator.integers(0, NEIGHBOURS, items - trained)
        neighbours_M1[trained + 1 :] = neighbours_NK[parents_M1[trained + 1 :] - 1, choices]
        positions_M1 = np.zeros(items + 1, dtype=np.float32)
        positions_M1[trained + 1 :] = generator.random(items - trained, dtype=np.float32)
        return cls(parents_M1, neighbours_M1, positions_M1)

    @property
    def items(self) -> int:
        """The number of items, M."""
        return len(self.parents_M1) - 1

    def fill(
        self, out_M1D: NDArray[np.float32], trained_N1D: NDArray[np.float32], generator: np.random.Generator
    ) -> None:
        """Write the vectors of the M items into `out_M1D`, block by block."""
        for start in range(0, len(out_M1D), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            out_M1D[block] = _interpolate(
                trained_N1D[self.parents_M1[block]],
                trained_N1D[self.neighbours_M1[block]],
                self.positions_M1[block, np.newaxis],
                generator,
            )

    def sessions(self, trained: list[list[int]], generator: np.random.Generator) -> list[list[int]]:
        """Replace each item of the sessions by one of its children, the same one wherever it occurs in a session."""
        order_M = np.argsort(self.parents_M1[1:], kind="stable") + 1
        starts_N2 = np.searchsorted(self.parents_M1[order_M], np.arange(int(self.parents_M1.max()) + 2))
        children = []
        for rows in trained:
            chosen = {
                row: int(order_M[generator.integers(starts_N2[row], starts_N2[row + 1])])
                for row in dict.fromkeys(rows)
                if starts_N2[row] < starts_N2[row + 1]
            }
            children.append([chosen[row] for row in rows if row in chosen])
        return [rows for rows in children if rows]


def nearest(vectors_ND: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the rows, from 1 on, of the nearest neighbours of each vector, without itself."""
    flat = faiss.IndexFlatL2(vectors_ND.shape[1])
    flat.add(np.ascontiguousarray(vectors_ND))
    _, indices_NK = flat.search(np.ascontiguousarray(vectors_ND), NEIGHBOURS + 1)
    rows_NK: NDArray[np.int32] = (indices_NK[:, 1:] + 1).astype(np.int32)
    return rows_NK


def structure(vectors_ND: NDArray[np.float32], generator: np.random.Generator) -> dict[str, Any]:
    """Summarize a sample of a table, to compare the trained and the scaled one: norms and effective dimensionality."""
    sample_SD = vectors_ND[np.sort(generator.choice(len(vectors_ND), min(20_000, len(vectors_ND)), replace=False))]
    values_D = np.linalg.svd(sample_SD - sample_SD.mean(axis=0), compute_uv=False) ** 2
    lengths_S = np.linalg.norm(sample_SD, axis=1)
    return {
        "length_p10_p50_p90": [round(float(cut), 3) for cut in np.quantile(lengths_S, [0.1, 0.5, 0.9])],
        "effective_axes": round(float(values_D.sum() ** 2 / (values_D**2).sum()), 1),
    }


def _interpolate(
    parents_CD: NDArray[np.float32],
    neighbours_CD: NDArray[np.float32],
    positions_C1: NDArray[np.float32],
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    steps_CD = neighbours_CD - parents_CD
    noise_CD = generator.standard_normal(parents_CD.shape, dtype=np.float32)
    noise_CD *= NOISE / np.sqrt(parents_CD.shape[1]) * np.linalg.norm(steps_CD, axis=1, keepdims=True)
    points_CD = parents_CD + positions_C1 * steps_CD + noise_CD
    lengths_C1 = np.linalg.norm(points_CD, axis=1, keepdims=True)
    norms_C1 = (1 - positions_C1) * np.linalg.norm(parents_CD, axis=1, keepdims=True) + positions_C1 * np.linalg.norm(
        neighbours_CD, axis=1, keepdims=True
    )
    scaled_CD: NDArray[np.float32] = points_CD * (norms_C1 / np.maximum(lengths_C1, np.finfo(np.float32).tiny))
    return scaled_CD
