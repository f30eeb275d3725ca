"""The section on search under filters of every selectivity."""

from collections.abc import Iterator, Mapping
from typing import Literal

from tests.benchmarks.report.markdown import ABSENT, figure, table
from tests.benchmarks.report.record import Index, Record, RecordPart
from tests.benchmarks.report.section import Section


class StrategyFigures(RecordPart):
    """Figures of one search strategy."""

    p50_us: float
    recall_at_20: float

    def __str__(self) -> str:
        return f"{figure(self.p50_us)} ({self.recall_at_20:.3f})"


class ChosenStrategy(StrategyFigures):
    """The strategy that the service chooses."""

    strategy: str


class EligibleShare(RecordPart):
    """All strategies for one share of eligible items."""

    eligible: int
    chosen: ChosenStrategy
    scan: StrategyFigures
    masked: StrategyFigures | None = None
    wide: StrategyFigures | None = None


class Filters(Record):
    """A record of search under filters."""

    benchmark: Literal["filters"]
    items: int
    dimension: int
    index: Index
    without: StrategyFigures
    shares: Mapping[float, EligibleShare]


def _label(record: Filters) -> str:
    return f"{record.items:,} items of {record.dimension} dimensions, {record.index}"


def _rows(record: Filters) -> Iterator[list[str]]:
    yield ["all", f"{record.items:,}", ABSENT, str(record.without), ABSENT, ABSENT, ABSENT]
    for share, one in record.shares.items():
        strategies = [ABSENT if figures is None else str(figures) for figures in (one.scan, one.masked, one.wide)]
        yield [f"{share:.4g}", f"{one.eligible:,}", one.chosen.strategy, str(one.chosen), *strategies]


FILTERS = Section(
    title="Search under filters",
    introduction=(
        "A random share of the items is eligible. The search compares every eligible item (scan), searches the index "
        "with a mask of eligible items (masked), or does so and visits more of the index (wide). Processor time of a "
        "query in µs, p50, with the recall@20 against exact search in brackets."
    ),
    kind=Filters,
    usage="python -m tests.benchmarks.filters BUNDLE",
    label=_label,
    command=lambda record: "python -m tests.benchmarks.filters BUNDLE",
    tables=lambda record: table(
        ["eligible share", "eligible", "chosen by the service", "its time", "scan", "masked", "wide"], _rows(record)
    ),
)
