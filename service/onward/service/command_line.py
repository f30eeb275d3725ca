"""What the commands share: how they refuse and what they write to the audit log."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

AuditFile = Annotated[
    Path | None,
    typer.Option("--audit-log", envvar="SERVICE_AUDIT_LOG", help="The service's audit log, which gets a line."),
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


def refuse(reason: str) -> NoReturn:
    """End the command with exit code 2 and one line that says why."""
    typer.echo(f"error: {reason}", err=True)
    raise typer.Exit(2)
