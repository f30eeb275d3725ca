"""`onward-service`: run the service, and look at what it needs."""

import secrets
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def _about() -> None:
    """Serve next-item recommendations from a folder of bundles."""


@cli.command(
    epilog="Example: onward-service serve --bundles ./bundles --port 8000 --workers 2",
)
def serve(
    bundles: Annotated[
        Path | None, typer.Option(help="Folder of bundles; its `current` link is the one served.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [default: 8000]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes, one for each core.  [default: 1]")] = None,
) -> None:
    """Answer requests until stopped.

    Every option is also a SERVICE_* variable (SERVICE_BUNDLES, SERVICE_HOST, ...); an option goes before its variable.
    More of them: SERVICE_SESSION_TTL (PT30M), SERVICE_SESSION_LENGTH (50), SERVICE_STORE_TIMEOUT (0.1 seconds),
    SERVICE_RELOAD_INTERVAL (1), SERVICE_SHUTDOWN_TIMEOUT (30), SERVICE_LOG_LEVEL (info).

    What is made of events, and kept: SERVICE_EVENT_WEIGHTS, as in share=2,skip=-1; SERVICE_MAX_EVENT_AGE (a day);
    SERVICE_POPULARITY_HALF_LIFE (3 days); SERVICE_ANSWER_TTL for next pages and explanations (PT30M, 0 for none);
    SERVICE_EVENT_LOG, a folder for events and answers that `onward-training prepare` reads (none).

    Who is let in: SERVICE_API_KEYS, digests of keys with commas between, as `onward-service key` makes them (empty:
    everyone); SERVICE_RATE_LIMIT, as in 100/second, of each key or else client address, in each worker (none);
    SERVICE_MAX_IN_FLIGHT requests at once in each worker (256); SERVICE_BODY_TIMEOUT for a body to arrive (10).

    REDIS_URL names the session store. Without it the service starts a private valkey-server or redis-server from
    PATH, or the one of the extra `embedded`; where there is none, sessions are kept in memory, by one worker only.
    """
    from pydantic import ValidationError

    from service.serve import CannotServe
    from service.serve import serve as run
    from service.settings import Settings, describe

    given: dict[str, Any] = {"bundles": bundles, "host": host, "port": port, "workers": workers}
    try:
        run(Settings(**{name: value for name, value in given.items() if value is not None}))
    except ValidationError as error:
        _refuse(describe(error))
    except CannotServe as error:
        _refuse(str(error))


@cli.command(epilog="Example: onward-service key")
def key() -> None:
    """Print a new random key for callers, and its digest for SERVICE_API_KEYS. The key is stored nowhere."""
    secret = secrets.token_urlsafe(32)
    typer.echo(f"key     {secret}\ndigest  {sha256(secret.encode()).hexdigest()}")


@cli.command(epilog="Example: onward-service examples --bundles ./bundles --url http://127.0.0.1:8000")
def examples(
    bundles: Annotated[Path, typer.Option(help="Folder of bundles.")],
    url: Annotated[str, typer.Option(help="Where the service answers.")] = "http://127.0.0.1:8000",
) -> None:
    """Print curl calls to try on the service, with items that the current bundle knows."""
    from service.bundle import BundleError
    from service.examples import curl_examples

    try:
        for what, call in curl_examples(bundles, url):
            typer.echo(f"# {what}\n{call}")
    except BundleError as error:
        _refuse(f"{bundles}: {error}")
    typer.echo(f"# The whole interface: {url}/docs")


@cli.command(epilog="Example: onward-service changes --redis-url redis://127.0.0.1 > changes.jsonl")
def changes(
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="The server that the service keeps its live catalog at.")
    ],
) -> None:
    """Print all changes of the live catalog, one a line, for `onward-training rebuild --changes`."""
    import asyncio

    from service.errors import LiveStoreUnavailable
    from service.live_catalog import change_lines
    from service.settings import STORE_SCHEMES

    if not redis_url.startswith(STORE_SCHEMES[:-1]):
        _refuse(f"--redis-url: begins with one of {', '.join(STORE_SCHEMES[:-1])}")
    try:
        for line in asyncio.run(change_lines(redis_url)):
            typer.echo(line)
    except (LiveStoreUnavailable, ValueError):
        _refuse("--redis-url: no Redis or Valkey answers there")


def _refuse(reason: str) -> None:
    typer.echo(f"error: {reason}", err=True)
    raise typer.Exit(2)
