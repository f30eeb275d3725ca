"""Print a study as a table or as JSON."""

import json
from dataclasses import asdict

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from onward.training.tuning.study import StudyOutcome


def print_study(study: StudyOutcome, *, as_json: bool) -> None:
    """Print the trials of a study, the best first, and the path of the best recipe; or all of it as JSON."""
    if as_json:
        typer.echo(json.dumps(asdict(study), default=str))
        return
    keys = list(dict.fromkeys(key for trial in study.trials for key in trial.values))
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("trial", "", f"validation {study.metric}", "epochs", *keys):
        table.add_column(head, justify="right")
    for trial in sorted(study.trials, key=lambda trial: -(trial.validation or 0)):
        validation = "" if trial.validation is None else f"{trial.validation:.4f}"
        values = [_text(trial.values.get(key)) for key in keys]
        table.add_row(str(trial.number), trial.state, validation, str(trial.epochs), *values)
    console = Console()
    console.print(table)
    if study.best_recipe is not None:
        console.print(f"best recipe: {study.best_recipe}", soft_wrap=True, highlight=False)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
