"""Print metrics as a table or as JSON."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from onward.training.evaluation.slices import Slices

AS_SERVED = "as served"
DETAILS = ("slices", "standard_error")
"""What a group of metrics has beside numbers."""
WIDE = 200
"""Characters of a line where the output is no terminal, whose width would cut figures."""


def print_metrics(metrics: dict[str, Any], *, as_json: bool) -> None:
    """Print metrics as JSON, or as a table with a column for each nested group; top-level numbers are "as served".

    A second table has the metrics by slices of the targets, if there are any. Metrics of a sample of examples have
    their standard errors beside them.
    """
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    whole = {AS_SERVED: metrics, **{name: group for name, group in metrics.items() if isinstance(group, dict)}}
    slices: dict[str, Slices] = {name: group["slices"] for name, group in whole.items() if "slices" in group}
    groups = {name: group for name, group in metrics.items() if isinstance(group, dict) and name not in DETAILS}
    facts = {name: value for name, value in metrics.items() if isinstance(value, str)}
    served = {name: value for name, value in metrics.items() if name not in (*facts, *groups)}
    if served.keys() - set(DETAILS):
        groups = {AS_SERVED: served, **groups}
    facts |= {name: value for group in groups.values() for name, value in group.items() if isinstance(value, str)}
    rows = dict.fromkeys(name for group in groups.values() for name in group if name not in (*facts, *DETAILS))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in groups:
        table.add_column(name, justify="right")
    for metric in rows:
        table.add_row(metric, *(_text(group, metric) if metric in group else "" for group in groups.values()))
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    for name, value in facts.items():
        console.print(f"{name}: {value}", soft_wrap=True, highlight=False)
    console.print(table)
    if slices:
        console.print(_slices_table(slices))


def _slices_table(slices: Mapping[str, Slices]) -> Table:
    """Return a table with a row for each slice, and recall@20 of each ranker."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("recall@20 of targets", no_wrap=True)
    table.add_column("targets", justify="right", no_wrap=True)
    for name in slices:
        table.add_column(name, justify="right")
    for by, parts in next(iter(slices.values())).items():
        for part, figures in parts.items():
            cells = (f"{of_ranker[by][part]['recall@20']:.4f}" for of_ranker in slices.values())
            table.add_row(part, f"{figures['examples']:,}", *cells)
    return table


def _text(group: Mapping[str, Any], metric: str) -> str:
    value, error = group[metric], group.get("standard_error", {}).get(metric)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    return text if error is None else f"{text} ± {error:.4f}"
