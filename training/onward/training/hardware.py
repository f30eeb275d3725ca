"""The hardware and software that a measurement was made on."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> dict[str, str | int | float | None]:
    """Describe the hardware and library versions of a benchmark.

    Args:
        packages: installed packages whose versions are included beside processor, cores, memory, Python and commit.
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "commit": commit(),
        **{package: version(package) for package in packages},
    }


def commit() -> str | None:
    """Return the commit of this package's Git checkout, with a + if tracked files differ; None outside a checkout."""
    here = Path(__file__)
    try:
        is_tracked = _git("ls-files", here.name, folder=here.parent)
        return is_tracked and _git(
            "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*", folder=here.parent
        )
    except OSError:  # git is not installed
        return None


def _git(*arguments: str, folder: Path) -> str | None:
    completed = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return completed.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
