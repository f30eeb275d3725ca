"""ContentTower: from the attributes of an item to its vector, by the bundle's content program.

Dimension key: F known features, T features of an item, D embedding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onward.bundle.content.features import ContentFeatures, ItemFeatures
from onward.bundle.files.arrays import check_finite, open_array
from onward.bundle.files.manifest import (
    CONTENT,
    CONTENT_FEATURES,
    CONTENT_RARITY,
    BundleError,
    ContentInfo,
    ContentProbe,
)
from onward.bundle.files.program import Session, first_line, open_program, signature

ROWS, WEIGHTS, VECTOR = "rows_T", "weights_T", "vector_D"
MIN_FEATURES = 2
"""The shortest input that the program is exported for; fewer features are padded with row 0 of weight 0."""
TOLERANCE = 1e-3
"""Allowed difference of a probe, relative to its largest number: processors round differently."""


class ContentTower:
    """Gives items without history their vectors. Thread-safe.

    Each item is computed alone, so that its vector does not depend on the others that are asked for.
    """

    def __init__(self, program: Session, features: ContentFeatures, *, dimension: int, factor: float = 1.0) -> None:
        """Take a program from features to a vector of D numbers.

        Args:
            program: the program.
            features: what it knows of attributes.
            dimension: D.
            factor: what its vectors are multiplied by, so that new items do not crowd out trained ones.
        """
        self.features = features
        self.factor = factor
        self._program = program
        self._dimension = dimension

    @classmethod
    def load(cls, folder: Path, info: ContentInfo, *, dimension: int, verify: bool = True) -> "ContentTower":
        """Load a bundle's content program and its features, and test it on an item of all features.

        With `verify`, the probes are run. Raises BundleError.
        """
        known_F = open_array(folder / CONTENT_FEATURES, np.int64, (info.features,))
        rarity_F = open_array(folder / CONTENT_RARITY, np.float32, (info.features,))
        check_finite(CONTENT_RARITY, rarity_F)
        if not (known_F[:-1] < known_F[1:]).all():
            raise BundleError(f"{CONTENT_FEATURES}: not in ascending order")
        if not (rarity_F > 0).all():
            raise BundleError(f"{CONTENT_RARITY}: holds a number that is not positive")
        features = ContentFeatures(info.edges, frozenset(info.dates), known_F, rarity_F)
        try:
            tower = cls(open_program(folder / CONTENT), features, dimension=dimension, factor=info.factor)
            tower._check_signature()
            rows_T = np.arange(1, info.features + 1)
            trial_D = tower._run(ItemFeatures(rows_T, np.full(len(rows_T), 1 / len(rows_T), dtype=np.float32)))
        except BundleError:
            raise
        except Exception as error:  # the classes that onnxruntime raises have no common base
            raise BundleError(f"{CONTENT}: {first_line(error)}") from error
        if trial_D.shape != (dimension,) or not np.isfinite(trial_D).all():
            raise BundleError(f"{CONTENT}: gives no finite vector of {dimension} numbers")
        if verify:
            tower.check_probes(info.probes)
        return tower

    def vector(self, attributes: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """Return vector_D of an item, None if it has no attribute that trained items have."""
        vector_D = self._unscaled(attributes)
        return None if vector_D is None else (np.float32(self.factor) * vector_D).astype(np.float32)

    def without_each(
        self, attributes: Mapping[str, Any], like_D: NDArray[np.float32]
    ) -> dict[str, NDArray[np.float32]]:
        """Return what an item's vector would be without each of its attributes; zeros if nothing is left.

        Args:
            attributes: the item's attributes, of which at least one counts.
            like_D: the item's vector, which may have been shortened by another factor.
        """
        whole_D = self._unscaled(attributes)
        ratio = 0.0 if whole_D is None else float(np.linalg.norm(like_D) / np.linalg.norm(whole_D))
        vectors = {}
        for name in self.features.attributes_of(attributes):
            vector_D = self._unscaled({other: value for other, value in attributes.items() if other != name})
            vectors[name] = np.zeros_like(like_D) if vector_D is None else np.float32(ratio) * vector_D
        return vectors

    def probe(self, attributes: Mapping[str, Any]) -> ContentProbe | None:
        """Record the vector that the program gives, None if it gives none."""
        vector_D = self._unscaled(attributes)
        return None if vector_D is None else ContentProbe(attributes=dict(attributes), vector=tuple(vector_D.tolist()))

    def check_probes(self, probes: Sequence[ContentProbe]) -> None:
        """Raise BundleError unless the program gives the recorded vectors, but for rounding."""
        for number, expected in enumerate(probes):
            actual_D = self._unscaled(expected.attributes)
            tolerance = TOLERANCE * float(np.abs(expected.vector).max())
            if actual_D is None or not np.allclose(actual_D, expected.vector, rtol=0, atol=tolerance):
                raise BundleError(f"content probe {number}: {CONTENT} gives another vector than at export")

    def _unscaled(self, attributes: Mapping[str, Any]) -> NDArray[np.float32] | None:
        features = self.features.of(attributes)
        return None if features is None else self._run(features)

    def _run(self, features: ItemFeatures) -> NDArray[np.float32]:
        missing = max(0, MIN_FEATURES - len(features.rows_T))
        inputs = {ROWS: np.pad(features.rows_T, (0, missing)), WEIGHTS: np.pad(features.weights_T, (0, missing))}
        vector_D: NDArray[np.float32] = self._program.run([VECTOR], inputs)[0]
        return vector_D

    def _check_signature(self) -> None:
        expected = [(ROWS, "tensor(int64)", 1), (WEIGHTS, "tensor(float)", 1), (VECTOR, "tensor(float)", 1)]
        if signature(self._program) != expected:
            raise BundleError(f"{CONTENT}: not a program from int64 {ROWS} and float32 {WEIGHTS} to float32 {VECTOR}")
