"""Find machine code that numba compiled when the service was installed, in a folder that may be read-only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import InTreeCacheLocator


class CompiledCache(InTreeCacheLocator):  # type: ignore[misc]  # the library has no types
    """Numba's cache folder beside the source file, used if it holds code of this file; it need not be writable.

    `machine_code` names this class by its import path in NUMBA_CACHE_LOCATOR_CLASSES.
    """

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "CompiledCache | None":
        """Return a locator for a function's compiled code, None if there is none yet."""
        locator = cls(py_func, py_file)
        folder = Path(locator.get_cache_path())
        return locator if any(folder.glob(f"{Path(py_file).stem}.*.nbi")) else None
