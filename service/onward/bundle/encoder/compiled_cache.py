"""Machine code that was compiled as the service was installed, read where nobody may write any more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import InTreeCacheLocator


class CompiledCache(InTreeCacheLocator):  # type: ignore[misc]  # the library has no types
    """The folder beside the source, where there is any machine code of this source; it need not be writable."""

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "CompiledCache | None":
        """Tell where the code of a function lies, None where there is none yet."""
        locator = cls(py_func, py_file)
        folder = Path(locator.get_cache_path())
        return locator if any(folder.glob(f"{Path(py_file).stem}.*.nbi")) else None
