"""Compile functions by numba, whose machine code is cached between starts.

Modules with compiled functions import numba from here, since it must not be imported before the variable is set.

Where numba looks for compiled code: a folder that the user names, code that was compiled when the image was built, then
folders that this user may write to.
"""

import os
from collections.abc import Callable
from typing import Any

CACHE_LOCATORS = ["UserProvidedCacheLocator", "onward.bundle.encoder.compiled_cache.CompiledCache"]
CACHE_LOCATORS += ["InTreeCacheLocator", "UserWideCacheLocator"]
os.environ.setdefault("NUMBA_CACHE_LOCATOR_CLASSES", ",".join(CACHE_LOCATORS))

from numba import njit, types  # noqa: E402  # reads the variable on import

__all__ = ["CACHE_LOCATORS", "compiled", "njit", "types"]


def compiled(signature: Any, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function for one signature, or load its machine code from the cache; options as of `numba.njit`."""
    try:
        return njit(signature, cache=True, **options)(function)  # type: ignore[no-any-return]  # no types
    except (OSError, RuntimeError):  # no writable cache folder
        return njit(signature, **options)(function)  # type: ignore[no-any-return]  # no types
