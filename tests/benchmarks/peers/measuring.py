"""Measure servers that run at the same time, in turn."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.loads import ClosedLoad
from onward.service.bench.load_generator.workload import Sessions
from onward.service.bench.measurement import measure
from tests.benchmarks.peers.server import Server

CONNECTIONS = (1, 16)
WARM_UP_S = 1.0
MORE_IS_BETTER, LESS_IS_BETTER = ("requests_per_s",), ("p50_ms", "p99_ms", "cpu_us_per_request")
FIGURES = (*MORE_IS_BETTER, *LESS_IS_BETTER)

Figures = Mapping[str, Any]
Measured = Mapping[tuple[str, int], Sequence[Figures]]
"""The figures of each round, by server and connections."""


def run_rounds(
    servers: Sequence[Server],
    sessions: Sessions,
    *,
    rounds: int,
    seconds: float,
    generator: LoadGenerator,
    on_step: Callable[[str], object],
) -> Measured:
    """Measure every server in each round; each round begins with the next server."""
    for server in servers:
        for connections in CONNECTIONS:
            _figures(server, sessions, connections, WARM_UP_S, generator, seed=connections)
    measured: dict[tuple[str, int], list[Figures]] = {(s.name, c): [] for s in servers for c in CONNECTIONS}
    for number in range(rounds):
        on_step(f"round {number + 1} of {rounds}: {', '.join(server.name for server in servers)}")
        turn = number % len(servers)
        for connections in CONNECTIONS:
            for server in (*servers[turn:], *servers[:turn]):
                seed = 1000 * (number + 1) + connections
                measured[server.name, connections].append(
                    _figures(server, sessions, connections, seconds, generator, seed)
                )
    return measured


def medians(measured: Measured, name: str) -> dict[int, dict[str, Any]]:
    """Return a server's medians by connections, and the errors of all rounds."""
    return {
        connections: {
            **{figure: _median((each[figure] for each in measured[name, connections]), 3) for figure in FIGURES},
            "errors": dict(sum((each["errors"] for each in measured[name, connections]), Counter())),
            "generator_limited": any(each["generator_limited"] for each in measured[name, connections]),
        }
        for connections in CONNECTIONS
    }


def advantages(measured: Measured, ours: str, name: str) -> dict[int, dict[str, float | None]]:
    """Return the advantage of `ours` over another server by each figure: medians of the rounds' ratios."""
    return {
        connections: {
            figure: _median((_advantage(figure, own[figure], other[figure]) for own, other in pairs), 2)
            for figure in FIGURES
        }
        for connections in CONNECTIONS
        if (pairs := [*zip(measured[ours, connections], measured[name, connections], strict=True)])
    }


def _median(figures: Iterable[float | None], digits: int) -> float | None:
    """Return the median over the rounds with a good answer; None if there was none."""
    known = [figure for figure in figures if figure is not None]
    return round(median(known), digits) if known else None


def _advantage(figure: str, own: float | None, other: float | None) -> float | None:
    if not own or not other:
        return None
    return own / other if figure in MORE_IS_BETTER else other / own


def _figures(
    server: Server, sessions: Sessions, connections: int, seconds: float, generator: LoadGenerator, seed: int
) -> Figures:
    load = ClosedLoad(server.url, server.api, sessions, connections, seconds, seed)
    result, cost = measure(generator, server.process, load)
    return {
        "requests_per_s": result.achieved_per_s,
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "cpu_us_per_request": cost.cpu_us_per_request,
        "errors": Counter(result.errors),
        "generator_limited": result.generator_limited,
    }
