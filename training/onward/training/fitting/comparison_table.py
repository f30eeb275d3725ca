"""Print a comparison of recipes, as a table or as JSON."""

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from onward.training.fitting.compare import Comparison


def print_comparison(comparison: Comparison, *, as_json: bool) -> None:
    """Print JSON, or a table with a row for each recipe, the best one first."""
    if as_json:
        typer.echo(comparison.model_dump_json())
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in (*comparison.recipes[0].metrics, f"{comparison.metric}, from the best (95 %)", "best epoch", "seconds"):
        table.add_column(name, justify="right")
    for place, of in enumerate(comparison.recipes):
        distance = f"{of.difference:+.4f} ({of.low:+.4f} to {of.high:+.4f})" if place else ""
        figures = (f"{value:.4f}" for value in of.metrics.values())
        table.add_row(of.recipe, *figures, distance, f"{of.best_epoch} of {of.epochs}", f"{of.seconds:,.0f}")
    console = Console()
    console.print(f"{comparison.examples:,} validation examples, seed {comparison.seed}", highlight=False)
    console.print(table)
