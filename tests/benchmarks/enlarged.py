"""A trained catalog made larger with its structure kept: `Family` says where each of its items comes from.

A new item lies between a trained item and one of that item's nearest neighbours, with noise at the scale of their
distance and a length between theirs: clusters, lengths and spectrum stay as training made them. Sessions stay real
ones too, each of whose items is replaced by a child of it.

Dimension key: N trained items, M items of the enlarged catalog, D embedding; row 0 pads in both.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

NEAREST = 8
NOISE = 0.7
"""Length of the noise, in distances between the two trained items: so a sample of N new items is as hard to search."""
BLOCK_ROWS = 262_144


@dataclass(frozen=True, slots=True)
class Family:
    """For each of M items two trained ones, and how far it lies on the way from the one to the other."""

    parents_M1: NDArray[np.int32]
    others_M1: NDArray[np.int32]
    shares_M1: NDArray[np.float32]

    @classmethod
    def of(cls, vectors_N1D: NDArray[np.float32], items: int, generator: np.random.Generator) -> "Family":
        """Draw the parents of `items` items; the first ones, N or all, are the trained items themselves."""
        trained = min(len(vectors_N1D) - 1, items)
        neighbours_NK = nearest(vectors_N1D[1:])
        parents_M1 = np.concatenate(
            [np.arange(trained + 1), generator.integers(1, len(vectors_N1D), items - trained)]
        ).astype(np.int32)
        others_M1 = parents_M1.copy()
        places = generator.integers(0, NEAREST, items - trained)
        others_M1[trained + 1 :] = neighbours_NK[parents_M1[trained + 1 :] - 1, places]
        shares_M1 = np.zeros(items + 1, dtype=np.float32)
        shares_M1[trained + 1 :] = generator.random(items - trained, dtype=np.float32)
        return cls(parents_M1, others_M1, shares_M1)

    @property
    def items(self) -> int:
        """M"""
        return len(self.parents_M1) - 1

    def fill(
        self, out_M1D: NDArray[np.float32], trained_N1D: NDArray[np.float32], generator: np.random.Generator
    ) -> None:
        """Write the table of M items into `out_M1D`, block by block."""
        for start in range(0, len(out_M1D), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            out_M1D[block] = _between(
                trained_N1D[self.parents_M1[block]],
                trained_N1D[self.others_M1[block]],
                self.shares_M1[block, np.newaxis],
                generator,
            )

    def sessions(self, trained: list[list[int]], generator: np.random.Generator) -> list[list[int]]:
        """The sessions with each item, wherever it stands in one, replaced by one of its children or kept."""
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
    """The rows, from 1, of the nearest neighbours of each vector, itself left out."""
    flat = faiss.IndexFlatL2(vectors_ND.shape[1])
    flat.add(np.ascontiguousarray(vectors_ND))
    _, found_NK = flat.search(np.ascontiguousarray(vectors_ND), NEAREST + 1)
    rows_NK: NDArray[np.int32] = (found_NK[:, 1:] + 1).astype(np.int32)
    return rows_NK


def structure(vectors_ND: NDArray[np.float32], generator: np.random.Generator) -> dict[str, Any]:
    """What shall be alike in the trained and the enlarged table, by a sample: lengths, and how many axes they fill."""
    sample_SD = vectors_ND[np.sort(generator.choice(len(vectors_ND), min(20_000, len(vectors_ND)), replace=False))]
    values_D = np.linalg.svd(sample_SD - sample_SD.mean(axis=0), compute_uv=False) ** 2
    lengths_S = np.linalg.norm(sample_SD, axis=1)
    return {
        "length_p10_p50_p90": [round(float(cut), 3) for cut in np.quantile(lengths_S, [0.1, 0.5, 0.9])],
        "effective_axes": round(float(values_D.sum() ** 2 / (values_D**2).sum()), 1),
    }


def _between(
    one_CD: NDArray[np.float32],
    other_CD: NDArray[np.float32],
    share_C1: NDArray[np.float32],
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    way_CD = other_CD - one_CD
    noise_CD = generator.standard_normal(one_CD.shape, dtype=np.float32)
    noise_CD *= NOISE / np.sqrt(one_CD.shape[1]) * np.linalg.norm(way_CD, axis=1, keepdims=True)
    between_CD = one_CD + share_C1 * way_CD + noise_CD
    lengths_C1 = np.linalg.norm(between_CD, axis=1, keepdims=True)
    wanted_C1 = (1 - share_C1) * np.linalg.norm(one_CD, axis=1, keepdims=True) + share_C1 * np.linalg.norm(
        other_CD, axis=1, keepdims=True
    )
    scaled_CD: NDArray[np.float32] = between_CD * (wanted_C1 / np.maximum(lengths_C1, np.finfo(np.float32).tiny))
    return scaled_CD
