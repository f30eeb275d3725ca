"""A process that holds a bundle as a worker of the service does: `python -m tests.benchmarks.catalog_holder BUNDLE`.

It loads the bundle, answers, prints a line, waits for one, prints its memory in MB as JSON, and waits again.
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
LONGEST = 8


def sessions_of(bundle: Bundle) -> list[SessionView]:
    """Sessions of one to eight items that stand near each other: an item and what is similar to it."""
    generator = np.random.default_rng(1)
    sessions = []
    for row in generator.integers(1, bundle.manifest.items + 1, SESSIONS).tolist():
        similar = bundle.index.search(bundle.vectors_N1D[row : row + 1], LONGEST).rows
        chosen = similar[: generator.integers(1, LONGEST + 1)].tolist()
        sessions.append(SessionView([bundle.catalog.item_id(one) for one in chosen]))
    return sessions


def memory_mb() -> dict[str, int]:
    """Of this process: resident, its share of that beside others who map the same files, and its own alone."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = {line.partition(":")[0]: int(line.split()[1]) for line in rollup if line.endswith("kB")}
    named = {"rss_mb": "Rss", "pss_mb": "Pss", "private_mb": "Private_Dirty"}
    return {name: round(sizes[field] / 1024) for name, field in named.items()}


def main(bundle: Annotated[Path, typer.Argument(exists=True, help="A bundle.")]) -> None:
    """Hold a bundle and tell the memory that takes."""
    loaded = Bundle.load(bundle)
    loaded.catalog.make_columns()
    for seen in sessions_of(loaded):
        loaded.retrieve(seen, Options(K))
    typer.echo("ready")
    sys.stdin.readline()
    typer.echo(json.dumps(memory_mb()))
    sys.stdin.readline()


if __name__ == "__main__":
    typer.run(main)
