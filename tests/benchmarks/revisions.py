"""Compare the working tree with another revision: `python -m tests.benchmarks.revisions BUNDLES REVISION`.

Checks the revision out into a temporary folder and starts three servers, each with a private session store: one of the
working tree ("now") and two of the revision ("then", and "then again" for the noise). They are measured in turn,
round by round, with plain recommendation requests in a closed loop.

Prints one line of JSON. For each number of connections: the medians of both revisions; `ratios`, now to then; and
`noise`, the same ratio between the two servers of one revision. A change smaller than the noise says nothing, so
whether processor time stays within `--limit` is answered only if the noise is smaller than that limit.
"""

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import typer

from onward.bundle import Bundle
from onward.service.bench.load_generator.api import Onward
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.loads import ClosedLoad
from onward.service.bench.load_generator.workload import draw_sessions
from onward.service.bench.measurement import measure
from onward.service.bench.server import Server, started
from onward.training.hardware import machine
from tests.benchmarks.source_tree import WORKING_TREE, SourceTree

WARM_UP_S = 1.0
FIGURES = ("achieved_per_s", "p50_ms", "p99_ms", "cpu_us_per_request")
LIMITED_FIGURE = "cpu_us_per_request"

Figures = Mapping[str, Any]
Round = Mapping[str, Figures]
"""The figures of each server, by its name: then, now, then again."""


@contextmanager
def checked_out(revision: str) -> Iterator[SourceTree]:
    """Check a revision out into a temporary folder."""
    repository = str(WORKING_TREE.root)
    with tempfile.TemporaryDirectory(prefix="onward-revision-") as folder:
        subprocess.run(
            ["git", "-C", repository, "worktree", "add", "--quiet", "--detach", folder, revision], check=True
        )
        try:
            yield SourceTree(Path(folder))
        finally:
            subprocess.run(["git", "-C", repository, "worktree", "remove", "--force", folder], check=True)


def in_turn(servers: Mapping[str, Server], rounds: int, run_load: Callable[[Server], Figures]) -> list[Round]:
    """Measure every server once in each round; each round begins with the next server, so that order favours none."""
    names = [*servers]
    orders = [names[number % len(names) :] + names[: number % len(names)] for number in range(rounds)]
    return [{name: run_load(servers[name]) for name in order} for order in orders]


def summary(rounds: Sequence[Round], limit: float) -> dict[str, Any]:
    """Sum up the rounds of one number of connections."""
    ratios = {name: spread([each["now"][name] / each["then"][name] for each in rounds]) for name in FIGURES}
    noise = {name: spread([each["then again"][name] / each["then"][name] for each in rounds]) for name in FIGURES}
    return {
        "then": {name: round(median(each["then"][name] for each in rounds), 3) for name in FIGURES},
        "now": {name: round(median(each["now"][name] for each in rounds), 3) for name in FIGURES},
        "ratios": ratios,
        "noise": noise,
        "limit": {
            "figure": LIMITED_FIGURE,
            "most": limit,
            "verdict": verdict(ratios[LIMITED_FIGURE]["median"], noise[LIMITED_FIGURE]["deviation"], limit),
        },
        "errors": dict(
            sum((Counter(figures["errors"]) for each in rounds for figures in each.values()), Counter[str]())
        ),
    }


def verdict(ratio: float, noise: float, limit: float) -> str:
    """Say whether a ratio is at most 1 + `limit`, if the deviation that is noise is smaller than the limit."""
    if noise >= limit:
        return "unknown: the noise is not below the limit"
    return "within" if ratio <= 1 + limit else "exceeded"


def spread(ratios: Sequence[float]) -> dict[str, Any]:
    """The median, the middle half, and `deviation`: how far the median is from 1, plus its standard error.

    The standard error of a median is about 0.93 times the width of the middle half, over the root of the number of
    rounds, so more rounds lower it.
    """
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return {
        "median": round(middle, 3),
        "middle_half": [round(low, 3), round(high, 3)],
        "deviation": round(abs(middle - 1) + 0.93 * (high - low) / len(ratios) ** 0.5, 3),
    }


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles that both revisions can read.")],
    revision: Annotated[str, typer.Argument(help="The revision to compare with, as git names it.")],
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 3,
    rounds: Annotated[int, typer.Option(min=2)] = 7,
    connections: Annotated[
        list[int] | None, typer.Option(min=1, help="Of the load generator; may be repeated.  [default: 1 and 16]")
    ] = None,
    limit: Annotated[float, typer.Option(min=0, help="Accepted growth of processor time, as a share.")] = 0.02,
) -> None:
    """Compare the working tree with a revision, beside the noise between two servers of that revision."""
    bundle = Bundle.load(bundles / "current")
    api, sessions, seeds = Onward(), draw_sessions(bundle), count(1)
    with ExitStack() as running:
        base = running.enter_context(checked_out(revision))
        trees = {"then": base, "now": WORKING_TREE, "then again": base}
        servers = {
            name: running.enter_context(started(bundles, program=(tree.program,), python_path=tree.python_path))
            for name, tree in trees.items()
        }
        loaded_from = {name: trees[name].verify(server.pid or 0) for name, server in servers.items()}
        generator = running.enter_context(LoadGenerator())

        def run_load(server: Server, *, connections: int, duration_s: float) -> Figures:
            load = ClosedLoad(server.url, api, sessions, connections, duration_s, next(seeds))
            return measure(generator, server, load).figures()

        by_connections: dict[int, Any] = {}
        for number in connections or [1, 16]:
            for server in servers.values():
                run_load(server, connections=number, duration_s=WARM_UP_S)
            measured = in_turn(servers, rounds, partial(run_load, connections=number, duration_s=seconds))
            by_connections[number] = summary(measured, limit)
    result = {
        "benchmark": "revisions",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn"),
        "revision": revision,
        "loaded_from": loaded_from,
        "items": bundle.manifest.items,
        "seconds": seconds,
        "rounds": rounds,
        "connections": by_connections,
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
