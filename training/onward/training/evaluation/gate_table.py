"""Print what the gate measured, as a table or as JSON."""

from collections.abc import Iterator

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from onward.bundle import Comparison, GateReport


def print_report(report: GateReport, *, as_json: bool) -> None:
    """Print a report as JSON, or as a table with a row for the bundle and for each reference, and the verdict."""
    if as_json:
        typer.echo(report.model_dump_json())
        return
    console = Console()
    console.print(
        f"bundle {report.bundle[:12]}, live {report.live[:12] if report.live else 'none'}; "
        f"{report.examples:,} examples of {report.sessions:,} sessions",
        soft_wrap=True,
        highlight=False,
    )
    console.print(_table(report))
    for rule in report.rules:
        console.print(f"{' ' if rule.passed else '!'} {rule}", soft_wrap=True, highlight=False)
    console.print(_verdict(report), soft_wrap=True, highlight=False)


def _table(report: GateReport) -> Table:
    metrics = list(report.figures["bundle"])
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for metric in metrics:
        table.add_column(metric, justify="right")
        table.add_column("bundle minus this (95 %)", justify="right")
    for name, figures in report.figures.items():
        comparisons = {of.metric: of for of in report.comparisons if of.reference == name}
        table.add_row(name, *_cells(figures, comparisons))
    return table


def _cells(figures: dict[str, float], comparisons: dict[str, Comparison]) -> Iterator[str]:
    for metric, figure in figures.items():
        yield f"{figure:.4f}"
        of = comparisons.get(metric)
        yield "" if of is None else f"{of.difference:+.4f} ({of.low:+.4f} to {of.high:+.4f}){'' if of.passed else ' !'}"


def _verdict(report: GateReport) -> str:
    below = [f"below {of.reference} in {of.metric}" for of in report.comparisons if not of.passed]
    broken = [rule.name for rule in report.rules if not rule.passed]
    return f"not passed: {', '.join((*below, *broken))}" if below or broken else "passed"
