"""What a figure was measured on."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> dict[str, str | int | float | None]:
    """Processor, cores, memory, Python, commit and the versions of `packages`, to stand beside every figure."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "commit": commit(),
        **{package: version(package) for package in packages},
    }


def commit() -> str | None:
    """The commit of the checkout that this package runs from, with + behind it where files differ; None outside one."""
    here = Path(__file__)
    try:
        is_tracked = _git("ls-files", here.name, folder=here.parent)
        return is_tracked and _git(
            "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*", folder=here.parent
        )
    except OSError:  # there is no git
        return None


def _git(*arguments: str, folder: Path) -> str | None:
    answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
