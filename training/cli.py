"""The commands of `onward-training`; each imports what it runs only when it runs."""

from pathlib import Path
from typing import Annotated

import typer

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


@cli.callback()
def onward_training() -> None:
    """Learn session encoders from click logs and export them as bundles."""


@cli.command()
def prepare(
    events: Annotated[list[str], typer.Argument(help="Files of events, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The dataset folder to make.")],
    test: Annotated[list[str] | None, typer.Option(help="Files of the test part.")] = None,
    validation: Annotated[float, typer.Option(min=0, max=0.99, help="Most recent share of training sessions.")] = 0.1,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing dataset.")] = False,
) -> None:
    """Make a dataset from click logs."""
    from training.data.polars_engine import PolarsEngine
    from training.data.preparation import Preparation, SplitKind
    from training.data.prepare import prepare as prepare_dataset

    preparation = Preparation(split=SplitKind.GIVEN, min_support=1, min_length=1, validation=validation)
    info = prepare_dataset(events, out, preparation, PolarsEngine, test=test or (), force=force)
    typer.echo(info.model_dump_json(indent=2))
