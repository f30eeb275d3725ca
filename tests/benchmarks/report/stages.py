"""The section on the processor time of a request, stage by stage."""

from collections.abc import Iterator, Mapping
from typing import Literal, Self

from pydantic import model_validator

from tests.benchmarks.report.markdown import figure, table
from tests.benchmarks.report.record import Index, Record, RecordPart, check_columns
from tests.benchmarks.report.section import Section

NAMES = {"http": "HTTP", "store": "call of the session store", "encode": "encode", "search": "search", "json": "JSON"}


class Request(RecordPart):
    """The cost of a request at one number of connections, and of its stages alone."""

    cpu_us_per_request: float
    floors_us: Mapping[str, float]
    sum_of_floors_us: float
    ratio: float
    ratios: tuple[float, ...]


class Telemetry(RecordPart):
    """The cost of metrics, request id and log line together."""

    us_per_request: float
    share_of_request: float


class Stages(Record):
    """A record of the costs of stages."""

    benchmark: Literal["stages"]
    model: str
    engine: str
    items: int
    index: Index
    connections: Mapping[int, Request]
    telemetry: Telemetry

    @model_validator(mode="after")
    def _measured_alike(self) -> Self:
        check_columns(request.floors_us for request in self.connections.values())
        return self


def _label(record: Stages) -> str:
    return f"{record.model} by {record.engine}, {record.items:,} items"


def _command(record: Stages) -> str:
    rounds = len(next(iter(record.connections.values())).ratios)
    return f"python -m tests.benchmarks.stages BUNDLES --rounds {rounds}"


def _tables(record: Stages) -> str:
    counts = [f"{count} connection{'s' * (count > 1)}, µs" for count in record.connections]
    telemetry = record.telemetry
    return "\n\n".join(
        [
            f"Index: {record.index}.",
            table(["", *counts], _rows(list(record.connections.values()))),
            f"Metrics, request id and log line together: {figure(telemetry.us_per_request)} µs, "
            f"{telemetry.share_of_request:.1%} of a request.",
        ]
    )


def _rows(requests: list[Request]) -> Iterator[list[str]]:
    for stage in requests[0].floors_us:
        cells = [
            f"{figure(one.floors_us[stage])} ({one.floors_us[stage] / one.cpu_us_per_request:.0%})" for one in requests
        ]
        yield [NAMES.get(stage, stage), *cells]
    yield ["sum of the stages", *(figure(one.sum_of_floors_us) for one in requests)]
    rests = [one.cpu_us_per_request - one.sum_of_floors_us for one in requests]
    yield [
        "rest of a request",
        *(f"{figure(rest)} ({rest / one.cpu_us_per_request:.0%})" for rest, one in zip(rests, requests, strict=True)),
    ]
    yield ["**a request**", *(f"**{figure(one.cpu_us_per_request)}**" for one in requests)]
    yield ["a request / sum of the stages, median of rounds", *(f"{one.ratio:.2f}" for one in requests)]


STAGES = Section(
    title="Processor time of a request",
    introduction=(
        "The cost of a request to the service, and of each of its stages called alone in a loop, in the same rounds. "
        "The stages are lower bounds (floors): HTTP is a bare ASGI server whose responses have the same size. The rest "
        "of a request is what the service adds, and cache misses from one stage to the next; the next section measures "
        "its parts. Shares are of the complete request."
    ),
    kind=Stages,
    usage="python -m tests.benchmarks.stages BUNDLES",
    label=_label,
    command=_command,
    tables=_tables,
)
