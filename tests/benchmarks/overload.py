"""Goodput under overload: `python -m tests.benchmarks.overload BUNDLES`.

Starts one worker that may handle `--limit` requests at once, and loads it in turn, round by round: with as many
connections as that ("peak"), with `--factor` times as many of which each repeats a refused request at once ("closed"),
and with `--factor` times the rate of the peak, due whether or not answers come ("open").

Prints one line of JSON: of each load the goodput (answers of status 200 a second) and its ratio to the peak of the same
round, the latency of these answers, and the refusals; and how long the worker took to refuse, from the arrival of a
request to its answer, by its own metrics. The aim of both ratios is .8, that of refusals 5 ms at p99.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from urllib.request import urlopen

import typer

from onward.bundle import Bundle
from onward.service.bench.load_generator.api import Onward
from onward.service.bench.load_generator.arrivals import Arrivals
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.loads import ClosedLoad, Load, OpenLoad
from onward.service.bench.load_generator.workload import draw_sessions
from onward.service.bench.measurement import measure
from onward.service.bench.server import started
from onward.training.hardware import machine

Figures = Mapping[str, Any]
OPEN_CONNECTIONS = 1024
REFUSED = "status 503"
REFUSALS = re.compile(r'onward_request_seconds_bucket\{le="([^"]+)",method="POST",route="unmatched"\} ([0-9.e+]+)')


def figures_of(measured: Figures) -> dict[str, Any]:
    """Return the goodput, the latency of the answers, and the number of each error."""
    seconds = measured["answered"] / measured["achieved_per_s"]
    return {
        "goodput_per_s": measured["achieved_per_s"],
        "p50_ms": measured["p50_ms"],
        "p99_ms": measured["p99_ms"],
        "refused_per_s": round(measured["errors"].get(REFUSED, 0) / seconds, 1),
        "other_errors": {name: number for name, number in measured["errors"].items() if name != REFUSED},
    }


def summary(rounds: Sequence[Mapping[str, Figures]], load: str) -> dict[str, Any]:
    """Sum up the rounds of one load."""
    of_load = [each[load] for each in rounds]
    medians = {name: median(each[name] for each in of_load) for name in of_load[0] if name != "other_errors"}
    ratios = [each[load]["goodput_per_s"] / each["peak"]["goodput_per_s"] for each in rounds]
    errors = [each["other_errors"] for each in of_load if each["other_errors"]]
    return {**medians, "ratio": round(median(ratios), 3), "ratios": [round(r, 3) for r in ratios], "errors": errors}


def refusal_ms(url: str, share: float) -> float | None:
    """Return a bound of the time within which a share of the refusals was answered; None without any."""
    with urlopen(f"{url}/metrics") as response:  # noqa: S310  # the server that was started
        buckets = [(float(limit), float(number)) for limit, number in REFUSALS.findall(response.read().decode())]
    total = buckets[-1][1] if buckets else 0
    return next((1000 * limit for limit, number in buckets if number >= share * total), None) if total else None


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles.")],
    limit: Annotated[int, typer.Option(min=1, help="Requests that the worker handles at once.")] = 64,
    factor: Annotated[int, typer.Option(min=2)] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 5,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Compare goodput under overload with the peak."""
    bundle = Bundle.load(bundles / "current")
    api, sessions, seeds = Onward(), draw_sessions(bundle), count(1)
    os.environ["SERVICE_MAX_IN_FLIGHT"] = str(limit)
    measured: list[dict[str, Figures]] = []
    with ExitStack() as running:
        server = running.enter_context(started(bundles))
        generator = running.enter_context(LoadGenerator())

        def run(load: Load) -> dict[str, Any]:
            return figures_of(measure(generator, server, load).figures())

        def closed(connections: int, duration_s: float) -> dict[str, Any]:
            return run(ClosedLoad(server.url, api, sessions, connections, duration_s, next(seeds)))

        closed(limit, 2)
        for _ in range(rounds):
            peak = closed(limit, seconds)
            arrivals = Arrivals(factor * peak["goodput_per_s"], seconds)
            measured.append(
                {
                    "peak": peak,
                    "closed": closed(factor * limit, seconds),
                    "open": run(OpenLoad(server.url, api, sessions, arrivals, OPEN_CONNECTIONS, 1.0, next(seeds))),
                }
            )
        refused_ms = {"p50": refusal_ms(server.url, 0.5), "p99": refusal_ms(server.url, 0.99)}
    result = {
        "benchmark": "overload",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn"),
        "items": bundle.manifest.items,
        "limit": limit,
        "factor": factor,
        "seconds": seconds,
        "rounds": rounds,
        "loads": {load: summary(measured, load) for load in ("peak", "closed", "open")},
        "refused_within_ms": refused_ms,
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
