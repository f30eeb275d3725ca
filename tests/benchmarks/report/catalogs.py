"""The section on catalogs from tens of thousands to millions of items."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from tests.benchmarks.report.drawing import logarithmic, plot_to
from tests.benchmarks.report.markdown import ABSENT, figure, table
from tests.benchmarks.report.record import Index, Record, RecordPart, check_columns
from tests.benchmarks.report.section import Plot, Section

WITHOUT_FILTER = "without_filter"


class Timed(RecordPart):
    """Processor time of one thread."""

    p50_us: float
    p99_us: float


class TunedSearch(Timed):
    """Search with an index that was tuned to a target recall."""

    visits: int | None
    recall_at_20: float
    share_of_flat: float


class FilteredSearch(Timed):
    """Search with the bundle's index under a filter."""

    eligible: int
    first_use_ms: float
    strategy: str
    recall_at_20: float


class Memory(RecordPart):
    """Memory of one of the processes that hold a bundle at the same time, in MB."""

    rss_mb: float
    pss_mb: float


class Build(RecordPart):
    """Duration of each step of the export, in seconds."""

    seconds: Mapping[str, float]


class Catalog(RecordPart):
    """Figures of one catalog size."""

    build: Build
    index: Index
    files_mb: Mapping[str, float]
    first_answer_s: float
    load_s: float
    flat: Timed
    targets: Mapping[float, TunedSearch]
    filters: Mapping[float, FilteredSearch]
    retrieve: Mapping[str, Timed]
    workers: tuple[Memory, ...]


class Catalogs(Record):
    """A record of several catalog sizes."""

    benchmark: Literal["catalogs"]
    catalogs: Mapping[int, Catalog]

    @model_validator(mode="after")
    def _measured_alike(self) -> Self:
        check_columns(catalog.targets for catalog in self.catalogs.values())
        return self


def _label(record: Catalogs) -> str:
    return " and ".join(f"{items:,}" for items in record.catalogs) + " items"


def _command(record: Catalogs) -> str:
    items = "".join(f" --items {items}" for items in record.catalogs)
    return f"python -m tests.benchmarks.catalogs RUN{items} --out FOLDER"


def _tables(record: Catalogs) -> str:
    sizes = record.catalogs
    searches = ["items", "index", "target recall", "recall@20", "visits", "p50, µs", "p99, µs", "share of flat"]
    filters = ["items", "filter passes", "eligible", "strategy", "recall@20", "p50, µs", "p99, µs", "first use, ms"]
    return "\n\n".join(
        [
            table(
                ["items", "index", "build, s", "files, MB", "load, s", "first answer, s", "memory: RSS / PSS, MB"],
                [_size_row(items, one) for items, one in sizes.items()],
            ),
            "Search without a filter:",
            table(searches, (row for items, one in sizes.items() for row in _search_rows(items, one))),
            "Search under filters; recall is against exact search of the eligible items:",
            table(filters, (row for items, one in sizes.items() for row in _filter_rows(items, one))),
            "Complete retrievals (encoding and search), without HTTP and session store:",
            table(
                ["items", "filter passes", "p50, µs", "p99, µs"],
                (row for items, one in sizes.items() for row in _retrieve_rows(items, one)),
            ),
        ]
    )


def _size_row(items: int, one: Catalog) -> list[str]:
    memory = "; ".join(f"{figure(process.rss_mb)} / {figure(process.pss_mb)}" for process in one.workers)
    built_s, size_mb = sum(one.build.seconds.values()), sum(one.files_mb.values())
    figures = (built_s, size_mb, one.load_s, one.first_answer_s)
    return [f"{items:,}", str(one.index), *(figure(value) for value in figures), memory]


def _search_rows(items: int, one: Catalog) -> Iterator[list[str]]:
    yield [f"{items:,}", "flat", ABSENT, "1.000", ABSENT, figure(one.flat.p50_us), figure(one.flat.p99_us), "1"]
    for target, search in one.targets.items():
        yield [
            f"{items:,}",
            one.index.description,
            f"{target:g}",
            f"{search.recall_at_20:.3f}",
            ABSENT if search.visits is None else str(search.visits),
            figure(search.p50_us),
            figure(search.p99_us),
            f"{search.share_of_flat:.4f}",
        ]


def _filter_rows(items: int, one: Catalog) -> Iterator[list[str]]:
    for share, search in one.filters.items():
        yield [
            f"{items:,}",
            f"{share:g}",
            f"{search.eligible:,}",
            search.strategy,
            f"{search.recall_at_20:.3f}",
            figure(search.p50_us),
            figure(search.p99_us),
            figure(search.first_use_ms),
        ]


def _retrieve_rows(items: int, one: Catalog) -> Iterator[list[str]]:
    for share, answer in one.retrieve.items():
        passes = "no filter" if share == WITHOUT_FILTER else share
        yield [f"{items:,}", passes, figure(answer.p50_us), figure(answer.p99_us)]


def _draw(record: Catalogs, path: Path) -> None:
    sizes = sorted(record.catalogs)
    catalogs = [record.catalogs[items] for items in sizes]
    lines = {"flat": [one.flat.p50_us for one in catalogs]}
    for target in catalogs[0].targets:
        lines[f"index, recall {target:g}"] = [one.targets[target].p50_us for one in catalogs]
    with plot_to(path, title="Search, p50 of processor time", xlabel="items", ylabel="µs") as axes:
        for label, values_us in lines.items():
            axes.plot(sizes, values_us, marker="o", markersize=4, label=label)
        logarithmic(axes, sizes)


CATALOGS = Section(
    title="Catalog sizes",
    introduction=(
        "Bundles of several sizes, scaled up from a training run by interpolation: each new item lies between a "
        "trained item and one of its neighbours, which keeps the structure of the trained table. Search times are "
        "processor time of one thread, beside the recall of the same queries. The first answer is timed from the "
        "start of the service's process; memory is given for each of two processes that hold the same bundle."
    ),
    kind=Catalogs,
    usage="python -m tests.benchmarks.catalogs RUN --items 43097 --items 1000000 --out FOLDER",
    label=_label,
    command=_command,
    tables=_tables,
    plot=Plot("Search time against catalog size", _draw),
)
