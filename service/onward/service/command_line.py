"""What the commands share: how they refuse and what they write to the audit log."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from onward.bundle.remote_bundles import Choice

AuditFile = Annotated[
    Path | None,
    typer.Option("--audit-log", envvar="SERVICE_AUDIT_LOG", help="The service's audit log, which gets a line."),
]


BundlesPlace = Annotated[
    str,
    typer.Option(
        "--bundles",
        metavar="FOLDER|s3://BUCKET/FOLDER",
        envvar="SERVICE_BUNDLES",
        help="Folder of bundles, or address.",
    ),
]


@contextmanager
def audited(what: str, audit_log: Path | None) -> Iterator[list[tuple[str | None, Any, Any]]]:
    """Write to the audit log what the block has changed and appends: an id, and the values before and after."""
    from onward.bundle.release_record import account
    from onward.service.records.audit_log import Actor, AuditLog, AuditLogError, Change

    changes: list[tuple[str | None, Any, Any]] = []
    try:
        log = AuditLog(audit_log)
        yield changes
        log.record_command(Actor(command="onward-service", user=account()), [Change(what, *one) for one in changes])
    except AuditLogError as error:
        refuse(f"--audit-log: {error}")


@contextmanager
def opened(bundles: str, needed: "Choice | None" = None) -> Iterator[Path]:
    """Yield the folder of bundles, or a working copy of those at an address; see `working_copy`.

    What the bundles, the object store or the file system refuse is refused in one line.
    """
    from onward.bundle import BundleError
    from onward.bundle.remote_bundles import no_bundle, working_copy
    from onward.bundle.storage import AddressError, place_of

    try:
        with working_copy(place_of(bundles), needed or no_bundle) as folder:
            yield folder
    except AddressError as error:
        refuse(f"--bundles: {error}")
    except BundleError as error:
        refuse(f"{bundles}: {error}")
    except OSError as error:
        refuse(f"{error.filename or bundles}: {error.strerror}")


def refuse(reason: str) -> NoReturn:
    """End the command with exit code 2 and one line that says why."""
    typer.echo(f"error: {reason}", err=True)
    raise typer.Exit(2)
