"""Memory-mapped NumPy files, whose type and shape are checked before any number is used."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.manifest import BundleError

CHECKED_NUMBERS = 2**22
"""Numbers that are checked at once, which bounds the memory that checking takes to as many bytes."""


def open_array(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Map an .npy file read-only. Raises BundleError unless it holds `shape` numbers of `dtype` in C order.

    None in the shape allows any length.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, MemoryError) as error:
        raise BundleError(f"{path.name}: not a readable NumPy array") from error
    fits = len(array.shape) == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits or not array.flags.c_contiguous:
        raise BundleError(f"{path.name}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape} in C order")
    return np.asarray(array)


def check_vectors(name: str, vectors_N1D: NDArray[np.float32]) -> None:
    """Raise BundleError, naming the file, if a vector is not finite or that of row 0, the padding, is not zero."""
    if vectors_N1D[0].any():
        raise BundleError(f"{name}: row 0, the padding, is not zero")
    check_finite(name, vectors_N1D)


def check_finite(name: str, array: NDArray[np.floating[Any]]) -> None:
    """Raise BundleError, naming the file, if a number is NaN or infinite."""
    numbers = array.reshape(-1)
    for start in range(0, len(numbers), CHECKED_NUMBERS):
        if not np.isfinite(numbers[start : start + CHECKED_NUMBERS]).all():
            raise BundleError(f"{name}: holds NaN or infinity after number {start} of its {array.size}")


def check_booleans(name: str, array: NDArray[np.bool_]) -> None:
    """Raise BundleError, naming the file, if a byte is neither 0 nor 1."""
    if array.size and array.view(np.uint8).max() > 1:
        raise BundleError(f"{name}: holds a byte that is neither 0 nor 1")
