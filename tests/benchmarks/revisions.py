"""The plain call before and after a change: `python -m tests.benchmarks.revisions BUNDLES REVISION`.

Checks a revision out beside the working tree, starts the service of both, each with a session store of its own, and
asks them in turn. Prints one line of JSON with the figures of both and the medians of the ratios, now to then.
"""

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from onward.bundle import Bundle
from onward.service.bench.api import Onward
from onward.service.bench.generator import Generator
from onward.service.bench.load import ClosedLoad
from onward.service.bench.measurement import measure
from onward.service.bench.server import Server, started
from onward.service.bench.visits import draw_sessions
from onward.training.hardware import machine

HERE = Path(__file__).parents[2]
WARM_UP_S = 1.0
FIGURES = ("achieved_per_s", "p50_ms", "p99_ms", "cpu_us_per_request")


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
    api, sessions, seeds = Onward(), draw_sessions(bundle), count(1)
    with (
        checked_out(revision) as source,
        started(bundles, source=source) as then,
        started(bundles, source=HERE) as now,
        Generator() as generator,
    ):

        def asked(server: Server, lasting_s: float) -> dict[str, Any]:
            load = ClosedLoad(server.url, api, sessions, connections, lasting_s, next(seeds))
            return measure(generator, server, load).figures()

        for server in (then, now):
            asked(server, WARM_UP_S)
        pairs = [(asked(then, seconds), asked(now, seconds)) for _ in range(rounds)]
    result = {
        "benchmark": "revisions",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn"),
        "revision": revision,
        "items": bundle.manifest.items,
        "connections": connections,
        "then": {name: round(median(then[name] for then, _ in pairs), 3) for name in FIGURES},
        "now": {name: round(median(now[name] for _, now in pairs), 3) for name in FIGURES},
        "ratios": {name: round(median(now[name] / then[name] for then, now in pairs), 3) for name in FIGURES},
        "errors": dict(sum((Counter(one["errors"]) for pair in pairs for one in pair), Counter())),
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
