"""A NumPy file mapped into memory, its type and shape checked before a byte of it is used."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.manifest import BundleError


def open_array(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Map an .npy file read-only. Raises BundleError unless it holds `shape` numbers of `dtype` in C order.

    Where the shape says None any length will do.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path.name}: no readable NumPy array") from error
    fits = len(array.shape) == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits or not array.flags.c_contiguous:
        raise BundleError(f"{path.name}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape} in C order")
    return np.asarray(array)
