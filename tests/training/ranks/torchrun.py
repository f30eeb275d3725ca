"""Start ranks as a user does, by torchrun on this machine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]


def command(ranks: int, *arguments: str, options: Sequence[str] = ()) -> list[str]:
    """Return the command that starts a module as ranks."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*program, *options, "-m", *arguments]


def environment() -> dict[str, str]:
    """Return an environment in which the ranks import what this process imports, one thread each."""
    python_path = os.pathsep.join([str(ROOT), *sys.path])
    return {**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}


def torchrun(ranks: int, *arguments: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a module as ranks, and return what all of them printed."""
    return subprocess.run(
        command(ranks, *arguments, options=options), env=environment(), capture_output=True, text=True, check=False
    )
