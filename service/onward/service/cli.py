"""The commands of `onward-service`; each imports its own code when it runs."""

import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from onward.bundle.storage.local_paths import LocalPaths
from onward.service.bundle_commands import bundle_commands
from onward.service.command_line import AuditFile, BundlesPlace, audited, opened, refuse

if TYPE_CHECKING:
    from onward.service.bench.summary import CapacityReport

cli = typer.Typer(cls=LocalPaths, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
SECRETS = ("REDIS_URL", "SERVICE_API_KEYS", "SERVICE_EVENT_LOG_KEY")
"""Variables that may also be given as a file, by the name with _FILE at its end."""
KEY_BYTES = 32
NO_SERVER = "--redis-url: no Redis or Valkey answers there"


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"onward {version('onward')}")
        raise typer.Exit


@cli.callback()
def onward_service(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve next-item recommendations from a folder of bundles."""
    if any(f"{name}_FILE" in os.environ for name in SECRETS):
        _read_secrets()


def _read_secrets() -> None:
    """Set the variables whose values are in files."""
    from onward.service.settings import SecretFileError, secrets_from_files

    try:
        os.environ.update(secrets_from_files(os.environ, SECRETS))
    except SecretFileError as error:
        refuse(str(error))
    for name in SECRETS:
        os.environ.pop(f"{name}_FILE", None)


@cli.command(
    epilog="Example: onward-service serve --bundles ./bundles --port 8000 --workers 2",
)
def serve(
    bundles: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|s3://BUCKET/FOLDER",
            help="Folder of bundles, or an address to pull them from; its `current` is the one served.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [default: 8000]")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes: at most one for each core.  [default: 1]")
    ] = None,
) -> None:
    """Answer requests until stopped.

    Every option is also a SERVICE_* variable (SERVICE_BUNDLES, SERVICE_HOST, ...); an option overrides its variable.
    A variable of this form that is not a setting stops the start; SERVICE_IGNORE names those of other programs.
    Other variables, with their defaults: SERVICE_SESSION_TTL (PT30M), SERVICE_SESSION_LENGTH (50),
    SERVICE_STORE_TIMEOUT (0.1 seconds), SERVICE_RELOAD_INTERVAL (1), SERVICE_SHUTDOWN_TIMEOUT (30),
    SERVICE_LOG_LEVEL (info).

    Events and answers: SERVICE_EVENT_WEIGHTS, as in share=2,skip=-1; SERVICE_MAX_EVENT_AGE (a day);
    SERVICE_POPULARITY_HALF_LIFE (3 days); SERVICE_ANSWER_TTL, how long an answer is kept for next pages and
    explanations (PT30M, 0 for not at all); SERVICE_EVENT_LOG, a folder that events and answers are written to, for
    `onward-training prepare` (none).

    Access and limits: SERVICE_KEYS_FILE, a file of keys that `onward-service key create` writes (none);
    SERVICE_API_KEYS, digests that `onward-service key` prints, separated by commas (none: no key is needed);
    SERVICE_RATE_LIMIT, as in 100/second, per key or else per client address, counted by each worker (none), or
    by all together with SERVICE_RATE_LIMIT_SCOPE=deployment (worker);
    SERVICE_MAX_IN_FLIGHT requests at once in each worker (256); SERVICE_BODY_TIMEOUT, how long a body may take to
    arrive (10 seconds).

    REDIS_URL names the session store. Without it the service starts a private valkey-server or redis-server from
    PATH, or the one that the extra `embedded` installs. If none is found, sessions are kept in memory, which only
    one worker can do.
    """
    from pydantic import ValidationError

    from onward.service.http.tracing import TracingError
    from onward.service.keys import KeysFileError
    from onward.service.records.audit_log import AuditLogError
    from onward.service.records.event_log import EventLogError
    from onward.service.server.serve import CannotServe
    from onward.service.server.serve import serve as run
    from onward.service.settings import Settings, UnknownSetting, describe, foreign_variables

    options: dict[str, Any] = {"bundles": bundles, "host": host, "port": port, "workers": workers}
    try:
        foreign = foreign_variables(os.environ)
        for name in foreign:
            del os.environ[name]
        run(Settings(**{name: value for name, value in options.items() if value is not None}), ignored=foreign)
    except ValidationError as error:
        refuse(describe(error))
    except KeysFileError as error:
        refuse(f"SERVICE_KEYS_FILE: {error}")
    except AuditLogError as error:
        refuse(f"SERVICE_AUDIT_LOG: {error}")
    except EventLogError as error:
        refuse(f"SERVICE_EVENT_LOG: {error}")
    except (CannotServe, TracingError, UnknownSetting) as error:
        refuse(str(error))


@cli.command(epilog="Example: onward-service pull s3://shop/bundles --into /var/lib/onward/bundles")
def pull(
    address: Annotated[str, typer.Argument(metavar="s3://BUCKET/FOLDER", help="Address of bundles.")],
    into: Annotated[Path, typer.Option(help="Folder that services serve from; nothing else may be published there.")],
    once: Annotated[bool, typer.Option("--once", help="Pull what is live now, and end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the address.")] = 5.0,
    keep: Annotated[int, typer.Option(min=1, help="How many bundles stay in the folder that were live.")] = 3,
) -> None:
    """Keep a folder like the bundles of an address, for services that serve from it; until stopped.

    A bundle is verified before `current` moves to it. Damage, an outage or a refusal is logged once; what serves serves
    on. With --once the digest is printed; the exit code is 2 if it cannot be pulled.
    """
    import signal
    import threading
    from datetime import timedelta

    from onward.bundle.mirror import Mirror, MirrorError
    from onward.bundle.storage import Address, AddressError, ObjectStore, StorageError, place_of
    from onward.service.server.puller import Puller, pulling
    from onward.service.telemetry import configure_logging

    stop = threading.Event()
    try:
        place = place_of(address)
        if not isinstance(place, Address):
            refuse(f"{address}: is a folder of this machine already; services serve from it as it is")
        ObjectStore(place)  # raises if the extra is not installed
        mirror = Mirror(place, into, keep=keep)
        configure_logging("info")
        if once:
            with mirror.held():
                problem = Puller(mirror).pull().problem
            if problem is not None:
                refuse(f"{problem.bundle[:12]}: {problem.reason}")
            if mirror.live is None:
                refuse(f"{address}: nothing has been published yet")
            typer.echo(mirror.live)
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with pulling(mirror, timedelta(seconds=every)):
            stop.wait()
    except (AddressError, StorageError, MirrorError) as error:
        refuse(str(error))
    os._exit(0)  # requests that still wait for the object store must not delay it


key_commands = typer.Typer(cls=LocalPaths, invoke_without_command=True)
cli.add_typer(key_commands, name="key")
cli.add_typer(bundle_commands, name="bundles")

KeysFile = Annotated[
    Path, typer.Option("--file", envvar="SERVICE_KEYS_FILE", help="The file of keys that the service follows.")
]


@key_commands.callback()
def key(context: typer.Context) -> None:
    """Make and revoke keys; without a command, print a new key and its digest for SERVICE_API_KEYS."""
    if context.invoked_subcommand is None:
        secret = secrets.token_urlsafe(KEY_BYTES)
        typer.echo(f"key     {secret}\ndigest  {sha256(secret.encode()).hexdigest()}")


@key_commands.command(
    "create", epilog="Example: onward-service key create --name shop --scope recommend --scope events --file keys.jsonl"
)
def create_key(
    file: KeysFile,
    name: Annotated[str, typer.Option(help="Name of the key, for you and the audit log.")],
    scope: Annotated[
        list[str], typer.Option(help="What it may be used for: recommend, events, catalog, admin, metrics. Repeat it.")
    ],
    tenant: Annotated[str | None, typer.Option(help="Keep what its callers store apart from other tenants.")] = None,
    expires: Annotated[str | None, typer.Option(help="When it expires: 90d, 12h or a date.  [default: never]")] = None,
    audit_log: AuditFile = None,
) -> None:
    """Make a key, print it, and add its record to the file; the service accepts it within a second.

    The key is printed this once: the file holds its digest.
    """
    from pydantic import ValidationError

    from onward.bundle.validation import message_of
    from onward.service.keys import Key, KeysFileError, add_key, parse_expiry

    secret, now = secrets.token_urlsafe(KEY_BYTES), datetime.now(UTC)
    try:
        expiry = None if expires is None else parse_expiry(expires, now)
        key = Key.model_validate(
            {
                "name": name,
                "digest": sha256(secret.encode()).hexdigest(),
                "scopes": frozenset(scope),
                "tenant": tenant,
                "expires": expiry,
            }
        )
        with audited("key created", audit_log) as changes:
            add_key(file, key)
            changes.append((key.name, None, key.model_dump(mode="json", exclude_none=True)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        refuse(f"--{str(first['loc'][0]).removesuffix('s')}: {message_of(first)}")
    except KeysFileError as error:
        refuse(str(error))
    except ValueError as error:
        refuse(f"--expires: {error}")
    typer.echo(secret)


@key_commands.command("list", epilog="Example: onward-service key list --file keys.jsonl")
def list_keys(file: KeysFile) -> None:
    """Print name, tenant, scopes and expiry of each key of the file."""
    from onward.service.keys import SCOPES, KeysFileError, read_keys

    try:
        keys = read_keys(file)
    except KeysFileError as error:
        refuse(str(error))
    now = datetime.now(UTC)
    for key in keys:
        scopes = ",".join(scope for scope in SCOPES if scope in key.scopes)
        expiry = (
            "" if key.expires is None else f"{'expired' if key.is_expired(now) else 'expires'} {key.expires:%F %R %Z}"
        )
        typer.echo(f"{key.name}  {key.tenant or '-'}  {scopes}  {expiry or 'never expires'}")


@key_commands.command("revoke", epilog="Example: onward-service key revoke shop --file keys.jsonl")
def revoke_key(
    file: KeysFile, name: Annotated[str, typer.Argument(help="Name of the key.")], audit_log: AuditFile = None
) -> None:
    """Remove a key from the file; the service refuses it within a second."""
    from onward.service.keys import KeysFileError, remove_key

    try:
        with audited("key revoked", audit_log) as changes:
            key = remove_key(file, name)
            changes.append((key.name, key.model_dump(mode="json", exclude_none=True), None))
    except KeysFileError as error:
        refuse(str(error))


@cli.command(epilog="Example: onward-service examples --bundles ./bundles --url http://127.0.0.1:8000")
def examples(
    bundles: BundlesPlace,
    url: Annotated[str, typer.Option(help="Base URL of the service.")] = "http://127.0.0.1:8000",
) -> None:
    """Print curl calls to try on the service, with items of the current bundle."""
    from onward.bundle.remote_bundles import live_bundle
    from onward.service.curl_examples import curl_examples

    if not url.startswith(("http://", "https://")):
        refuse(f"--url: {url!r} is not the address of a service; an example is http://127.0.0.1:8000")
    with opened(bundles, live_bundle) as folder:
        calls = list(curl_examples(folder, url))
    for description, call in calls:
        typer.echo(f"# {description}\n{call}")
    typer.echo(f"# All endpoints: {url}/docs")


@cli.command(epilog="Example: onward-service changes --redis-url redis://127.0.0.1 > changes.jsonl")
def changes(
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="The Redis or Valkey server that holds the live catalog.")
    ],
) -> None:
    """Print all changes of the live catalog, one per line, for `onward-training rebuild --changes`."""
    import asyncio

    from onward.service.errors import LiveStoreUnavailable
    from onward.service.live.catalog import change_lines

    _require_server(redis_url)
    try:
        for line in asyncio.run(change_lines(redis_url)):
            typer.echo(line)
    except LiveStoreUnavailable as error:
        _refuse_store(error)


@cli.command(epilog="Example: onward-service clear items --redis-url redis://127.0.0.1")
def clear(
    what: Annotated[Literal["items", "scenarios"], typer.Argument(help="What to clear.")],
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="The Redis or Valkey server that holds the live catalog.")
    ],
    tenant: Annotated[str | None, typer.Option(help="The tenant whose scenarios to clear.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    audit_log: AuditFile = None,
) -> None:
    """Remove all changes of the live catalog, or all scenarios, from the server and from every worker.

    Deleting the server's keys does not do that: the workers take it for a loss of data, and restore what they know.
    """
    import asyncio

    from onward.service.errors import LiveStoreUnavailable
    from onward.service.live.replica import clear_store
    from onward.service.tenants import key_prefix

    _require_server(redis_url)
    if tenant is not None and what == "items":
        refuse("--tenant: all tenants share the items")
    try:
        prefix = key_prefix(tenant)
    except ValueError as error:
        refuse(f"--tenant: {error}")
    if not yes:
        typer.confirm(f"Remove all live {what} for good?", abort=True)
    try:
        with audited(f"{what} cleared", audit_log) as changes:
            removed = asyncio.run(clear_store(redis_url, what, prefix=prefix))
            changes.append((tenant, removed, 0))
        typer.echo(f"removed {removed} {what}")
    except LiveStoreUnavailable as error:
        _refuse_store(error)


@cli.command(epilog="Example: onward-service drop-changes bundles --redis-url redis://127.0.0.1")
def drop_changes(
    bundles: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The folder of bundles.")],
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="The Redis or Valkey server that holds the live catalog.")
    ],
    audit_log: AuditFile = None,
) -> None:
    """Drop the changes of the live catalog that every bundle of the folder includes, from the server and every worker.

    Rebuilds take changes into bundles. What a bundle of the folder lacks stays, so that each may go live: remove
    earlier bundles to drop more. Deleted items stay, too.
    """
    import asyncio

    from onward.bundle import BundleError
    from onward.service.errors import LiveStoreUnavailable
    from onward.service.live import catalog

    _require_server(redis_url)
    try:
        folded = catalog.folded_by_all(bundles)
    except BundleError as error:
        refuse(f"{bundles}: {error}")
    if not folded.through:
        typer.echo(f"dropped 0 changes: bundle {folded.digest[:12]} includes none; rebuild it, or remove it if unused")
        return
    try:
        with audited("changes dropped", audit_log) as changes:
            dropped, kept = asyncio.run(catalog.drop_changes(redis_url, folded.through))
            changes.append((None, dropped + kept, kept))
    except LiveStoreUnavailable as error:
        _refuse_store(error)
    typer.echo(f"dropped {dropped:,} changes, {kept:,} stay; bundle {folded.digest[:12]} includes the fewest")


RedisUrl = Annotated[str, typer.Option(envvar="REDIS_URL", help="The Redis or Valkey server, as in REDIS_URL.")]
BackupFile = Annotated[Path, typer.Argument(help="The file, as in onward.backup.gz.")]


@cli.command(epilog="Example: onward-service backup onward.backup.gz --redis-url redis://127.0.0.1")
def backup(
    file: BackupFile,
    redis_url: RedisUrl,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="Back up sessions, answers and users' lists of sessions too.")
    ] = False,
) -> None:
    """Copy the live catalog, scenarios, popularity, counters and jobs of all tenants from the store to a file.

    The service may go on meanwhile.
    """
    import asyncio

    from onward.service.store_backup import BackupError, back_up

    _require_server(redis_url)
    try:
        kept = asyncio.run(back_up(redis_url, file, sessions=sessions))
    except BackupError as error:
        refuse(str(error))
    _print_kept("backed up", kept.kinds)


@cli.command(epilog="Example: onward-service restore onward.backup.gz --redis-url redis://127.0.0.1")
def restore(file: BackupFile, redis_url: RedisUrl, audit_log: AuditFile = None) -> None:
    """Copy a backup into a store that holds no data of Onward. Stop the services before, and start them after it."""
    import asyncio

    from onward.service.store_backup import BackupError
    from onward.service.store_backup import restore as restore_file

    _require_server(redis_url)
    try:
        with audited("store restored", audit_log) as changes:
            kept = asyncio.run(restore_file(redis_url, file))
            changes.append((None, None, dict(kept.kinds)))
    except BackupError as error:
        refuse(str(error))
    _print_kept("restored", kept.kinds)
    if kept.expired:
        typer.echo(f"left out {kept.expired} keys that have expired since")


def _print_kept(done: str, kinds: Mapping[str, int]) -> None:
    typer.echo(f"{done} {sum(kinds.values())} keys")
    for kind, count in sorted(kinds.items()):
        typer.echo(f"  {kind}: {count}")


@cli.command("erase-user", epilog="Example: onward-service erase-user user-7 --event-log ./events")
def erase_user(
    user_id: Annotated[str, typer.Argument(help="The user's id, as in `user_id` of recommendations.")],
    event_log: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|s3://BUCKET/FOLDER", envvar="SERVICE_EVENT_LOG", help="Folder or address of the event log."
        ),
    ],
    stopped: Annotated[
        bool, typer.Option("--stopped", help="No service writes to the folder now: change its newest files too.")
    ] = False,
    event_log_key: Annotated[
        str | None, typer.Option(envvar="SERVICE_EVENT_LOG_KEY", help="Secret of the log's pseudonyms.")
    ] = None,
    audit_log: AuditFile = None,
) -> None:
    """Erase a user's answers, and all events of the sessions that they were made for, from the event log.

    Files of the present hour may still be written, so they are left as they are and named: exit code 1, and a later
    call does the rest. Of a log at an address, call it for the address and then for each SERVICE_EVENT_LOG_SPOOL, whose
    files are still to be uploaded. DELETE /v1/users/USER_ID erases what the service itself has stored.
    """
    from onward.bundle.storage import Address, AddressError, StorageError, place_of
    from onward.service.records.event_log_erasure import erase_user as erase
    from onward.service.records.event_log_upload import erase_user_at
    from onward.service.records.user_sessions import user_digest

    try:
        place = place_of(event_log)
        with audited("user erased from event log", audit_log) as changes:
            if isinstance(place, Address):
                erasure = erase_user_at(place, user_id, key=event_log_key)
            else:
                erasure = erase(place, user_id, None if stopped else datetime.now(UTC), key=event_log_key)
            changes.append((user_digest(user_id), None, None))
    except (AddressError, StorageError) as error:
        refuse(f"--event-log: {error}")
    except OSError as error:
        refuse(f"--event-log: {error.strerror}: {error.filename or event_log}")
    typer.echo(f"removed {erasure.lines} lines")
    if erasure.open_files:
        typer.echo(f"left files of this hour, call this again later: {', '.join(erasure.open_files)}", err=True)
        raise typer.Exit(1)


@cli.command(
    epilog="Example: onward-service bench --bundles ./bundles --rps 2000 --slo p90=50ms,p99=100ms --out ./bench"
)
def bench(
    bundles: BundlesPlace,
    url: Annotated[
        str | None, typer.Option(help="A running service with these bundles, instead of one started here.")
    ] = None,
    rps: Annotated[
        float | None, typer.Option(min=0.001, help="Requests/s that you need; prints the number of replicas for it.")
    ] = None,
    slo: Annotated[str, typer.Option(help="Latency objective: limits on percentiles.")] = "p90=50ms",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes of the service that is started.")] = 1,
    condition: Annotated[
        str | None, typer.Option("--filter", help="A filter to send with each request, as JSON.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Duration of each load step.")] = 5.0,
    redis_url: Annotated[
        str | None,
        typer.Option(envvar="REDIS_URL", help="A session store for the measurement, instead of a private one."),
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="ONWARD_KEY", help="API key of the service at --url.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for latencies.png and bench.json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Find the highest request rate at which your bundle is served within a latency objective, and its cost.

    Starts the service and a load generator that sends a synthetic workload: sessions of power-law lengths over items as
    popular as in your log; each click is one request that stores the click and asks for 20 items. The load is an open
    loop with Poisson arrivals, whether or not the service keeps up, and latency counts from when a request was due.

    The rate is doubled until it misses the objective, then bisected, and the result is confirmed for twice as long. A
    single failed or degraded answer also misses it. An objective may limit p50, p90, p99, p99.9 and max, in ms or s.
    Replicas are counted so that each carries at most 70 % of its highest rate.

    Sessions and popularity counts are written to the session store: do not name the store of a live shop.

    Exit code 0 if some rate meets the objective, 1 if none does, 2 if it could not be measured.
    """
    from onward.bundle.remote_bundles import live_bundle
    from onward.service.bench.options import BenchOptions, OptionError
    from onward.service.bench.run import run
    from onward.service.bench.server import MeasurementError

    try:
        with opened(bundles, live_bundle) as folder:
            options = BenchOptions.parse(folder, url=url, slo=slo, condition=condition, key=key)
            report = run(options, workers=workers, redis_url=redis_url, rate_per_s=rps, seconds=seconds)
    except (OptionError, MeasurementError) as error:
        refuse(str(error))
    if out is not None:
        _write(report, out)
    typer.echo(json.dumps(report.figures()) if as_json else "\n".join(report.lines()))
    if report.capacity.best is None:
        raise typer.Exit(1)


@cli.command(epilog="Example: onward-service plan --items 50000 --users 20000 --rps 50")
def plan(
    items: Annotated[int, typer.Option(min=1, help="Items of the catalog.")],
    users: Annotated[int, typer.Option(min=1, help="Users in a day.")],
    rps: Annotated[float, typer.Option(min=0.001, help="Requests/s at the peak.")],
    dimension: Annotated[int, typer.Option(min=1, help="Numbers of an item's vector.")] = 64,
    cores: Annotated[int, typer.Option(min=1, max=256, help="Cores of a replica.")] = 4,
    events_per_session: Annotated[float, typer.Option(min=1, help="Events of a session, in the mean.")] = 5,
    training_days: Annotated[int, typer.Option(min=1, help="Days of the event log that a training reads.")] = 30,
    training_events: Annotated[
        int, typer.Option(min=1, help="Events that a training reads at most, the newest.")
    ] = 20_000_000,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of a training.")] = 10,
    prices: Annotated[Path | None, typer.Option(help="A price table like the one that docs/planning.md shows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Print what a deployment takes: replicas, memory, store, event log, training and cost.

    Computed from what the benchmarks of the documentation measured, without running anything: docs/planning.md has the
    formulas, and how far they are from the measurements. `onward-service bench` measures your own bundle.
    """
    from onward.service.planning import Demand, PriceError, lines, read_prices
    from onward.service.planning import plan as plan_of

    demand = Demand(
        items=items,
        users=users,
        rate_per_s=rps,
        dimension=dimension,
        cores=cores,
        events_per_session=events_per_session,
        training_days=training_days,
        max_training_events=training_events,
        epochs=epochs,
    )
    try:
        table = read_prices(prices)
    except PriceError as error:
        refuse(f"--prices: {error}")
    computed = plan_of(demand, table)
    typer.echo(json.dumps(computed.figures()) if as_json else "\n".join(lines(computed, table.currency)))


def _write(report: "CapacityReport", out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "bench.json").write_text(json.dumps(report.figures(), indent=1) + "\n")
    except OSError as error:
        refuse(f"--out: {error.strerror}: {out}")
    try:
        from onward.service.bench.plot import draw_latencies
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        typer.echo("no latencies.png: matplotlib is not installed: pip install 'onward[bench]'", err=True)
    else:
        draw_latencies(report.capacity, out / "latencies.png")


def _require_server(redis_url: str) -> None:
    from onward.service.redis_client import Address

    try:
        Address.parse(redis_url)
    except ValueError as error:
        refuse(f"--redis-url: {error}")


def _refuse_store(error: BaseException) -> NoReturn:
    from onward.service.redis_client import StoreFault

    fault = StoreFault.of(error)
    refuse(NO_SERVER if fault is None else f"--redis-url: {fault.reason}")
