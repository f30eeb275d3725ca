"""What a figure was measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> dict[str, object]:
    """Processor, cores, Python and the versions of `packages`, to stand beside every figure."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
