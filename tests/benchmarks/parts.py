"""What each part of a request costs in the running service: `python -m tests.benchmarks.parts BUNDLES`.

Starts the service whole, and once for each part with that part left out (see `tests.benchmarks.left_out`), each with a
session store of its own, and asks them in turn. What a service spends less is what the part costs where it stands,
caches included. Prints one line of JSON.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import typer

from onward.bundle import Bundle
from onward.service.__main__ import THREAD_SETTINGS
from onward.service.bench.api import Onward
from onward.service.bench.generator import LoadGenerator
from onward.service.bench.load import ClosedLoad
from onward.service.bench.measurement import measure
from onward.service.bench.server import Server, started
from onward.service.bench.workload import draw_sessions
from onward.training.hardware import machine
from tests.benchmarks.left_out import PARTS
from tests.benchmarks.source_tree import WORKING_TREE

WARM_UP_S = 2.0


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles.")],
    seconds: Annotated[float, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=2)] = 15,
    connections: Annotated[int, typer.Option(min=1)] = 16,
) -> None:
    """Print processor time of a request, and of one without each part."""
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    bundle = Bundle.load(bundles / "current")
    api, sessions, seeds = Onward(), draw_sessions(bundle), count(1)
    with ExitStack() as running:
        generator = running.enter_context(LoadGenerator())
        whole = running.enter_context(started(bundles, python_path=WORKING_TREE.python_path))
        without = {
            part: running.enter_context(
                started(bundles, program=("tests.benchmarks.left_out", part), python_path=WORKING_TREE.python_path)
            )
            for part in PARTS
        }

        def cpu_us(server: Server, lasting_s: float) -> float:
            load = ClosedLoad(server.url, api, sessions, connections, lasting_s, next(seeds))
            figures = measure(generator, server, load).figures()
            assert not figures["errors"], figures["errors"]
            return float(figures["cpu_us_per_request"])

        for server in (whole, *without.values()):
            cpu_us(server, WARM_UP_S)
        taken: dict[str, list[float]] = {part: [] for part in PARTS}
        requests: list[float] = []
        for _ in range(rounds):
            for part, server in without.items():
                requests.append(cpu_us(whole, seconds))
                taken[part].append(cpu_us(server, seconds) / requests[-1])
    request_us = median(requests)
    result = {
        "benchmark": "parts",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn"),
        "items": bundle.manifest.items,
        "connections": connections,
        "rounds": rounds,
        "cpu_us_per_request": round(request_us, 1),
        "parts": {part: _cost([1 - ratio for ratio in ratios], request_us) for part, ratios in taken.items()},
    }
    typer.echo(json.dumps(result))


def _cost(shares: Sequence[float], request_us: float) -> dict[str, Any]:
    """What rounds say of a part: the median, and between what the middle half of them lie."""
    low, middle, high = quantiles(shares, n=4, method="inclusive")
    return {
        "share": round(middle, 3),
        "cpu_us": round(request_us * middle, 1),
        "middle_half_us": [round(request_us * share, 1) for share in (low, high)],
    }


if __name__ == "__main__":
    typer.run(main)
