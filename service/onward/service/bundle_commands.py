"""The commands `onward-service bundles`: list, show, activate, roll back, protect and remove bundles of a folder."""

from typing import TYPE_CHECKING, Annotated

import typer

from onward.bundle.storage.local_paths import LocalPaths
from onward.service.command_line import AuditFile, BundlesPlace, audited, opened, refuse

if TYPE_CHECKING:
    from datetime import timedelta

    from onward.service.http.schemas.releases import ReleasedBundle

bundle_commands = typer.Typer(
    cls=LocalPaths, no_args_is_help=True, help="List bundles, make one live, roll back, protect, remove."
)

Start = Annotated[str, typer.Argument(metavar="DIGEST", help="Digest of the bundle, or its beginning.")]
Reason = Annotated[str | None, typer.Option(help="Why: for the record of the bundle and the audit log.")]
Keep = Annotated[
    int, typer.Option(min=1, envvar="ONWARD_KEEP_BUNDLES", help="How many bundles to keep that are live or were.")
]
KeepRecent = Annotated[
    str, typer.Option(envvar="ONWARD_KEEP_RECENT", help="Keep all that were live within this time: 30m, 8h, 1d.")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, removed bundles included.")]


@bundle_commands.command("list", epilog="Example: onward-service bundles list --bundles ./bundles")
def list_bundles(bundles: BundlesPlace, as_json: AsJSON = False) -> None:
    """Print each bundle: digest, state, when it was live last, model, items, size, gate."""
    from onward.bundle.releases import list_releases
    from onward.service.http.schemas.releases import ReleasedBundle, ReleasedBundles

    with opened(bundles) as folder:
        shown = [ReleasedBundle.of(release, folder) for release in list_releases(folder)]
    if as_json:
        typer.echo(ReleasedBundles(bundles=shown, count=len(shown)).model_dump_json(exclude_none=True))
        return
    for bundle in shown:
        if bundle.state != "removed":
            typer.echo(_line(bundle))


@bundle_commands.command("show", epilog="Example: onward-service bundles show 5d13bce3 --bundles ./bundles")
def show_bundle(digest: Start, bundles: BundlesPlace) -> None:
    """Print all that is known of a bundle as JSON: what has happened to it and what the gate measured."""
    from onward.bundle.releases import find_release
    from onward.service.http.schemas.releases import BundleDetails

    with opened(bundles) as folder:
        details = BundleDetails.of(find_release(folder, digest), folder)
    typer.echo(details.model_dump_json(indent=1, exclude_none=True))


@bundle_commands.command(
    "activate", epilog='Example: onward-service bundles activate 5d13bce3 --bundles ./bundles --reason "new season"'
)
def activate_bundle(
    digest: Start,
    bundles: BundlesPlace,
    reason: Reason = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although it has not passed the gate; needs --reason, and stays visible.")
    ] = False,
    keep: Keep = 5,
    keep_recent: KeepRecent = "1h",
    audit_log: AuditFile = None,
) -> None:
    """Make a bundle live: a staged one that has passed the gate, or one that was live before."""
    from onward.bundle import activate, find_bundle, gate_fault, staged_bundles
    from onward.bundle.published import current_digest
    from onward.bundle.release_record import Author
    from onward.bundle.releases import Retention
    from onward.bundle.remote_bundles import one_bundle

    if force and not reason:
        refuse("--force: say why with --reason")
    retention = Retention(keep, _period(keep_recent))
    with audited("bundle activated", audit_log) as changes, opened(bundles, one_bundle(digest)) as folder:
        found = find_bundle(folder, digest)
        fault = gate_fault(folder, found) if found in staged_bundles(folder) else None
        if fault is not None and not force:
            refuse(f"{found[:12]}: {fault}; `onward-training gate` compares it, --force --reason WHY makes it live")
        before = current_digest(folder)
        activate(folder, found, author=Author(reason=reason), overridden=fault, retention=retention)
        changes.append((found, {"live": before}, _after(found, reason, fault)))
    typer.echo(found)


@bundle_commands.command("rollback", epilog='Example: onward-service bundles rollback --reason "no cups shown"')
def roll_back_bundle(
    bundles: BundlesPlace,
    reason: Reason = None,
    keep: Keep = 5,
    keep_recent: KeepRecent = "1h",
    audit_log: AuditFile = None,
) -> None:
    """Make the bundle live again that was live before; those that were rolled back themselves are passed over."""
    from onward.bundle.published import current_digest
    from onward.bundle.release_record import Author
    from onward.bundle.releases import Retention, roll_back
    from onward.bundle.remote_bundles import bundle_to_roll_back_to

    retention = Retention(keep, _period(keep_recent))
    with audited("bundle rolled back", audit_log) as changes, opened(bundles, bundle_to_roll_back_to) as folder:
        before = current_digest(folder)
        digest = roll_back(folder, author=Author(reason=reason), retention=retention)
        changes.append((digest, {"live": before}, _after(digest, reason, None)))
    typer.echo(digest)


@bundle_commands.command("protect", epilog="Example: onward-service bundles protect 5d13bce3 --bundles ./bundles")
def protect_bundle(
    digest: Start,
    bundles: BundlesPlace,
    end: Annotated[bool, typer.Option("--end", help="End the protection.")] = False,
    reason: Reason = None,
    audit_log: AuditFile = None,
) -> None:
    """Protect a bundle from being removed, however many come after it."""
    from onward.bundle import find_bundle
    from onward.bundle.release_record import Author
    from onward.bundle.releases import protect

    what = "bundle unprotected" if end else "bundle protected"
    with audited(what, audit_log) as changes, opened(bundles) as folder:
        found = find_bundle(folder, digest)
        protect(folder, found, protected=not end, author=Author(reason=reason))
        changes.append((found, None, {"protected": not end, "reason": reason}))
    typer.echo(found)


@bundle_commands.command("remove", epilog="Example: onward-service bundles remove 5d13bce3 --bundles ./bundles")
def remove_bundle(
    digest: Start,
    bundles: BundlesPlace,
    reason: Reason = None,
    keep_recent: KeepRecent = "1h",
    audit_log: AuditFile = None,
) -> None:
    """Remove a bundle for good; its record stays. Live, protected and recently live ones cannot be removed."""
    from onward.bundle import find_bundle
    from onward.bundle.release_record import Author
    from onward.bundle.releases import remove

    with audited("bundle removed", audit_log) as changes, opened(bundles) as folder:
        found = find_bundle(folder, digest)
        remove(folder, found, author=Author(reason=reason), recent=_period(keep_recent))
        changes.append((found, None, {"reason": reason}))
    typer.echo(found)


def _period(text: str) -> "timedelta":
    from onward.bundle.releases import parse_period

    try:
        return parse_period(text)
    except ValueError as error:
        refuse(f"--keep-recent {text!r}: {error}")


def _after(digest: str, reason: str | None, overridden: str | None) -> dict[str, str | None]:
    return {"live": digest, "reason": reason, "overridden": overridden}


def _line(bundle: "ReleasedBundle") -> str:
    gate = {True: "passed the gate", False: "below the gate", None: "no gate"}[bundle.gate_passed]
    if bundle.overridden is not None:
        gate = f"forced: {bundle.overridden}"
    return "  ".join(
        (
            bundle.bundle[:12],
            f"{bundle.state:7}",
            "protected" if bundle.protected else "         ",
            "never live      " if bundle.last_live is None else f"{bundle.last_live:%F %R}",
            f"{bundle.model or 'damaged':16}",
            f"{bundle.items or 0:>9,} items",
            f"{(bundle.size or 0) / 1e6:>8,.1f} MB",
            gate,
        )
    )
