"""Plots of a data set's runs: validation by epoch, and quality against encoder time."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from onward.training.results.anchors import DataSetProfile
from onward.training.results.record import DataRecords
from onward.training.results.summary import RecipeSummary

CURVES, QUALITY = "curves.png", "quality.png"


def draw_curves(records: DataRecords, data_set: DataSetProfile, path: Path) -> None:
    """Plot a validation metric by epoch to a PNG: one line per run, one colour per recipe."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    metric = _validated_metric(records, data_set)
    for colour, summary in zip(_colours(), RecipeSummary.all_of(records.runs), strict=False):
        for number, run in enumerate(summary.runs):
            points = [(epoch.epoch, epoch.validation[metric]) for epoch in run.curve if metric in epoch.validation]
            label = summary.recipe if number == 0 else None
            axes.plot(
                [epoch for epoch, _ in points],
                [value * data_set.scale for _, value in points],
                marker="o",
                markersize=3,
                color=colour,
                label=label,
            )
    axes.set(title=f"{data_set.title}: validation {metric}", xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_quality(records: DataRecords, data_set: DataSetProfile, path: Path) -> None:
    """Plot the first metric of the test part, as served, against encoder time to a PNG; one dot per run."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    column = data_set.columns[0]
    for colour, summary in zip(_colours(), RecipeSummary.all_of(records.runs), strict=False):
        points = [(run.encode_p50_ms, run.served[column.metric]) for run in summary.runs if column.metric in run.served]
        axes.scatter(
            [milliseconds for milliseconds, _ in points],
            [value * data_set.scale for _, value in points],
            color=colour,
            label=summary.recipe,
        )
    axes.set(
        title=f"{data_set.title}: {column.name} of the test part, as served",
        xlabel="encoder, p50 of a session of 20 items, one thread (ms)",
    )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _validated_metric(records: DataRecords, data_set: DataSetProfile) -> str:
    """Return the first metric of the data set that its runs validated, else recall@20, which every run validates."""
    validated = {metric for run in records.runs for epoch in run.curve for metric in epoch.validation}
    return next((column.metric for column in data_set.columns if column.metric in validated), "recall@20")


def _colours() -> Iterator[tuple[float, ...]]:
    return cycle(colormaps["tab20"](number) for number in range(20))
