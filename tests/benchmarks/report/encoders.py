"""The section on the encoders of all models, as the service runs them."""

from collections.abc import Mapping
from typing import Literal

from tests.benchmarks.report.markdown import figure, table
from tests.benchmarks.report.record import Record, RecordPart
from tests.benchmarks.report.section import Section

BUNDLE_SEPARATOR = " ("
"""Between the model and the folder in the name of a bundle's encoder."""


class Encoder(RecordPart):
    """Latency of one encoder."""

    items: int
    p50_us: float
    p99_us: float


class Encoders(Record):
    """A record of the latencies of encoders."""

    benchmark: Literal["encoders"]
    length: int
    encoders: Mapping[str, Encoder]


def _command(record: Encoders) -> str:
    bundles = " BUNDLES" * sum(BUNDLE_SEPARATOR in name for name in record.encoders)
    return f"python -m tests.benchmarks.encoders{bundles} --length {record.length}"


def _tables(record: Encoders) -> str:
    return table(
        ["encoder", "items", "p50, µs", "p99, µs"],
        (
            [name.partition(BUNDLE_SEPARATOR)[0], f"{one.items:,}", figure(one.p50_us), figure(one.p99_us)]
            for name, one in record.encoders.items()
        ),
    )


ENCODERS = Section(
    title="Encoders of all models",
    introduction="The exported programs encode one session at a time in one thread, in turn.",
    kind=Encoders,
    usage="python -m tests.benchmarks.encoders",
    label=lambda record: f"Sessions of {record.length} items",
    command=_command,
    tables=_tables,
)
