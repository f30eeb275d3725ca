"""The section that compares Onward with other model servers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from tests.benchmarks.report.drawing import plot_to
from tests.benchmarks.report.markdown import ABSENT, counted, figure, table
from tests.benchmarks.report.record import Index, Record, RecordPart, check_columns
from tests.benchmarks.report.section import Plot, Section

OURS, OURS_FAST = "Onward", "Onward .95"
CONNECTIONS = 16
DRAWN = "drawn by popularity"
"""The description of sessions if there was no training run."""


class Advantage(RecordPart):
    """How many times better Onward is, as medians of the rounds' ratios; None if one of the two never answered."""

    requests_per_s: float | None
    cpu_us_per_request: float | None


class LoadFigures(RecordPart):
    """Figures of one server at one number of connections."""

    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_us_per_request: float
    errors: Mapping[str, int]
    generator_limited: bool


class ComparedServer(RecordPart):
    """A server of the comparison; Onward itself has no settings and no advantage."""

    recall_at_20: float
    connections: Mapping[int, LoadFigures]
    onward_is_times_better: Mapping[str, Mapping[int, Advantage]] = {}
    settings: str | None = None
    versions: Mapping[str, str] = {}


class Peers(Record):
    """A record of the comparison of servers."""

    benchmark: Literal["peers"]
    pinned: bool
    rounds: int
    seconds: float
    model: str
    items: int
    sessions: str
    index: Mapping[str, Index]
    servers: Mapping[str, ComparedServer]
    left_out: Mapping[str, str]

    @model_validator(mode="after")
    def _measured_alike(self) -> Self:
        if missing := {OURS, OURS_FAST}.difference(self.servers):
            raise ValueError(f"{min(missing)} is not among the servers")
        compared = [server.onward_is_times_better for name, server in self.servers.items() if name not in self.index]
        check_columns([{OURS: None, OURS_FAST: None}, self.index, *compared])
        by_connections = [server.connections for server in self.servers.values()]
        check_columns([*by_connections, *(times for server in compared for times in server.values())])
        if CONNECTIONS not in by_connections[0]:
            raise ValueError(f"nothing was measured over {CONNECTIONS} connections")
        return self

    def variants(self, peer: str) -> list[str]:
        """Return the names under which a peer was measured, one for each of its settings."""
        return [name for name in self.servers if name == peer or name.startswith(f"{peer}, ")]

    def times_better(self, ours: str, peer: str) -> float | None:
        """Return Onward's requests/s over a peer's; 0 if Onward never answered, None if the peer did not."""
        if not self.servers[ours].connections[CONNECTIONS].requests_per_s:
            return 0.0
        return self.servers[peer].onward_is_times_better[ours][CONNECTIONS].requests_per_s


def _label(record: Peers) -> str:
    pinned = ", pinned to cores" if record.pinned else ""
    return f"{record.model}, {record.items:,} items{pinned}"


def _command(record: Peers) -> str:
    run = "" if record.sessions == DRAWN else " --run RUN"
    pin = " --pin" if record.pinned else ""
    return f"python -m tests.benchmarks.peers BUNDLES{run} --rounds {record.rounds} --seconds {record.seconds:g}{pin}"


def _tables(record: Peers) -> str:
    counts = sorted({count for server in record.servers.values() for count in server.connections}, reverse=True)
    indices = "; ".join(f"{name}: {index}" for name, index in record.index.items())
    parts = [f"Sessions are {record.sessions}. Indices: {indices}."]
    parts += [f"{count} keep-alive connection{'s' * (count > 1)}:\n\n{_table(record, count)}" for count in counts]
    notes = [*_settings(record), *(f"- **{name}** is not measured: {why}" for name, why in record.left_out.items())]
    return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)


def _table(record: Peers, connections: int) -> str:
    head = ["server", "recall@20", "requests/s", "p50, ms", "p99, ms", "CPU/request, µs", "errors"]
    head += [f"advantage of {ours}: requests/s, CPU" for ours in (OURS, OURS_FAST)]
    return table([*head, "generator"], _rows(record, connections))


def _rows(record: Peers, connections: int) -> Iterator[list[str]]:
    for name, server in record.servers.items():
        load = server.connections[connections]
        yield [
            f"**{name}**" if name in (OURS, OURS_FAST) else name,
            f"{server.recall_at_20:.3f}",
            figure(load.requests_per_s),
            figure(load.p50_ms),
            figure(load.p99_ms),
            figure(load.cpu_us_per_request),
            counted(load.errors),
            *(_advantage(server, ours, connections) for ours in (OURS, OURS_FAST)),
            "was the limit" if load.generator_limited else "kept up",
        ]


def _advantage(server: ComparedServer, ours: str, connections: int) -> str:
    if ours not in server.onward_is_times_better:
        return ABSENT
    times = server.onward_is_times_better[ours][connections]
    return f"{figure(times.requests_per_s, ' ×')}, {figure(times.cpu_us_per_request, ' ×')}"


def _settings(record: Peers) -> Iterator[str]:
    for name, server in record.servers.items():
        if server.settings is not None:
            versions = ", ".join(f"{package} {version}" for package, version in server.versions.items())
            yield f"- **{name}**{f' ({versions})' if versions else ''}: {server.settings}"


def _draw(record: Peers, path: Path) -> None:
    others = [name for name, server in record.servers.items() if server.onward_is_times_better]
    with plot_to(
        path,
        title=f"Requests/s over {CONNECTIONS} connections, {record.items:,} items",
        xlabel="times those of the peer",
    ) as axes:
        for offset, ours in ((-0.2, OURS), (0.2, OURS_FAST)):
            times = [record.times_better(ours, name) or 0 for name in others]
            bars = axes.barh([place + offset for place in range(len(others))], times, height=0.38, label=ours)
            axes.bar_label(bars, [f"{value:.1f}" for value in times], padding=3)
        axes.set_yticks(range(len(others)), others)
        axes.invert_yaxis()
        axes.axvline(1, color="grey", linewidth=1)
        axes.margins(x=0.1)


PEERS = Section(
    title="Comparison with other model servers",
    introduction=(
        "Every server has the same task over the same bundle and sessions, with a store of the same kind: append a "
        "click to its session, encode the session, return the 20 nearest items. They are measured in turn in every "
        "round of one run, and the advantage of Onward is the median of the rounds' ratios. Onward runs twice: with "
        f"the bundle as it is, and with an index of lower recall (*{OURS_FAST}*), which the peers use too, except for "
        "plain FastAPI, whose search is exact. Onward does more for each request than the others: it handles filters "
        "and seen items, knows its items' attributes, reports degraded answers, stores the answer for next pages, "
        "explanations and attributed events, and counts. [The cost of that](#cost-of-the-parts-of-a-request) is part "
        "of its figures."
    ),
    kind=Peers,
    usage="python -m tests.benchmarks.peers BUNDLES --run RUN",
    label=_label,
    command=_command,
    tables=_tables,
    plot=Plot("How many times the requests/s of each peer", _draw),
)
