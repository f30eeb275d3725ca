"""k-means finds the clusters of vectors and the nearest centroid of each vector."""

import numpy as np
import pytest
from numpy.typing import NDArray

from onward.training.index.k_means import k_means, nearest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


@pytest.fixture
def sheaves(rng: np.random.Generator) -> NDArray[np.float32]:
    """Twelve narrow orthogonal clusters of a hundred vectors, of lengths from 1 to 3."""
    directions = np.repeat(np.eye(12, 16, dtype=np.float32), 100, axis=0)
    vectors = directions + rng.normal(0, 0.02, directions.shape)
    return (vectors * rng.uniform(1, 3, (len(vectors), 1))).astype(np.float32)


def test_centroids_are_the_means_of_their_clusters(sheaves: NDArray[np.float32]) -> None:
    centroids = k_means(sheaves, 48)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1, abs=1e-5)
    cosines = (sheaves * centroids[nearest(sheaves, centroids)]).sum(axis=1)
    assert (cosines / np.linalg.norm(sheaves, axis=1)).min() > 0.98


def test_the_nearest_centroid_has_the_largest_product(rng: np.random.Generator) -> None:
    vectors, centroids = (rng.normal(size=(count, 16)).astype(np.float32) for count in (1_300, 70))
    assert nearest(vectors, centroids).tolist() == (vectors @ centroids.T).argmax(axis=1).tolist()


def test_the_same_vectors_give_the_same_centroids(sheaves: NDArray[np.float32]) -> None:
    assert np.array_equal(k_means(sheaves, 20), k_means(sheaves, 20))


def test_an_idle_centroid_is_moved(sheaves: NDArray[np.float32]) -> None:
    """Most vectors are equal, so most centroids start equal, and all but one of those are idle."""
    crowd = np.tile(np.eye(1, 16, 15, dtype=np.float32), (5_000, 1))
    vectors = np.concatenate([crowd, sheaves])
    centroids = k_means(vectors, 64)
    cosines = (vectors * centroids[nearest(vectors, centroids)]).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosines.min() > 0.98


def test_zero_vectors_are_accepted() -> None:
    vectors = np.zeros((100, 16), dtype=np.float32)
    vectors[90:, 3] = 1
    centroids = k_means(vectors, 5)
    assert np.isfinite(centroids).all()
    assert set(nearest(vectors[90:], centroids)) != set(nearest(vectors[:90], centroids))
