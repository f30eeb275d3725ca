"""Memory of a process that serves a bundle as a worker does: `python -m tests.benchmarks.catalog_memory BUNDLE`.

Loads the bundle, retrieves for some sessions and prints `ready`. After a line on stdin it prints its memory in MB as
JSON; after another line it ends.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from onward.bundle import Bundle, Options, SessionView

K = 20
SESSIONS = 400
MAX_LENGTH = 8


def sessions_of(bundle: Bundle) -> list[SessionView]:
    """Draw sessions of one to eight similar items: an item and its nearest neighbours."""
    generator = np.random.default_rng(1)
    sessions = []
    for row in generator.integers(1, bundle.manifest.items + 1, SESSIONS).tolist():
        similar = bundle.index.search(bundle.vectors_N1D[row : row + 1], MAX_LENGTH).rows
        chosen = similar[: generator.integers(1, MAX_LENGTH + 1)].tolist()
        sessions.append(SessionView([bundle.catalog.item_id(neighbour) for neighbour in chosen]))
    return sessions


def memory_mb() -> dict[str, int]:
    """Return this process's resident (RSS), proportional (PSS) and private memory."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = {line.partition(":")[0]: int(line.split()[1]) for line in rollup if line.endswith("kB")}
    named = {"rss_mb": "Rss", "pss_mb": "Pss", "private_mb": "Private_Dirty"}
    return {name: round(sizes[field] / 1024) for name, field in named.items()}


def main(bundle: Annotated[Path, typer.Argument(exists=True, help="A bundle.")]) -> None:
    """Hold a bundle and print the memory that it takes."""
    loaded = Bundle.load(bundle)
    loaded.catalog.make_columns()
    for session in sessions_of(loaded):
        loaded.retrieve(session, Options(K))
    typer.echo("ready")
    sys.stdin.readline()
    typer.echo(json.dumps(memory_mb()))
    sys.stdin.readline()


if __name__ == "__main__":
    typer.run(main)
