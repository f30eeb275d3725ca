"""Machine code that was compiled beside its source is found again, without a folder that may be written to."""

import os
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

pytest.importorskip("numba")

from onward.bundle.encoder.compiled_cache import CompiledCache
from onward.bundle.encoder.machine_code import CACHE_LOCATORS

SOURCE = """
import numba

def _double(number):
    return 2 * number

double = numba.njit("int64(int64)", cache=True)(_double)
print(sum(double.stats.cache_hits.values()))
"""
[LOCATOR] = [name for name in CACHE_LOCATORS if name.endswith(CompiledCache.__name__)]


def cache_hits(module: Path, locator: str) -> int:
    """Import a module in a process of its own, with one place for compiled code, and count what was found there."""
    program = [sys.executable, "-c", f"import {module.stem}"]
    environment = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": locator}
    environment["PYTHONPATH"] = os.pathsep.join([str(module.parent), *sys.path])
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


def test_the_kernel_names_this_class_by_its_import_path() -> None:
    assert resolve_name(LOCATOR) is CompiledCache


def test_code_compiled_beside_its_source_is_found(tmp_path: Path) -> None:
    module = tmp_path / "doubling.py"
    module.write_text(SOURCE)
    assert cache_hits(module, "InTreeCacheLocator") == 0
    assert cache_hits(module, LOCATOR) == 1


def test_without_compiled_code_the_class_finds_no_folder(tmp_path: Path) -> None:
    module = tmp_path / "doubling.py"
    module.write_text(SOURCE)
    assert CompiledCache.from_function(cache_hits, str(module)) is None
