"""The section on the service under load."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from shlex import quote
from typing import Any, Literal, Self

from matplotlib.axes import Axes
from pydantic import model_validator

from tests.benchmarks.report.drawing import logarithmic, plot_to
from tests.benchmarks.report.markdown import counted, figure, table
from tests.benchmarks.report.record import Index, Record, RecordPart, check_columns
from tests.benchmarks.report.section import Plot, Section

PERCENTILES = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "p99.9": "p999_ms"}
OPEN = "open "
LINES = "-", "--", ":", "-."
"""Line styles of the catalogs in one plot."""


class RampInterval(RecordPart):
    """Latencies of one interval of a ramp."""

    rate_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class Load(RecordPart):
    """Medians over rounds; the rate is that of arrivals, None in a closed loop."""

    rate_per_s: float | None
    achieved_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    cpu_us_per_request: float | None
    store_cpu_us_per_request: float | None
    rss_mib: float | None
    pss_mib: float | None
    errors: Mapping[str, int]
    limited_by: tuple[str, ...]
    parts: tuple[RampInterval, ...] = ()


class ServedCatalog(RecordPart):
    """A bundle and the results of its loads."""

    model: str
    items: int
    index: Index
    recall_at_20: float
    loads: Mapping[str, Load]


class Serving(Record):
    """A record of the service under load."""

    benchmark: Literal["serving"]
    workers: int
    arrivals: Literal["poisson", "ramp"]
    filter: Mapping[str, Any] | None
    seconds: float
    rounds: int
    catalogs: tuple[ServedCatalog, ...]

    @model_validator(mode="after")
    def _measured_alike(self) -> Self:
        check_columns(catalog.loads for catalog in self.catalogs)
        return self


def _label(record: Serving) -> str:
    items = " and ".join(f"{catalog.items:,}" for catalog in record.catalogs)
    workers = f"{record.workers} worker{'s' * (record.workers > 1)}"
    ramp = ", rising rate" if record.arrivals == "ramp" else ""
    return f"{items} items, {workers}{', a filter' if record.filter else ''}{ramp}"


def _command(record: Serving) -> str:
    rates = ",".join(name for name in record.catalogs[0].loads if name.startswith(OPEN)).replace(OPEN, "")
    command = f"python -m tests.benchmarks.serving{' BUNDLES' * len(record.catalogs)}"
    command += f" --rates {rates.replace('-', ',')} --seconds {record.seconds:g} --rounds {record.rounds}"
    command += " --arrivals ramp" if record.arrivals == "ramp" else ""
    command += f" --workers {record.workers}" if record.workers > 1 else ""
    return command + (f" --filter {quote(json.dumps(record.filter))}" if record.filter else "")


def _tables(record: Serving) -> str:
    return "\n\n".join(block for catalog in record.catalogs for block in _catalog_blocks(catalog))


def _catalog_blocks(catalog: ServedCatalog) -> Iterator[str]:
    recall = f"recall@20 of the answers {catalog.recall_at_20:.3f}"
    yield f"{catalog.model}, {catalog.items:,} items, {catalog.index}, {recall}:"
    head = ["load", "answers/s", *(f"{name}, ms" for name in PERCENTILES), "errors", "CPU/request, µs"]
    head += ["store CPU/request, µs", "RSS / PSS, MiB", "generator"]
    yield table(head, [_row(name, load) for name, load in catalog.loads.items()])
    for name, load in catalog.loads.items():
        if load.parts:
            yield f"{name}, by interval:"
            yield table(
                ["requests/s", "p50, ms", "p90, ms", "p99, ms"], [_interval_row(interval) for interval in load.parts]
            )


def _row(name: str, load: Load) -> list[str]:
    kind, _, number = name.partition(" ")
    return [
        f"{number} requests/s" if kind == OPEN.strip() else f"{number} connection{'s' * (number != '1')}",
        figure(load.achieved_per_s),
        *(figure(getattr(load, field)) for field in PERCENTILES.values()),
        counted(load.errors),
        figure(load.cpu_us_per_request),
        figure(load.store_cpu_us_per_request),
        f"{figure(load.rss_mib)} / {figure(load.pss_mib)}",
        "; ".join(load.limited_by) or "kept up",
    ]


def _interval_row(interval: RampInterval) -> list[str]:
    return [figure(value) for value in (interval.rate_per_s, interval.p50_ms, interval.p90_ms, interval.p99_ms)]


def _draw(record: Serving, path: Path) -> None:
    with plot_to(path, title=_label(record), xlabel="requests/s", ylabel="ms from when a request was due") as axes:
        for catalog, line in zip(record.catalogs, cycle(LINES), strict=False):
            _draw_catalog(axes, catalog, line)
        logarithmic(axes, (point.rate_per_s or 0 for catalog in record.catalogs for point in _points(catalog)))


def _draw_catalog(axes: Axes, catalog: ServedCatalog, line: str) -> None:
    points = _points(catalog)
    for number, (label, field) in enumerate(PERCENTILES.items()):
        known = [(point.rate_per_s, value) for point in points if (value := getattr(point, field, None)) is not None]
        axes.plot(
            [rate or 0 for rate, _ in known],
            [value for _, value in known],
            line,
            color=f"C{number}",
            marker="o",
            markersize=4,
            label=f"{label}, {catalog.items:,} items",
        )


def _points(catalog: ServedCatalog) -> Sequence[Load | RampInterval]:
    """Return the loads or ramp intervals of the open loop, by rate."""
    open_loads = [load for load in catalog.loads.values() if load.rate_per_s is not None]
    points = [point for load in open_loads for point in (load.parts or (load,))]
    return sorted(points, key=lambda point: point.rate_per_s or 0)


SERVING = Section(
    title="The service under load",
    introduction=(
        "The complete service with its session store, and the load generator, on the cores of one machine. At a "
        "given rate the load is an open loop: requests arrive as a Poisson process, whether or not earlier ones were "
        "answered, and latency counts from when a request was due. At a given number of connections it is a closed "
        "loop: each connection sends its next request as soon as it has a response. Processor time and memory are "
        "those of the service's processes, without the store."
    ),
    kind=Serving,
    usage="python -m tests.benchmarks.serving BUNDLES",
    label=_label,
    command=_command,
    tables=_tables,
    plot=Plot("Latency against rate", _draw),
)
