"""The commands of `onward-training`; each imports what it runs only when it runs."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.data.columns import ColumnNames
from training.data.formats import Format
from training.data.preparation import Preparation, SplitKind
from training.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.data.engine import Engine

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class EngineName(StrEnum):
    """What computes a preparation."""

    POLARS = "polars"
    SPARK = "spark"


@cli.callback()
def onward_training() -> None:
    """Learn session encoders from click logs and export them as bundles."""


@cli.command()
def generate(
    out: Annotated[Path, typer.Option(help="Folder to write events.parquet and items.parquet to.")],
    events: Annotated[int, typer.Option(min=1_000, help="How many events.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal shops.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a shop that is there.")] = False,
) -> None:
    """Make up a shop: its items, and what visitors did there for four weeks.

    Example: `onward-training generate --out shop --events 100000 --seed 7`
    """
    from training.data.synthetic import generate as generate_shop

    shop = generate_shop(events, seed)
    shop.write(out, force=force)
    typer.echo(f"{out}: {len(shop.events):,} events, {len(shop.items):,} items")


@cli.command()
def prepare(
    events: Annotated[list[str], typer.Argument(help="Files of events, or folders of such files.")],
    out: Annotated[Path, typer.Option(help="The dataset to make, a folder.")],
    test: Annotated[
        list[str] | None,
        typer.Option(help="A file of the test part, if the events are split already; may be repeated."),
    ] = None,
    items: Annotated[
        str | None, typer.Option(help="A file with attributes of items: title, price, available, ...")
    ] = None,
    split: Annotated[
        SplitKind | None,
        typer.Option(help="How to hold out the test part.  [default: given with --test, else temporal]"),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=0.99, help="Most recent share of the training sessions held out; 0 for none.")
    ] = 0.1,
    test_days: Annotated[
        float | None,
        typer.Option(min=0.001, help="Temporal split: days of test.  [default: the last tenth of the time]"),
    ] = None,
    min_support: Annotated[
        int | None, typer.Option(min=1, help="Drop items with fewer events.  [default: as the split's papers do]")
    ] = None,
    min_length: Annotated[
        int | None, typer.Option(min=1, help="Drop sessions with fewer events.  [default: as the split's papers do]")
    ] = None,
    gap: Annotated[
        str | None,
        typer.Option(
            help="Cut a user's events into sessions after this idle time: 90s, 30m, 1h, 1d.  "
            "[default: 30m where there are no session ids]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Shuffles the users of the split by user.")] = 0,
    file_format: Annotated[Format | None, typer.Option("--format", help="Of events.  [default: by extension]")] = None,
    items_format: Annotated[Format | None, typer.Option(help="Of --items.  [default: by extension]")] = None,
    session_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    user_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    item_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    time_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    position_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    items_column: Annotated[str | None, typer.Option(help="The item id in --items.  [default: guessed]")] = None,
    engine: Annotated[EngineName, typer.Option(help="Spark is an extra: onward[spark].")] = EngineName.POLARS,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at any bad row instead of dropping it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a dataset that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print dataset.json instead of a summary.")] = False,
) -> None:
    """Make a dataset from click logs: Parquet, CSV, TSV, JSON lines, RecBole, raw Diginetica, raw Yoochoose.

    Example: `onward-training prepare clicks.csv --items products.jsonl --out dataset --test-days 7`

    Sessions come from session ids, or from users and idle time. Rows that are no use are counted, reported and
    dropped.
    """
    from rich.console import Console

    from training.data.prepare import prepare as prepare_dataset
    from training.data.report import announced_steps, print_report

    columns = ColumnNames(
        session=session_column, user=user_column, item=item_column, time=time_column, position=position_column
    )
    kind = split or (SplitKind.GIVEN if test else SplitKind.TEMPORAL)
    preparation = Preparation(
        split=kind,
        columns=columns,
        format=file_format,
        items_format=items_format,
        items_column=items_column,
        gap_ms=None if gap is None else _milliseconds(gap),
        min_support=min_support or kind.min_support,
        min_length=min_length or kind.min_length,
        test_days=test_days,
        validation=validation,
        seed=seed,
    )
    with announced_steps() as progress:
        info = prepare_dataset(
            events,
            out,
            preparation,
            _engine(engine),
            test=test or (),
            items=items,
            strict=strict,
            force=force,
            progress=progress,
        )
    if as_json:
        typer.echo(info.model_dump_json(indent=2))
    else:
        print_report(info, Console())


def _engine(name: EngineName) -> "Callable[[Path], Engine]":
    if name is EngineName.SPARK:
        from training.data.spark_engine import SparkEngine

        return SparkEngine
    from training.data.polars_engine import PolarsEngine

    return PolarsEngine


def _milliseconds(duration: str) -> int:
    match = re.fullmatch(r"(\d+)([smhd])", duration)
    if match is None or int(match[1]) == 0:
        raise InputError(f"--gap {duration!r}: write a number and s, m, h or d, such as 30m")
    return int(match[1]) * UNIT_MS[match[2]]
