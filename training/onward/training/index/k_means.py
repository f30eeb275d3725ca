"""Spherical k-means by matrix products: the centroids of an inverted file, and the nearest centroid of each vector.

FAISS's own takes as long in one thread, and four times as long with many cores.

Dimension key: V vectors, B of a block, P dimensions, C centroids.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ROUNDS = 10
BLOCK = 512
"""Number of vectors that are compared with all centroids at once."""


def k_means(vectors_VP: NDArray[np.float32], count: int, *, seed: int = 1) -> NDArray[np.float32]:
    """Return `count` centroids_CP of unit length that maximise the vectors' products with their nearest centroid.

    Args:
        vectors_VP: at least `count` vectors.
        count: C
        seed: seed of the initial centroids, and of the replacements of centroids that are nearest to no vector.
    """
    generator = torch.Generator().manual_seed(seed)
    tensor_VP = torch.from_numpy(vectors_VP)
    centroids_CP = F.normalize(tensor_VP[torch.randperm(len(tensor_VP), generator=generator)[:count]])
    for _ in range(ROUNDS):
        numbers_V = torch.from_numpy(nearest(vectors_VP, centroids_CP.numpy()))
        centroids_CP = _updated(centroids_CP, tensor_VP, numbers_V, generator)
    return centroids_CP.numpy()


def nearest(vectors_VP: NDArray[np.float32], centroids_CP: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number of the centroid with the largest product, for each vector."""
    centroids_PC = torch.from_numpy(centroids_CP).T
    products_BC = torch.empty(BLOCK, len(centroids_CP))
    numbers_V = np.empty(len(vectors_VP), dtype=np.int64)
    for start in range(0, len(vectors_VP), BLOCK):
        block_BP = torch.from_numpy(vectors_VP[start : start + BLOCK])
        torch.mm(block_BP, centroids_PC, out=products_BC[: len(block_BP)])
        of_block = slice(start, start + len(block_BP))
        np.argmax(products_BC[: len(block_BP)].numpy(), axis=1, out=numbers_V[of_block])  # torch's takes twice as long
    return numbers_V


def _updated(centroids_CP: Tensor, vectors_VP: Tensor, numbers_V: Tensor, generator: torch.Generator) -> Tensor:
    """Move each centroid to the mean direction of its vectors; one without vectors to a randomly drawn vector."""
    sums_CP = torch.zeros_like(centroids_CP).index_add_(0, numbers_V, vectors_VP)
    idle_C = torch.bincount(numbers_V, minlength=len(centroids_CP)) == 0
    sums_CP[idle_C] = vectors_VP[torch.randint(len(vectors_VP), (int(idle_C.sum()),), generator=generator)]
    return F.normalize(sums_CP)
