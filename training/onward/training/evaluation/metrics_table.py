"""Print metrics as a table or as JSON."""

import json
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

AS_SERVED = "as served"


def print_metrics(metrics: dict[str, Any], *, as_json: bool) -> None:
    """Print metrics as JSON, or as a table with a column for each nested group; top-level numbers are "as served"."""
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    groups = {name: group for name, group in metrics.items() if isinstance(group, dict)}
    top_level = {name: value for name, value in metrics.items() if name not in groups}
    facts = {name: value for name, value in top_level.items() if isinstance(value, str)}
    if served := {name: value for name, value in top_level.items() if name not in facts}:
        groups = {AS_SERVED: served, **groups}
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in groups:
        table.add_column(name, justify="right")
    for metric in dict.fromkeys(metric for group in groups.values() for metric in group):
        table.add_row(metric, *(_text(group[metric]) if metric in group else "" for group in groups.values()))
    console = Console()
    for name, value in facts.items():
        console.print(f"{name}: {value}", soft_wrap=True, highlight=False)
    console.print(table)


def _text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
