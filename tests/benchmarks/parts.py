"""What each part of a request costs in the running service: `python -m tests.benchmarks.parts BUNDLES`.

Starts the complete service, and once for each part the service without that part (`tests.benchmarks.ablation`), each
with a private session store, and measures them in turn. The difference in processor time is what the part costs in
place, its effect on caches included. Prints one line of JSON.
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
from onward.service.bench.load_generator.api import Onward
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.loads import ClosedLoad
from onward.service.bench.load_generator.workload import draw_sessions
from onward.service.bench.measurement import measure
from onward.service.bench.server import Server, started
from onward.training.hardware import machine
from tests.benchmarks.ablation import PARTS
from tests.benchmarks.source_tree import WORKING_TREE

WARM_UP_S = 2.0


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles.")],
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 2,
    rounds: Annotated[int, typer.Option(min=2)] = 15,
    connections: Annotated[int, typer.Option(min=1)] = 16,
) -> None:
    """Print the processor time of a request, and how much less it is without each part."""
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    bundle = Bundle.load(bundles / "current")
    api, sessions, seeds = Onward(), draw_sessions(bundle), count(1)
    python_path = WORKING_TREE.python_path
    with ExitStack() as running:
        generator = running.enter_context(LoadGenerator())
        complete = running.enter_context(started(bundles, python_path=python_path))
        WORKING_TREE.verify(complete.pid or 0)
        without = {
            part: running.enter_context(
                started(bundles, program=("tests.benchmarks.ablation", part), python_path=python_path)
            )
            for part in PARTS
        }

        def cpu_us(server: Server, duration_s: float) -> float:
            load = ClosedLoad(server.url, api, sessions, connections, duration_s, next(seeds))
            figures = measure(generator, server, load).figures()
            assert not figures["errors"], figures["errors"]
            return float(figures["cpu_us_per_request"])

        for server in (complete, *without.values()):
            cpu_us(server, WARM_UP_S)
        ratios: dict[str, list[float]] = {part: [] for part in PARTS}
        complete_us: list[float] = []
        for _ in range(rounds):
            for part, server in without.items():
                complete_us.append(cpu_us(complete, seconds))
                ratios[part].append(cpu_us(server, seconds) / complete_us[-1])
    request_us = median(complete_us)
    result = {
        "benchmark": "parts",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn"),
        "items": bundle.manifest.items,
        "connections": connections,
        "rounds": rounds,
        "cpu_us_per_request": round(request_us, 1),
        "parts": {part: _cost([1 - ratio for ratio in of_part], request_us) for part, of_part in ratios.items()},
    }
    typer.echo(json.dumps(result))


def _cost(shares: Sequence[float], request_us: float) -> dict[str, Any]:
    """Summarize the rounds of a part: the median and the middle half."""
    low, middle, high = quantiles(shares, n=4, method="inclusive")
    return {
        "share": round(middle, 3),
        "cpu_us": round(request_us * middle, 1),
        "middle_half_us": [round(request_us * share, 1) for share in (low, high)],
    }


if __name__ == "__main__":
    typer.run(main)
