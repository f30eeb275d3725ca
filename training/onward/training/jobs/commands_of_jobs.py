"""What a worker does for each kind of job."""

import json
import shutil
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from redis import Redis, RedisCluster

from onward.bundle import Author, activate
from onward.bundle.catalog.live_item import LiveItem, change_line
from onward.bundle.jobs import Job
from onward.bundle.releases import DEFAULT_RETENTION, Retention, parse_period, protect, remove
from onward.bundle.remote_bundles import no_bundle, one_bundle, working_copy
from onward.bundle.storage import Place
from onward.training.errors import InputError

COMMAND = (sys.executable, "-m", "onward.training")
KEPT_FITS = 5
ITEMS = "onward:{items}:"
"""Prefix of the keys of the live catalog."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a worker works on; jobs themselves name no paths, so that a key opens no files."""

    bundles: Place
    work: Path
    """Where fits keep their folders."""
    events: tuple[str, ...] = ()
    items: str | None = None
    retention: Retention = DEFAULT_RETENTION


def command_of(job: Job, place: Workplace, redis: "Redis | RedisCluster") -> list[str]:
    """Return the command of a rebuild or a fit. Raises InputError if the worker has no data for it."""
    bundles = ["--bundles", str(place.bundles)]
    kept = [
        "--keep",
        str(place.retention.keep),
        "--keep-recent",
        f"{int(place.retention.recent.total_seconds())}s",
    ]
    if job.kind == "rebuild":
        options = [option for option in ("staged", "fast") if job.options.get(option)]
        return [
            *COMMAND,
            "rebuild",
            *bundles,
            *kept,
            *(f"--{option}" for option in options),
            *_catalog(job, place, redis),
        ]
    if job.kind != "fit":
        raise InputError(f"this worker does not know jobs of the kind {job.kind}; it is older than who made the job")
    if not place.events:
        raise InputError("this worker has no events to fit to: start it with --events FOLDER")
    out = place.work / f"fit-{job.id}"
    items = [] if place.items is None else ["--items", place.items]
    begun = ["--resume"] if (out / "fit.json").exists() else []
    if not begun:
        shutil.rmtree(out, ignore_errors=True)  # of a worker that was lost before the fit had a record
    _forget_fits(place.work, out)
    budget = ["--budget", str(job.options.get("budget", "30m"))]
    return [*COMMAND, "fit", *place.events, *items, *bundles, *kept, "--out", str(out), *budget, *begun]


def _forget_fits(work: Path, out: Path) -> None:
    """Remove the folders of all but the newest fits."""
    others = sorted((folder for folder in work.glob("fit-*") if folder != out), key=lambda folder: folder.name)
    for folder in others[: -(KEPT_FITS - 1)]:
        shutil.rmtree(folder, ignore_errors=True)


def change_release(job: Job, place: Workplace) -> str:
    """Do to the bundles what the service was asked for; return the digest. Raises BundleError."""
    digest, author = str(job.options.get("bundle")), Author(job.by, job.reason)
    with working_copy(place.bundles, one_bundle(digest) if job.kind == "activate" else no_bundle) as bundles:
        if job.kind == "activate":
            activate(
                bundles,
                digest,
                author=author,
                overridden=job.options.get("overridden"),
                is_rollback=bool(job.options.get("rollback")),
                retention=place.retention,
            )
        elif job.kind == "remove":
            remove(bundles, digest, author=author, recent=place.retention.recent)
        else:
            protect(bundles, digest, protected=job.kind == "protect", author=author)
    return digest


def is_release_change(job: Job) -> bool:
    """Return whether a job is done by this process, in a moment."""
    return job.kind in ("activate", "protect", "unprotect", "remove")


def period_of(text: str) -> timedelta:
    """Parse a period such as 30m. Raises InputError."""
    try:
        return parse_period(text)
    except ValueError as error:
        raise InputError(f"{text!r}: {error}") from error


def _catalog(job: Job, place: Workplace, redis: "Redis | RedisCluster") -> list[str]:
    """Return the options of the new catalog: the worker's file of items, else the changes of the live catalog."""
    if place.items is not None:
        return ["--items", place.items]
    place.work.mkdir(parents=True, exist_ok=True)
    file = place.work / f"changes-{job.id}.jsonl"
    file.write_text("".join(f"{line}\n" for line in live_changes(redis)), encoding="utf-8")
    return ["--changes", str(file)]


def live_changes(redis: "Redis | RedisCluster") -> list[str]:
    """Return all changes of the live catalog in the store, as lines of a change file, in order."""
    sequences: Any = redis.zrange(f"{ITEMS}changed", 0, -1, withscores=True)
    values: Any = redis.hgetall(f"{ITEMS}values")
    lines = []
    for name, sequence in sequences:
        value = json.loads(values[name])[1] if name in values else None
        if value is not None:
            lines.append(change_line(name.decode(), int(sequence), LiveItem.of(value)))
    return lines
