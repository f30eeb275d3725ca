"""Plot the learning curves of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw_curve(history: list[dict[str, Any]], path: Path) -> None:
    """Plot training loss and validation metrics by epoch to a PNG; `history` holds the lines of metrics.jsonl."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    loss_axes, metric_axes = figure.subplots(1, 2)
    for name in dict.fromkeys(line["fit"] for line in history):
        lines = [line for line in history if line["fit"] == name]
        loss_axes.plot([line["epoch"] for line in lines], [line["loss"] for line in lines], marker="o", label=name)
    validated = [line for line in history if "validation" in line]
    for metric in validated[0]["validation"] if validated else ():
        epochs, values = zip(*((line["epoch"], line["validation"][metric]) for line in validated), strict=True)
        metric_axes.plot(epochs, values, marker="o", label=metric)
    for axes, title in ((loss_axes, "training loss (nats)"), (metric_axes, "validation")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=120, format="png")


def draw_curves(curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Plot the validation metric of several recipes by epoch to a PNG; `curves` holds the values by recipe."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    axes.set(title="validation", xlabel="epoch", ylabel="metric of the recipe")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, format="png")
