"""The commands of jobs: a worker that does them, and a schedule that makes one each day."""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from onward.bundle.storage import Place

RedisURL = Annotated[
    str, typer.Option(envvar="REDIS_URL", help="The Redis or Valkey server of the service, as in its REDIS_URL.")
]


class DailyKind(StrEnum):
    """The kinds of jobs that a schedule makes."""

    FIT = "fit"
    REBUILD = "rebuild"


def worker(
    bundles: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|s3://BUCKET/FOLDER", help="Folder of bundles; the worker must be able to write there."
        ),
    ],
    redis_url: RedisURL,
    work: Annotated[
        Path, typer.Option(help="Folder for what jobs make besides bundles: a folder for each fit.")
    ] = Path("work"),
    events: Annotated[
        list[str] | None,
        typer.Option(help="What `fit` learns from: files of events, or the folder of the event log. Repeat it."),
    ] = None,
    items: Annotated[
        str | None, typer.Option(help="File of items for `fit` and `rebuild`.  [default: the live catalog's changes]")
    ] = None,
    keep: Annotated[
        int, typer.Option(min=1, envvar="ONWARD_KEEP_BUNDLES", help="How many bundles to keep that are live or were.")
    ] = 5,
    keep_recent: Annotated[
        str, typer.Option(envvar="ONWARD_KEEP_RECENT", help="Keep all that were live within this time: 30m, 8h, 1d.")
    ] = "1h",
) -> None:
    """Do the jobs that `POST /v1/jobs`, the console or a schedule put into the store, one at a time, until stopped.

    Example: `onward-training worker --bundles bundles --redis-url redis://127.0.0.1 --events events`

    Several workers may run. It also moves `current` and removes bundles for a service that may not write there.
    """
    from onward.bundle.releases import Retention
    from onward.training.jobs.commands_of_jobs import Workplace, period_of
    from onward.training.jobs.queue import JobQueue
    from onward.training.jobs.worker import Worker

    recent: timedelta = period_of(keep_recent)
    place = Workplace(_place(bundles), work, tuple(events or ()), items, Retention(keep, recent))
    one = Worker(JobQueue.connect(redis_url), place, on_line=_say)
    _say(f"{one.name} waits for jobs")
    one.run()


def schedule(
    redis_url: RedisURL,
    at: Annotated[str, typer.Option(help="Time of day, UTC: 03:30.")],
    kind: Annotated[DailyKind, typer.Option(help="What to do each day.")] = DailyKind.FIT,
    budget: Annotated[str, typer.Option(help="Time that a fit may take: 90s, 15m, 8h.")] = "2h",
) -> None:
    """Put a job into the store each day, for a worker to do: a fit of the newest events, or a rebuild.

    Example: `onward-training schedule --at 03:30 --redis-url redis://127.0.0.1`

    Several schedules of one kind and time make one job a day.
    """
    from onward.training.jobs.commands_of_jobs import period_of
    from onward.training.jobs.queue import JobQueue
    from onward.training.jobs.schedule import run_schedule

    period_of(budget)
    options = {"budget": budget} if kind is DailyKind.FIT else {}
    run_schedule(JobQueue.connect(redis_url), at, kind.value, options, _say)


def _place(text: str) -> "Place":
    from onward.bundle.storage import AddressError, place_of
    from onward.training.errors import InputError

    try:
        return place_of(text)
    except AddressError as error:
        raise InputError(str(error)) from error


def _say(line: str) -> None:
    typer.echo(line, err=True)
