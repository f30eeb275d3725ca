"""The commands of `onward-training`; each imports what it runs only when it runs."""

import math
import os
import re
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.bundle.storage import AddressError, Place, place_of
from onward.bundle.storage.local_paths import LocalPaths
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.dialect import DEFAULT_NULLS, Dialect
from onward.training.data.readers.formats import Format
from onward.training.errors import InputError, bundle_faults, disk_faults
from onward.training.index.kind import FAST_RECALL, TARGET_RECALL, IndexKind
from onward.training.jobs.cli import schedule, worker
from onward.training.plugins import use_plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onward.bundle import Retention
    from onward.bundle.remote_bundles import Choice
    from onward.training.data.readers.engine import Engine

cli = typer.Typer(
    cls=LocalPaths,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of commands that search from several threads at once; it takes effect only before NumPy is loaded."""
PLACE = "FOLDER|s3://BUCKET/FOLDER"
"""What may also be an address of an object store."""
UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


Keep = Annotated[
    int, typer.Option(min=1, envvar="ONWARD_KEEP_BUNDLES", help="How many bundles to keep that are live or were.")
]
KeepRecent = Annotated[
    str, typer.Option(envvar="ONWARD_KEEP_RECENT", help="Keep all that were live within this time: 30m, 8h, 1d.")
]
Reason = Annotated[str | None, typer.Option(help="Why: for the record of the bundle.")]
Sample = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Evaluate so many examples, drawn at random, and print standard errors; 0 for all.  "
        "[default: all up to 100,000, else so many]",
    ),
]


class EngineName(StrEnum):
    """The data frame engine of a preparation."""

    POLARS = "polars"
    SPARK = "spark"


class HeldOutPart(StrEnum):
    """The held-out parts of a dataset."""

    TEST = "test"
    VALIDATION = "validation"


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"onward {version('onward')}")
        raise typer.Exit


@cli.callback()
def onward_training(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="A file or a module with models of your own, such as my_model.py; may be repeated."),
    ] = None,
) -> None:
    """Learn session encoders from click logs and export them as bundles."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and context.invoked_subcommand != "train":
        raise InputError(
            f"{context.invoked_subcommand}: runs in one process; start it without torchrun, only train has ranks"
        )
    use_plugins(plugin or ())


cli.command()(worker)
cli.command()(schedule)


@cli.command()
def generate(
    out: Annotated[Path, typer.Option(help="Folder to write events.parquet and items.parquet to.")],
    events: Annotated[int, typer.Option(min=1_000, help="How many events.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal shops.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing shop.")] = False,
) -> None:
    """Generate a synthetic shop: its items, and four weeks of visitors' events.

    Example: `onward-training generate --out shop --events 100000 --seed 7`
    """
    from onward.training.data.synthetic import generate as generate_shop

    shop = generate_shop(events, seed)
    with disk_faults(out):
        shop.write(out, force=force)
    typer.echo(f"{out}: {len(shop.events):,} events, {len(shop.items):,} items")


@cli.command()
def prepare(
    events: Annotated[list[str], typer.Argument(help="Files of events, or folders of such files.")],
    out: Annotated[str, typer.Option(metavar=PLACE, help="The dataset to write, a folder.")],
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
        float | None,
        typer.Option(
            min=0,
            max=0.99,
            help="Most recent share of the training sessions held out; 0 for none.  [default: 0.1; small logs 0.2]",
        ),
    ] = None,
    test_days: Annotated[
        float | None,
        typer.Option(min=0.001, help="Temporal split: how many days are test."),
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.9,
            help="Temporal split without --test-days: share of the time that is test.  [default: 0.1; small logs 0.2]",
        ),
    ] = None,
    min_support: Annotated[
        int | None, typer.Option(min=1, help="Drop items with fewer events.  [default: by the size of the log]")
    ] = None,
    min_length: Annotated[
        int | None, typer.Option(min=1, help="Drop sessions with fewer events.  [default: by the size of the log]")
    ] = None,
    gap: Annotated[
        str | None,
        typer.Option(
            help="Cut a user's events into sessions after this idle time: 90s, 30m, 1h, 1d.  "
            "[default: 30m if there are no session ids]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Shuffles the users of the split by user.")] = 0,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Format of events.  [default: by extension]")
    ] = None,
    items_format: Annotated[Format | None, typer.Option(help="Format of --items.  [default: by extension]")] = None,
    session_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    user_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    item_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    time_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    position_column: Annotated[str | None, typer.Option(help="[default: guessed]")] = None,
    weight_column: Annotated[
        str | None, typer.Option(help="Events of weight 0 or less are dropped.  [default: guessed]")
    ] = None,
    event_column: Annotated[
        str | None, typer.Option(help="Types of events; impressions and bounces are left out.  [default: guessed]")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of types of events: view=1,cart=3,purchase=5; others, and those of 0, are left out."
        ),
    ] = None,
    item_separator: Annotated[
        str | None, typer.Option(help="What separates the items of a cell that holds a whole session, such as ' '.")
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="What separates the fields of text files, such as ';' or '::'.")
    ] = None,
    quote: Annotated[
        str | None, typer.Option(help="Quote mark of text files; '' if quote marks are text.  [default: each file's]")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of the files that are not UTF-8, such as cp1252.")
    ] = None,
    null: Annotated[
        list[str] | None,
        typer.Option(
            help="Text of a missing value, may be repeated; '' for empty ones only.  "
            "[default: empty, NULL, null, \\N, nan, NaN]"
        ),
    ] = None,
    column_names: Annotated[
        str | None,
        typer.Option("--columns", help="Columns of files without a header: session_id,item_id,timestamp."),
    ] = None,
    time_format: Annotated[
        str | None, typer.Option(help="Format of times, as of strftime: '%d/%m/%Y %H:%M'.  [default: each file's]")
    ] = None,
    items_column: Annotated[str | None, typer.Option(help="The item id in --items.  [default: guessed]")] = None,
    items_number: Annotated[
        list[str] | None,
        typer.Option(help="An attribute to read as a number, such as '$1,299.00'; may be repeated."),
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="Spark is an extra: onward[spark].")] = EngineName.POLARS,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at any bad row instead of dropping it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing dataset.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a page to look at: charts, figures, ten sessions. One HTML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print dataset.json instead of a summary.")] = False,
) -> None:
    """Make a dataset from click logs: Parquet, CSV, TSV, JSON lines, RecBole, raw Diginetica, raw Yoochoose.

    Example: `onward-training prepare clicks.csv --items products.jsonl --out dataset --test-days 7`

    The folder of a service's event log can be read directly, alone or together with other logs.

    Sessions come from session ids, or from users and idle time. Unusable rows are counted, reported and dropped.
    """
    from rich.console import Console

    from onward.training.data.preparation.prepare import prepare as prepare_dataset
    from onward.training.data.preparation.prepare_report import announced_steps, print_report
    from onward.training.data.remote_dataset import written_dataset

    columns = ColumnNames(
        session=session_column,
        user=user_column,
        item=item_column,
        time=time_column,
        position=position_column,
        weight=weight_column,
        event=event_column,
    )
    kind = split or (SplitKind.GIVEN if test else SplitKind.TEMPORAL)
    preparation = Preparation(
        split=kind,
        columns=columns,
        format=file_format,
        items_format=items_format,
        items_column=items_column,
        items_numbers=tuple(items_number or ()),
        dialect=Dialect(
            separator=None if separator is None else separator.replace("\\t", "\t"),
            quote=quote,
            encoding=encoding,
            nulls=DEFAULT_NULLS if null is None else ("", *null),
            columns=None if column_names is None else tuple(name.strip() for name in column_names.split(",")),
            time_format=time_format,
        ),
        item_separator=item_separator,
        weights=None if weights is None else _weights(weights),
        gap_ms=None if gap is None else _milliseconds("--gap", gap),
        min_support=min_support or kind.min_support,
        min_length=min_length or kind.min_length,
        test_days=test_days,
        test_share=test_share,
        validation=kind.validation if validation is None else validation,
        seed=seed,
    )
    with written_dataset(_place(out), force=force) as folder:
        with disk_faults(folder), announced_steps() as progress:
            info = prepare_dataset(
                events,
                folder,
                preparation,
                _engine(engine),
                test=test or (),
                items=items,
                strict=strict,
                force=force,
                progress=progress,
            )
        if report is not None:
            from onward.training.data.dataset import Dataset
            from onward.training.data.preparation.html_report import write_report

            write_report(Dataset(folder, info), report)
    if as_json:
        typer.echo(info.model_dump_json(indent=2))
    else:
        print_report(info, Console())


@cli.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, or the name of one that comes with the package.")],
    data: Annotated[str, typer.Option(metavar=PLACE, help="A dataset that `prepare` made.")],
    out: Annotated[Path, typer.Option(help="Folder for the run: checkpoints, metrics, learning curve.")],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of epochs.  [default: the recipe's]")
    ] = None,
    refit_epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Skip validation: fit to all sessions for this many epochs, chosen by an earlier run."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal runs on one machine's CPU.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda if available.")] = "auto",
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Begin with the weights of this run, of the same encoder; items are matched by id."
        ),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run or a bundle of the same dataset whose probabilities to learn too; may be repeated: their mean."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --out; with more --epochs, train it further.")
    ] = False,
) -> None:
    """Fit the encoder that a recipe describes.

    Example: `onward-training train srgnn --data dataset --out run`

    Example: `onward-training train srgnn --data dataset --out small --teacher run-1 --teacher run-2 --teacher knn`

    Ctrl-C ends it after the current step; `--resume` continues from there, with the result of an uninterrupted run.

    On several processes: `torchrun --nproc-per-node 4 -m onward.training train srgnn --data dataset --out run`
    """
    from onward.training.recipe import Recipe
    from onward.training.trainer import train as fit

    if not fit(
        Recipe.load(recipe),
        _dataset(data),
        out,
        epochs=epochs,
        refit_epochs=refit_epochs,
        seed=seed,
        device_name=device,
        start=start,
        teachers=teacher or (),
        resume=resume,
    ):
        typer.echo(f"interrupted; resume with the same command and --resume (run: {out})", err=True)
        raise typer.Exit(130)


@cli.command()
def fit(
    bundles: Annotated[
        str, typer.Option(metavar=PLACE, help="Folder of bundles; the new one goes live if it passes the gate.")
    ],
    events: Annotated[list[str] | None, typer.Argument(help="Files of events, or folders of such files.")] = None,
    items: Annotated[
        str | None, typer.Option(help="A file with attributes of items: title, price, available, ...")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of types of events: view=1,cart=3,purchase=5; others, and those of 0, are left out."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar=PLACE, help="A dataset that `prepare` made, instead of events.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the fit: its dataset, trainings, fit.json and fit.html.")
    ] = Path("fit"),
    budget: Annotated[str, typer.Option(help="Time that it may take: 90s, 15m, 8h, 1d.")] = "30m",
    seed: Annotated[
        int, typer.Option(min=0, help="Equal seeds and plans give equal choices on one machine's CPU.")
    ] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda if available.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the fit in --out.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Make the bundle live although it does not pass the gate.")
    ] = False,
    reason: Reason = None,
    keep: Keep = 5,
    keep_recent: KeepRecent = "1h",
    as_json: Annotated[bool, typer.Option("--json", help="Print fit.json instead of a summary.")] = False,
) -> None:
    """Make the best recommender for a log: prepare, try what the budget allows, choose, fit, publish.

    Example: `onward-training fit clicks.csv --items products.jsonl --bundles bundles --budget 30m`

    Nearest sessions and networks are compared on the newest sessions, alone and joined. The choice is fitted to all
    sessions and goes live if it passes the gate: it must not be below the baselines nor the live bundle; the exit code
    is 1 if it does not. Ctrl-C ends it after the current step, `--resume` goes on.
    """
    from rich.console import Console

    from onward.bundle.remote_bundles import live_bundle
    from onward.training.data.dataset import Dataset
    from onward.training.data.preparation.prepare_report import announced_steps, print_report
    from onward.training.fitting.dataset_for_fit import prepared_dataset
    from onward.training.fitting.fit import fit as fit_best
    from onward.training.fitting.trials import Interrupted

    if bool(events) == (data is not None):
        raise InputError("give files of events, or --data with a dataset that `prepare` made")
    if data is not None and items is not None:
        raise InputError("--items belongs to events; a dataset has its items already")
    if data is not None and weights is not None:
        raise InputError("--weights belongs to events; a dataset has its weights already")
    with _bundles_at(bundles, live_bundle) as folder, announced_steps() as announce:
        try:
            if data is None:
                dataset = prepared_dataset(
                    events or (),
                    items,
                    out / "dataset",
                    weights=None if weights is None else _weights(weights),
                    resume=resume,
                    on_step=announce,
                )
                print_report(Dataset.open(dataset).info, Console(stderr=True))
            else:
                dataset = _dataset(data)
            record = fit_best(
                dataset,
                folder,
                out,
                budget_s=_milliseconds("--budget", budget) / 1000,
                seed=seed,
                device_name=device,
                resume=resume,
                force=force,
                reason=reason,
                retention=_retention(keep, keep_recent),
                on_step=announce,
                on_note=_print_note,
            )
        except Interrupted:
            typer.echo(f"interrupted; resume with the same command and --resume (fit: {out})", err=True)
            raise typer.Exit(130) from None
    if as_json:
        typer.echo(record.model_dump_json(indent=2))
    else:
        typer.echo(record.bundle)
    if record.gate_fault is not None:
        forced = "made live by --force, although" if record.live else "staged, not live:"
        typer.echo(f"{forced} {record.gate_fault}", err=True)
    typer.echo(f"see {out / 'fit.html'}", err=True)
    if not record.live:
        raise typer.Exit(1)


@cli.command()
def compare(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files, or names of those that come with the package.")],
    data: Annotated[str, typer.Option(metavar=PLACE, help="A dataset that `prepare` made, with a validation part.")],
    out: Annotated[Path, typer.Option(help="Folder for the trainings, compare.json and curves.png.")],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of epochs of each.  [default: the recipe's]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every training.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda if available.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Train recipes side by side, and compare them on validation sessions by a paired test.

    Example: `onward-training compare srgnn attrec knn --data dataset --out comparison`

    Ctrl-C ends it after the current step; the same command goes on.
    """
    from onward.training.fitting.compare import compare as compare_recipes
    from onward.training.fitting.comparison_table import print_comparison
    from onward.training.fitting.trials import Interrupted
    from onward.training.recipe import Recipe

    loaded = [Recipe.load(recipe) for recipe in recipes]
    try:
        comparison = compare_recipes(
            loaded, _dataset(data), out, epochs=epochs, seed=seed, device_name=device, on_note=_print_note
        )
    except Interrupted:
        typer.echo(f"interrupted; go on with the same command (comparison: {out})", err=True)
        raise typer.Exit(130) from None
    print_comparison(comparison, as_json=as_json)


@cli.command()
def export(
    runs: Annotated[list[Path], typer.Argument(help="The --out folder of a training, or of several to be joined.")],
    bundles: Annotated[
        str, typer.Option(metavar=PLACE, help="Folder of bundles; the new one becomes its current one.")
    ],
    data: Annotated[str | None, typer.Option(metavar=PLACE, help="The runs' dataset, if it has moved since.")] = None,
    index: Annotated[IndexKind, typer.Option(help="Index to build; auto measures and chooses.")] = IndexKind.AUTO,
    recall: Annotated[
        float | None,
        typer.Option(min=0.5, max=1, help=f"Recall@20 that the index is tuned to.  [default: {TARGET_RECALL}]"),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help=f"Tune the index to a recall@20 of {FAST_RECALL}.")] = False,
    staged: Annotated[
        bool, typer.Option("--staged", help="Publish without making it live; `gate` and `activate` do that.")
    ] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Export an interrupted training: the best weights so far.")
    ] = False,
    new_items: Annotated[
        bool,
        typer.Option(
            "--new-items/--no-new-items",
            help="Include products without enough events, with vectors from their attributes.",
        ),
    ] = True,
    keep: Keep = 5,
    keep_recent: KeepRecent = "1h",
) -> None:
    """Publish a trained encoder as the live bundle, or a staged one: program, vectors, index, catalog.

    Example: `onward-training export run --bundles bundles --staged`

    Several runs become one encoder whose scores are the sum of theirs: better results, but a slower encoder.
    """
    from onward.training.data.preparation.prepare_report import announced_steps
    from onward.training.export.export import export as export_run

    with _bundles_at(bundles) as folder:
        with announced_steps() as announce:
            digest = export_run(
                runs,
                folder,
                data=None if data is None else _dataset(data),
                index=index,
                target_recall=_target_recall(recall, fast=fast),
                staged=staged,
                unfinished=unfinished,
                new_items=new_items,
                retention=_retention(keep, keep_recent),
                on_step=announce,
                on_note=_print_note,
            )
        count = _count_staged(folder)
    _print_published(bundles, digest, count, staged=staged)


@cli.command()
def evaluate(
    bundle: Annotated[
        str, typer.Argument(metavar=PLACE, help="A bundle, or a folder of bundles, meaning its current one.")
    ],
    data: Annotated[str, typer.Option(metavar=PLACE, help="A dataset that `prepare` made.")],
    part: Annotated[HeldOutPart, typer.Option(help="The part to evaluate on.")] = HeldOutPart.TEST,
    run: Annotated[
        list[Path] | None, typer.Option(help="With --record: a run that the bundle was exported from; may be repeated.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Folder of records to add this evaluation to.")] = None,
    sampled_negatives: Annotated[
        int,
        typer.Option(
            min=0, help="Also rank each target among this many sampled items; not comparable with full ranking."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampled items.")] = 0,
    sample: Sample = None,
    category: Annotated[
        str | None, typer.Option(help="An item attribute: also measure the diversity of the results in it.")
    ] = None,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="With --category: weight of diversity in re-ranking.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluate a bundle on held-out sessions, as served and by exact search, and print the metrics.

    Example: `onward-training evaluate bundles --data dataset --json`

    With `--run run --record docs/results` the evaluation is also recorded, for the page that `results` writes.
    """
    os.environ.update(ONE_THREAD)
    from onward.bundle.remote_bundles import live_bundle
    from onward.training.evaluation.evaluation import evaluate_bundle
    from onward.training.evaluation.metrics_table import print_metrics

    if bool(run) != (record is not None):
        raise InputError("--run and --record go together: give both, or neither")
    _only_test_is_recorded(record, part)
    if diversity and category is None:
        raise InputError("--diversity needs --category, the attribute to be diverse in")
    if record is not None and category is not None:
        raise InputError("--record keeps metrics without re-ranking; leave out --category")
    with _bundles_at(bundle, live_bundle) as folder:
        if run and record is not None:
            from onward.training.results.recorded_evaluation import evaluate_and_record

            with disk_faults(record):
                metrics = evaluate_and_record(
                    folder,
                    _dataset(data),
                    run,
                    record,
                    sampled_negatives=sampled_negatives,
                    seed=seed,
                    sample=sample,
                    on_warning=_warn,
                )
        else:
            metrics = evaluate_bundle(
                folder,
                _dataset(data),
                part.value,
                sampled_negatives=sampled_negatives,
                seed=seed,
                category=category,
                diversity_weight=diversity,
                sample=sample,
                on_warning=_warn,
            )
    print_metrics(metrics, as_json=as_json)


@cli.command()
def baselines(
    data: Annotated[str, typer.Option(metavar=PLACE, help="A dataset that `prepare` made.")],
    part: Annotated[HeldOutPart, typer.Option(help="The part to evaluate on.")] = HeldOutPart.TEST,
    hide_seen: Annotated[
        bool, typer.Option("--hide-seen", help="Exclude the session's own items, as for leave-one-out histories.")
    ] = False,
    hide_last: Annotated[
        bool,
        typer.Option("--hide-last", help="Exclude the session's last item, as bundles do that recommend no repeats."),
    ] = False,
    sample: Sample = None,
    record: Annotated[Path | None, typer.Option(help="Folder of records to add this evaluation to.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluate the baselines, which an encoder must beat: popularity, nearest items, nearest sessions.

    Example: `onward-training baselines --data dataset`
    """
    os.environ.update(ONE_THREAD)
    from onward.training.evaluation.evaluation import evaluate_baselines
    from onward.training.evaluation.metrics_table import print_metrics

    _only_test_is_recorded(record, part)
    if record is not None and hide_last:
        raise InputError("--record keeps the metrics of papers' protocols; leave out --hide-last")
    if record is not None:
        from onward.training.results.recorded_evaluation import evaluate_and_record_baselines

        with disk_faults(record):
            metrics = evaluate_and_record_baselines(
                _dataset(data), record, hide_seen=hide_seen, sample=sample, on_warning=_warn
            )
    else:
        metrics = evaluate_baselines(
            _dataset(data), part.value, hide_seen=hide_seen, hide_last=hide_last, sample=sample, on_warning=_warn
        )
    print_metrics(metrics, as_json=as_json)


@cli.command()
def rebuild(
    bundles: Annotated[
        str, typer.Option(metavar=PLACE, help="Folder of bundles; the rebuilt one becomes its current one.")
    ],
    items: Annotated[str | None, typer.Option(help="The new catalog: a file with attributes of items.")] = None,
    items_format: Annotated[Format | None, typer.Option(help="Format of --items.  [default: by extension]")] = None,
    items_column: Annotated[str | None, typer.Option(help="The item id in --items.  [default: guessed]")] = None,
    changes: Annotated[
        Path | None, typer.Option(help="Changes of the live catalog, written by `onward-service changes`.")
    ] = None,
    sessions: Annotated[
        list[str] | None,
        typer.Option(help="An event log whose new sessions join the bundle's nearest sessions; may be repeated."),
    ] = None,
    index: Annotated[IndexKind, typer.Option(help="Index to build; auto measures and chooses.")] = IndexKind.AUTO,
    recall: Annotated[
        float | None,
        typer.Option(min=0.5, max=1, help=f"Recall@20 that the index is tuned to.  [default: {TARGET_RECALL}]"),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help=f"Tune the index to a recall@20 of {FAST_RECALL}.")] = False,
    staged: Annotated[
        bool, typer.Option("--staged", help="Publish without making it live; `gate` and `activate` do that.")
    ] = False,
    keep: Keep = 5,
    keep_recent: KeepRecent = "1h",
) -> None:
    """Rebuild the current bundle with a new catalog, newer sessions or another index, without training.

    Items that a new catalog does not list are no longer recommended. New items of it or of the live catalog get
    rows of their own, with vectors as the service computes them.

    Example: `onward-training rebuild --bundles bundles --items products.jsonl`

    Example: `onward-service changes > changes.jsonl; onward-training rebuild --bundles bundles --changes changes.jsonl`

    Example: `onward-training rebuild --bundles bundles --sessions events` for a bundle with nearest sessions
    """
    from onward.bundle.remote_bundles import live_bundle
    from onward.training.data.preparation.prepare_report import announced_steps
    from onward.training.export.rebuild import rebuild as rebuild_bundle

    with _bundles_at(bundles, live_bundle) as folder:
        with announced_steps() as announce:
            digest = rebuild_bundle(
                folder,
                items=items,
                items_format=items_format,
                items_column=items_column,
                changes=changes,
                sessions=sessions or (),
                index=index,
                target_recall=_target_recall(recall, fast=fast),
                staged=staged,
                retention=_retention(keep, keep_recent),
                on_step=announce,
                on_note=_print_note,
            )
        count = _count_staged(folder)
    _print_published(bundles, digest, count, staged=staged)


@cli.command()
def gate(
    bundles: Annotated[str, typer.Argument(metavar=PLACE, help="Folder of bundles.")],
    data: Annotated[str, typer.Option(metavar=PLACE, help="A dataset that `prepare` made; its test part is asked.")],
    bundle: Annotated[
        str | None, typer.Option(help="Digest of the bundle, or its beginning.  [default: the newest staged one]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare a staged bundle with the live one and with baselines, on the same sessions, and store the figures.

    Example: `onward-training gate bundles --data dataset`

    The bundle passes unless its recall@20 or MRR@20 is below one of theirs, by more than a margin and by more than
    chance explains. `activate` makes live what has passed. The exit code is 1 if it has not passed.
    """
    os.environ.update(ONE_THREAD)
    from onward.bundle.remote_bundles import beside_live
    from onward.training.evaluation.gate import gate as pass_gate
    from onward.training.evaluation.gate_table import print_report

    with _bundles_at(bundles, beside_live(bundle)) as folder:
        digest = _staged_bundle(bundles, folder, bundle)
        report = pass_gate(folder, digest, _dataset(data))
        print_report(report, as_json=as_json)
    if not report.passed:
        raise typer.Exit(1)


@cli.command()
def activate(
    bundles: Annotated[str, typer.Argument(metavar=PLACE, help="Folder of bundles.")],
    bundle: Annotated[
        str | None, typer.Argument(help="Digest of the bundle, or its beginning.  [default: the newest staged one]")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make it live although it has not passed the gate; needs --reason.")
    ] = False,
    reason: Reason = None,
    keep: Keep = 5,
    keep_recent: KeepRecent = "1h",
) -> None:
    """Make a staged bundle live that has passed the gate, or a bundle that was live before.

    Example: `onward-training activate bundles`
    """
    from onward.bundle import Author, gate_fault, staged_bundles
    from onward.bundle import activate as make_live
    from onward.bundle.remote_bundles import one_bundle

    if force and not reason:
        raise InputError("--force: say why with --reason")
    with _bundles_at(bundles, one_bundle(bundle)) as folder:
        digest = _staged_bundle(bundles, folder, bundle)
        fault = gate_fault(folder, digest) if digest in staged_bundles(folder) else None
        if fault is not None and not force:
            raise InputError(
                f"{digest[:12]}: {fault}; `onward-training gate` compares it, --force --reason WHY makes it live"
            )
        make_live(
            folder,
            digest,
            author=Author(reason=reason),
            overridden=fault,
            retention=_retention(keep, keep_recent),
        )
    if fault is not None:
        typer.echo(f"made live by --force, although {fault}", err=True)
    typer.echo(digest)


@cli.command()
def results(
    records: Annotated[Path, typer.Argument(help="Folder of records, written with `--record`.")],
    out: Annotated[Path, typer.Option(help="The Markdown page to write; its plots are written beside the records.")],
) -> None:
    """Write a page of all recorded runs and baselines: tables, deviations over seeds, learning curves, comparisons.

    Example: `onward-training results docs/results --out docs/results.md`

    `anchors.toml` among the records holds for each data set its protocol, the metrics to show, published figures and
    aims; `DATA/ladder.json` holds the changes that were tried.
    """
    from onward.training.results.page import write_page

    with disk_faults(out):
        typer.echo(f"{out}: {write_page(records, out)} runs")


@cli.command()
def tune(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, or the name of one that comes with the package.")],
    data: Annotated[str, typer.Option(metavar=PLACE, help="A dataset that `prepare` made, with a validation part.")],
    out: Annotated[Path, typer.Option(help="Folder for the study: trials, study.db, best.toml.")],
    vary: Annotated[
        list[str] | None,
        typer.Option(help="KEY=SPEC, may be repeated. SPEC: 1..8 (evenly), log:1e-4..1e-2, or choices a,b,c."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="A TOML file of specs with the keys of the recipe, instead of --vary.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Total number of trials of the study.")] = 20,
    timeout: Annotated[
        str | None, typer.Option(help="Begin no trial after this time: 90s, 30m, 8h, 1d.  [default: no limit]")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of epochs of a trial.  [default: the recipe's]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search and of every training.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda if available.")] = "auto",
    join: Annotated[
        bool, typer.Option("--join", help="Run trials beside the process that works on the study in --out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Search for a better recipe: train with varied values, compare by validation only, and prune poor trials.

    Example: `onward-training tune srgnn --data dataset --out study --vary training.learning_rate=log:1e-3..1e-2`

    The first trial is the recipe itself. Ctrl-C ends the search after the current step; the same command resumes it.
    The best recipe is written to `best.toml`. On further GPUs or machines with the same folder, the same command with
    `--join` shares the work.
    """
    from onward.training.recipe import Recipe
    from onward.training.tuning.search_space import read_specs
    from onward.training.tuning.study import tune as search
    from onward.training.tuning.study_report import print_study

    study = search(
        Recipe.load(recipe),
        read_specs(vary or (), space),
        _dataset(data),
        out,
        trials=trials,
        timeout_s=None if timeout is None else _milliseconds("--timeout", timeout) / 1000,
        epochs=epochs,
        seed=seed,
        device_name=device,
        join=join,
        on_trial=lambda line: typer.echo(line, err=True),
    )
    print_study(study, as_json=as_json)
    if study.running_elsewhere:
        typer.echo(f"{study.running_elsewhere} trials are being run by other processes (study: {out})", err=True)
    if study.interrupted:
        typer.echo(f"interrupted; resume with the same command (study: {out})", err=True)
        raise typer.Exit(130)


@cli.command()
def check_model(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, or the name of one that comes with the package.")],
) -> None:
    """Check on small generated data whether a model can be trained, exported and served; the exit code is 1 if not.

    Example: `onward-training --plugin my_model.py check-model my_model.toml`
    """
    from onward.training.model_contract import check_recipe
    from onward.training.recipe import Recipe

    failed = False
    for check, passed, detail in check_recipe(Recipe.load(recipe)):
        typer.echo(f"{'passed' if passed else 'FAILED'}  {check}: {detail}")
        failed = failed or not passed
    if failed:
        raise typer.Exit(1)


def _warn(line: str) -> None:
    typer.echo(f"warning: {line}", err=True)


def _print_note(line: str) -> None:
    typer.echo(line, err=True)


def _place(text: str) -> Place:
    """Return the path or address that an option names. Raises InputError."""
    try:
        return place_of(text)
    except AddressError as error:
        raise InputError(str(error)) from error


def _dataset(data: str) -> Path:
    """Return the folder of a dataset, or of a copy of it if it is at an address. Raises InputError."""
    from onward.training.data.remote_dataset import local_dataset

    return local_dataset(_place(data))


@contextmanager
def _bundles_at(bundles: str, needed: "Choice | None" = None) -> "Iterator[Path]":
    """Yield the folder of bundles, or a working copy of those at an address; see `working_copy`.

    What is refused names the folder or address. Raises InputError.
    """
    from onward.bundle.remote_bundles import no_bundle, working_copy

    with bundle_faults(bundles), working_copy(_place(bundles), needed or no_bundle) as folder:
        try:
            yield folder
        except InputError as error:
            if str(folder) == bundles or str(folder) not in str(error):
                raise
            raise InputError(str(error).replace(str(folder), bundles)) from error


def _count_staged(bundles: Path) -> int:
    from onward.bundle import staged_bundles

    return len(staged_bundles(bundles))


def _print_published(bundles: str, digest: str, count: int, *, staged: bool) -> None:
    """Print the digest of a published bundle and, if it is staged as one of `count`, how it goes live."""
    typer.echo(digest)
    if staged:
        others = f" ({count} bundles are staged; they stay until `onward-service bundles remove`)" if count > 1 else ""
        typer.echo(
            f"staged, not live{others}: `onward-training gate {bundles} --data DATASET` compares it with the live "
            f"bundle, `onward-training activate {bundles}` makes it live",
            err=True,
        )


def _staged_bundle(bundles: str, folder: Path, start: str | None) -> str:
    """Return the digest of the bundle whose digest begins with `start`, or of the newest staged one."""
    from onward.bundle import find_bundle, staged_bundles

    if start is not None:
        return find_bundle(folder, start)
    staged = staged_bundles(folder)
    if not staged:
        raise InputError(f"{bundles}: holds no staged bundle; make one with `onward-training export ... --staged`")
    return staged[0]


def _only_test_is_recorded(record: Path | None, part: HeldOutPart) -> None:
    if record is not None and part is not HeldOutPart.TEST:
        raise InputError("--record keeps metrics of the test part; leave out --part")


def _target_recall(recall: float | None, *, fast: bool) -> float:
    if recall is not None and fast:
        raise InputError("--recall and --fast: give one of them")
    return FAST_RECALL if fast else recall or TARGET_RECALL


def _retention(keep: int, recent: str) -> "Retention":
    from onward.bundle.releases import Retention, parse_period

    try:
        return Retention(keep, parse_period(recent))
    except ValueError as error:
        raise InputError(f"--keep-recent {recent!r}: {error}") from error


def _engine(name: EngineName) -> "Callable[[Path], Engine]":
    if name is EngineName.SPARK:
        from onward.training.data.readers.spark_engine import SparkEngine

        return SparkEngine
    from onward.training.data.readers.polars_engine import PolarsEngine

    return PolarsEngine


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        try:
            weights[name.strip().lower()] = float(value)
        except ValueError:
            name = ""
        if not name.strip() or not math.isfinite(weights.get(name.strip().lower(), math.nan)):
            raise InputError(f"--weights {text!r}: write types and numbers, such as view=1,cart=3,purchase=5")
    return weights


def _milliseconds(option: str, duration: str) -> int:
    match = re.fullmatch(r"(\d+)([smhd])", duration)
    if match is None or int(match[1]) == 0:
        raise InputError(f"{option} {duration!r}: write a number and s, m, h or d, such as 30m")
    return int(match[1]) * UNIT_MS[match[2]]
