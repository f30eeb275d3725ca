"""Latency and throughput of the service on loopback: `python -m tests.benchmarks.serving BUNDLES [BUNDLES ...]`.

Starts the service for each folder of bundles, with a private session store, and measures them in turn: in an open loop
at several rates (or with a rising rate), where latency counts from when a request was due, and in a closed loop over 1
and 16 keep-alive connections. Every request appends one item to a session and asks for 20. Recall is that of the
served answers against exact search for the same sessions. Prints one line of JSON.
"""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import typer

from onward.bundle import Bundle
from onward.service.bench.load_generator.api import Onward
from onward.service.bench.load_generator.arrivals import Arrivals
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.load_result import RampInterval
from onward.service.bench.load_generator.loads import ClosedLoad, Load, OpenLoad
from onward.service.bench.load_generator.workload import Sessions, draw_sessions
from onward.service.bench.measurement import Measurement, measure
from onward.service.bench.options import OptionError, parse_filter
from onward.service.bench.recall import served_recall
from onward.service.bench.server import Server, started
from onward.training.hardware import machine

CONNECTIONS = (1, 16)
WARM_UP_S = 1.0
RECALL_SESSIONS = 200


class RateProfile(StrEnum):
    """The arrival rate of an open loop over time."""

    POISSON = "poisson"
    RAMP = "ramp"


class Subject(NamedTuple):
    """A running service, its bundle and its workload."""

    bundle: Bundle
    server: Server
    api: Onward
    sessions: Sessions

    def open_load(self, arrivals: Arrivals, seed: int) -> OpenLoad:
        return OpenLoad(self.server.url, self.api, self.sessions, arrivals, seed=seed)

    def closed_load(self, connections: int, seconds: float, seed: int) -> ClosedLoad:
        return ClosedLoad(self.server.url, self.api, self.sessions, connections, seconds, seed)


def medians(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Summarize the rounds of a load: medians of figures, sums of errors, and limits of the generator."""
    rounds = [measurement.figures() for measurement in measurements]
    figures = {name: _median([each[name] for each in rounds]) for name, value in rounds[0].items() if _is_number(value)}
    errors: Counter[str] = sum((Counter(each["errors"]) for each in rounds), Counter())
    reasons = sorted({each["limited_by"] for each in rounds if each["limited_by"]})
    parts = [_interval_medians(same) for same in zip(*(each.result.parts for each in measurements), strict=True)]
    return {
        **figures,
        "errors": dict(errors),
        "generator_limited": bool(reasons),
        "limited_by": reasons,
        **({"parts": parts} if parts else {}),
    }


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def _interval_medians(intervals: Sequence[RampInterval]) -> dict[str, float | None]:
    rows = [asdict(interval) for interval in intervals]
    return {name: _median([row[name] for row in rows]) for name in rows[0]}


def arrivals_of(profile: RateProfile, rates: Sequence[float], seconds: float) -> dict[str, Arrivals]:
    """Return the arrivals of the open loads by name: one per rate, or a ramp from the lowest to the highest rate."""
    if profile is RateProfile.RAMP:
        return {f"{min(rates):g}-{max(rates):g}": Arrivals(min(rates), seconds, max(rates))}
    return {f"{rate:g}": Arrivals(rate, seconds) for rate in rates}


def take_turns(
    subjects: Sequence[Subject], opens: dict[str, Arrivals], seconds: float, rounds: int
) -> list[dict[str, dict[str, Any]]]:
    """Run each load on each subject, round by round; return for each subject the medians by load name."""
    seeds = count(1)
    measurements: list[dict[str, list[Measurement]]] = [{} for _ in subjects]
    with LoadGenerator() as generator:
        for subject in subjects:
            generator.run(subject.closed_load(max(CONNECTIONS), WARM_UP_S, next(seeds)))
        for _ in range(rounds):
            for subject, of_subject in zip(subjects, measurements, strict=True):
                loads: dict[str, Load] = {
                    **{f"open {name}": subject.open_load(arrivals, next(seeds)) for name, arrivals in opens.items()},
                    **{f"closed {number}": subject.closed_load(number, seconds, next(seeds)) for number in CONNECTIONS},
                }
                for name, load in loads.items():
                    of_subject.setdefault(name, []).append(measure(generator, subject.server, load))
    return [{name: medians(of_load) for name, of_load in of_subject.items()} for of_subject in measurements]


def catalog_figures(subject: Subject, loads: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one catalog."""
    manifest = subject.bundle.manifest
    recall = served_recall(subject.server.url, subject.api, subject.sessions[:RECALL_SESSIONS])
    return {
        "model": manifest.model,
        "items": manifest.items,
        "index": manifest.index.model_dump(),
        f"recall_at_{subject.api.k}": recall,
        "loads": loads,
    }


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) <= 0:
        raise typer.BadParameter("separate rates above 0 by commas, as in 100,500,1000", param_hint="--rates")
    return rates


def _subject(folder: Path, condition: str | None, server: Server) -> Subject:
    bundle = Bundle.load(folder / "current", verify=False)
    try:
        api = Onward(filter=None if condition is None else parse_filter(condition, bundle))
    except OptionError as error:
        raise typer.BadParameter(str(error)) from error
    return Subject(bundle, server, api, draw_sessions(bundle))


def main(
    bundles: Annotated[list[Path], typer.Argument(exists=True, help="Folders of bundles.")],
    rates: Annotated[str, typer.Option(help="Requests/s of the open loop.")] = "100,500,1000",
    arrivals: Annotated[RateProfile, typer.Option(help="Constant rates, or one rising rate.")] = RateProfile.POISSON,
    condition: Annotated[str | None, typer.Option("--filter", help="A filter of every request, as JSON.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5)] = 10,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print latency, throughput, recall, memory and processor time of the service."""
    opens = arrivals_of(arrivals, _rates(rates), seconds)
    with ExitStack() as running:
        subjects = [
            _subject(folder, condition, running.enter_context(started(folder, workers=workers))) for folder in bundles
        ]
        loads = take_turns(subjects, opens, seconds, rounds)
        catalogs = [catalog_figures(subject, of_subject) for subject, of_subject in zip(subjects, loads, strict=True)]
    result = {
        "benchmark": "serving",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn"),
        "workers": workers,
        "arrivals": arrivals,
        "filter": None if condition is None else json.loads(condition),
        "seconds": seconds,
        "rounds": rounds,
        "recall_against": f"exact search by the API, {RECALL_SESSIONS} sessions of the load",
        "catalogs": catalogs,
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
