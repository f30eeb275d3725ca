"""What the parts of a request cost where they stand."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tests.benchmarks.report.markdown import figure, table
from tests.benchmarks.report.record import Part, Record
from tests.benchmarks.report.section import Section


class Cost(Part):
    """What a request takes less without a part."""

    cpu_us: float
    share: float
    middle_half_us: tuple[float, float]
    """Between what the middle half of the rounds lie."""


class Parts(Record):
    """A record of the parts."""

    benchmark: Literal["parts"]
    items: int
    connections: int
    rounds: int
    cpu_us_per_request: float
    parts: Mapping[str, Cost] = Field(min_length=1)


def _tables(record: Parts) -> str:
    rows = [
        [part, figure(cost.cpu_us), " to ".join(map(figure, cost.middle_half_us)), f"{cost.share:.0%}"]
        for part, cost in record.parts.items()
    ]
    whole = ["**a request**", f"**{figure(record.cpu_us_per_request)}**", "", ""]
    return table(["left out", "so much less, µs", "the middle half of rounds, µs", "of a request"], [*rows, whole])


PARTS = Section(
    title="What parts of a request cost where they stand",
    introduction=(
        "The running service with a part of it left out, beside the whole one, in turn: what the part gave to the "
        "first requests is given again to all others. Unlike the stages above, which are called over and over by "
        "themselves, a part that is left out takes with it what it puts out of the caches, and the service's sleep "
        "where it waits. Some parts hold others, and what is put together between them; "
        "where the middle half of the rounds reaches from below 0 to above, a part costs less than can be told."
    ),
    kind=Parts,
    usage="python -m tests.benchmarks.parts BUNDLES",
    label=lambda record: f"{record.items:,} items, {record.connections} connections",
    command=lambda record: (
        f"python -m tests.benchmarks.parts BUNDLES --rounds {record.rounds} --connections {record.connections}"
    ),
    tables=_tables,
)
