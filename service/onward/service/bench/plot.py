"""Plot latency against rate."""

from pathlib import Path

from matplotlib.figure import Figure

from onward.service.bench.capacity import Capacity

PERCENTILES = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "p99.9": "p999_ms"}


def draw_latencies(capacity: Capacity, path: Path) -> None:
    """Write a PNG with the latency percentiles of all load steps, the limits of the objective and the highest rate."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = sorted(capacity.steps, key=lambda step: step.rate_per_s)
    for label, name in PERCENTILES.items():
        points = [(step.rate_per_s, ms) for step in steps if (ms := getattr(step.measurement.result, name)) is not None]
        axes.plot([rate for rate, _ in points], [ms for _, ms in points], marker="o", markersize=4, label=label)
    for limit in capacity.slo.limits:
        axes.axhline(limit.ms, color="grey", linestyle="--", linewidth=1)
        axes.annotate(
            f"{limit.name} limit", (0.01, limit.ms), xycoords=("axes fraction", "data"), va="bottom", color="grey"
        )
    if capacity.best is not None:
        axes.axvline(capacity.best.rate_per_s, color="grey", linewidth=1, label="highest rate")
    axes.set(title=f"Latency from the scheduled time, {capacity.slo}", xlabel="requests/s", ylabel="ms")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)
