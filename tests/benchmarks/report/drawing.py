"""The common style of all plots."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter


@contextmanager
def plot_to(path: Path, **labels: str) -> Iterator[Axes]:
    """Yield axes, and write them to a PNG at the end; `labels` are title, xlabel and ylabel."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    yield axes
    axes.set(**labels)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120)


def logarithmic(axes: Axes, measured_at: Iterable[float]) -> None:
    """Make both axes logarithmic with plain numbers; the x axis has ticks at the measured values."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted(set(measured_at)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
