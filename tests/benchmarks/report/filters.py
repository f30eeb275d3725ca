"""Search under filters of every selectivity."""

from collections.abc import Iterator, Mapping
from typing import Literal

from tests.benchmarks.report.markdown import ABSENT, figure, table
from tests.benchmarks.report.record import Index, Part, Record
from tests.benchmarks.report.section import Section


class Search(Part):
    """One way to search."""

    p50_us: float
    recall_at_20: float

    def __str__(self) -> str:
        return f"{figure(self.p50_us)} ({self.recall_at_20:.3f})"


class Chosen(Search):
    """The way that the service takes."""

    strategy: str


class Share(Part):
    """Every way to search when so many items are eligible."""

    eligible: int
    chosen: Chosen
    scan: Search
    masked: Search | None = None
    wide: Search | None = None


class Filters(Record):
    """A record of search under filters."""

    benchmark: Literal["filters"]
    items: int
    dimension: int
    index: Index
    without: Search
    shares: Mapping[float, Share]


def _label(record: Filters) -> str:
    return f"{record.items:,} items of {record.dimension} dimensions, {record.index}"


def _rows(record: Filters) -> Iterator[list[str]]:
    yield ["all", f"{record.items:,}", ABSENT, str(record.without), ABSENT, ABSENT, ABSENT]
    for share, one in record.shares.items():
        ways = [ABSENT if way is None else str(way) for way in (one.scan, one.masked, one.wide)]
        yield [f"{share:.4g}", f"{one.eligible:,}", one.chosen.strategy, str(one.chosen), *ways]


FILTERS = Section(
    title="Search under filters",
    introduction=(
        "Some items are eligible, by chance, and the search looks at no others: it compares every eligible item "
        "(scan), asks the index for eligible ones (masked), or has it visit more of its parts as well (wide). "
        "Processor time of a query in µs, p50, with the recall@20 against exact search in brackets."
    ),
    kind=Filters,
    usage="python -m tests.benchmarks.filters BUNDLE",
    label=_label,
    command=lambda record: "python -m tests.benchmarks.filters BUNDLE",
    tables=lambda record: table(
        ["eligible share", "eligible", "taken by the service", "so it takes", "scan", "masked", "wide"], _rows(record)
    ),
)
