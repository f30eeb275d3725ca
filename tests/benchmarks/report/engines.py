"""One encoder by everything that can run it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from tests.benchmarks.report.drawing import logarithmic, picture
from tests.benchmarks.report.markdown import figure, table
from tests.benchmarks.report.record import Part, Record, check_columns
from tests.benchmarks.report.section import Picture, Section


class Engine(Part):
    """One of them: processor time of a call, and how many times as fast as torch with the graph built in Python."""

    cpu_us: float
    times_as_fast: float
    difference: float
    """The largest difference of an interest's number from that of torch."""


class Engines(Record):
    """A record of what runs an encoder."""

    benchmark: Literal["engines"]
    recipe: str
    by_length: Mapping[int, Mapping[str, Engine]]
    kernel_items: int
    kernel_parts_us: Mapping[str, float]

    @model_validator(mode="after")
    def _measured_alike(self) -> Self:
        check_columns(self.by_length.values())
        return self


def _tables(record: Engines) -> str:
    lengths, names = list(record.by_length), list(next(iter(record.by_length.values())))
    rows = [
        [
            name,
            *(f"{figure(found.cpu_us)} ({figure(found.times_as_fast)} ×)" for found in engines),
            f"{max(found.difference for found in engines):.0e}",
        ]
        for name in names
        if (engines := [record.by_length[length][name] for length in lengths])
    ]
    parts = [[part, figure(cpu_us)] for part, cpu_us in record.kernel_parts_us.items()]
    return "\n\n".join(
        [
            table(["engine", *(f"{length} items, µs" for length in lengths), "largest difference"], rows),
            f"What a call of the kernel with the table spends on {record.kernel_items} items, told by calls that leave "
            "parts out:",
            table(["part", "µs"], [*parts, ["**the call**", f"**{figure(sum(record.kernel_parts_us.values()))}**"]]),
        ]
    )


def _draw(record: Engines, path: Path) -> None:
    lengths = sorted(record.by_length)
    with picture(path, title=f"{record.recipe}, one thread", xlabel="items of the session", ylabel="µs of CPU") as axes:
        for name in record.by_length[lengths[0]]:
            axes.plot(
                lengths, [record.by_length[n][name].cpu_us for n in lengths], marker="o", markersize=4, label=name
            )
        logarithmic(axes, lengths)


ENGINES = Section(
    title="What can run an encoder",
    introduction=(
        "One SR-GNN, one session at a time in one thread, by everything that can run it: eager torch with the graph of "
        "the session built in Python, as public code does; the same with the graph made by tensor operations; the "
        "exported program in its forms; and the compiled kernel. In brackets: how many times as fast as the first, the "
        "median of the rounds' ratios."
    ),
    kind=Engines,
    usage="python -m tests.benchmarks.encoders --engines",
    label=lambda record: f"The recipe {record.recipe}",
    command=lambda record: "python -m tests.benchmarks.encoders --engines",
    tables=_tables,
    picture=Picture("Time of a call against the length of the session", _draw),
)
