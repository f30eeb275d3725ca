"""The plain call before and after a change: `python -m tests.benchmarks.revisions BUNDLES REVISION`.

Checks a revision out beside the working tree, starts the service of both, each with a session store of its own, and
asks them in turn. Prints one line of JSON with the figures of both and the medians of the ratios, now to then.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from service.bundle import Bundle
from tests.benchmarks.serving import measure, service
from training.machine import machine

HERE = Path(__file__).parents[2]


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The tree of a revision, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="onward-revision-") as folder:
        subprocess.run(["git", "-C", str(HERE), "worktree", "add", "--detach", folder, revision], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["git", "-C", str(HERE), "worktree", "remove", "--force", folder], check=True)


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles that both can read.")],
    revision: Annotated[str, typer.Argument(help="The one to compare with, as git knows it.")],
    seconds: Annotated[float, typer.Option(min=1)] = 3,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    connections: Annotated[int, typer.Option(min=1)] = 16,
) -> None:
    """Compare the plain call of the working tree with that of a revision."""
    bundle = Bundle.load(bundles / "current")
    with (
        checked_out(revision) as source,
        service(bundles, 1, source) as then,
        service(bundles, 1, HERE) as now,
    ):
        for port, pid in (then, now):
            measure(port, pid, connections, 1, bundle)
        pairs = [
            (measure(*then, connections, seconds, bundle), measure(*now, connections, seconds, bundle))
            for _ in range(rounds)
        ]
    result = {
        "benchmark": "revisions",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn"),
        "revision": revision,
        "items": bundle.manifest.items,
        "connections": connections,
        "then": {name: round(median(then[name] for then, _ in pairs), 3) for name in pairs[0][0]},
        "now": {name: round(median(now[name] for _, now in pairs), 3) for name in pairs[0][0]},
        "ratios": {
            name: round(median(now[name] / then[name] for then, now in pairs), 3)
            for name in ("requests_per_s", "p50_ms", "p99_ms", "cpu_us_per_request")
        },
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
