"""The section on the engines that can run one encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from tests.benchmarks.report.drawing import logarithmic, plot_to
from tests.benchmarks.report.markdown import figure, table
from tests.benchmarks.report.record import Record, RecordPart, check_columns
from tests.benchmarks.report.section import Plot, Section

LABELS = {
    "lists made into arrays": "conversion of lists to arrays",
    "what is not in the caches: rows of the table, code": "cache misses: rows of the table, code",
    "the first item: the call, the products of its last state": "first item: the call, the products of the last state",
    "the other items: messages, gates, attention": "other items: messages, gates, attention",
}
"""What the page calls the parts of the kernel that records name."""


class Engine(RecordPart):
    """Processor time per call, and the speed-up over torch with the graph built in Python."""

    cpu_us: float
    times_as_fast: float
    difference: float
    """The largest difference of an interest vector's component from that of torch."""


class Engines(Record):
    """A record of the engines of an encoder."""

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
            *(f"{figure(one.cpu_us)} ({figure(one.times_as_fast)} ×)" for one in engines),
            f"{max(one.difference for one in engines):.0e}",
        ]
        for name in names
        if (engines := [record.by_length[length][name] for length in lengths])
    ]
    parts = [[LABELS.get(part, part), figure(cpu_us)] for part, cpu_us in record.kernel_parts_us.items()]
    return "\n\n".join(
        [
            table(["engine", *(f"{length} items, µs" for length in lengths), "largest difference"], rows),
            f"Parts of a call of the kernel with the table for {record.kernel_items} items, measured by calls without "
            "each part:",
            table(["part", "µs"], [*parts, ["**the call**", f"**{figure(sum(record.kernel_parts_us.values()))}**"]]),
        ]
    )


def _draw(record: Engines, path: Path) -> None:
    lengths = sorted(record.by_length)
    with plot_to(path, title=f"{record.recipe}, one thread", xlabel="items of the session", ylabel="µs of CPU") as axes:
        for name in record.by_length[lengths[0]]:
            axes.plot(
                lengths, [record.by_length[n][name].cpu_us for n in lengths], marker="o", markersize=4, label=name
            )
        logarithmic(axes, lengths)


ENGINES = Section(
    title="Engines of an encoder",
    introduction=(
        "One SR-GNN encoder, one session at a time in one thread, on every engine that can run it: eager torch with "
        "the session graph built in Python, as in public code; eager torch with the graph built by tensor "
        "operations; the exported ONNX program in its forms; and the compiled kernel. In brackets: the speed-up over "
        "the first, as the median of the rounds' ratios."
    ),
    kind=Engines,
    usage="python -m tests.benchmarks.encoders --engines",
    label=lambda record: f"The recipe {record.recipe}",
    command=lambda record: "python -m tests.benchmarks.encoders --engines",
    tables=_tables,
    plot=Plot("Time of a call against the length of the session", _draw),
)
