"""Tools that the tests of clients need; a test skips, and says why, where one is not installed."""

from pathlib import Path

import pytest

from tests.packaging.environments import ROOT

TYPESCRIPT = ROOT / "clients" / "typescript"
GENERATORS = ROOT / "build" / "generators"


def require_python_generator() -> Path:
    """Return the interpreter of the environment with openapi-python-client, or skip the test."""
    python = GENERATORS / "bin" / "python"
    if not python.exists():
        pytest.skip("openapi-python-client is not installed: `make clients` installs it")
    return python


def require_npm() -> Path:
    """Return the folder of the programs that npm installed, or skip the test."""
    programs = TYPESCRIPT / "node_modules" / ".bin"
    if not (programs / "tsc").exists():
        pytest.skip("typescript is not installed: `make clients` installs it where there is npm")
    return programs
