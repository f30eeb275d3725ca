"""Memory-mapped NumPy files, whose type and shape are checked before any number is used."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.manifest import BundleError

CHECKED_ROWS = 65_536
"""Rows of vectors that are checked at once, which bounds the memory that checking takes."""


def open_array(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Map an .npy file read-only. Raises BundleError unless it holds `shape` numbers of `dtype` in C order.

    None in the shape allows any length.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path.name}: not a readable NumPy array") from error
    fits = len(array.shape) == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits or not array.flags.c_contiguous:
        raise BundleError(f"{path.name}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape} in C order")
    return np.asarray(array)


def check_vectors(name: str, vectors_N1D: NDArray[np.float32]) -> None:
    """Raise BundleError, naming the file, if a vector is not finite or that of row 0, the padding, is not zero."""
    if vectors_N1D[0].any():
        raise BundleError(f"{name}: row 0, the padding, is not zero")
    for start in range(0, len(vectors_N1D), CHECKED_ROWS):
        if not np.isfinite(vectors_N1D[start : start + CHECKED_ROWS]).all():
            raise BundleError(f"{name}: holds NaN or infinity after row {start}")
