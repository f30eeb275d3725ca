"""Run the service: find a session store, start the workers, and leave nothing behind."""

import os
import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from types import FrameType

import uvicorn
from pydantic import SecretStr
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from onward.service import telemetry
from onward.service.http.fast_protocol import FastProtocol
from onward.service.server.embedded_store import private_store
from onward.service.server.reuse_port import SPREADS, SharedAddress
from onward.service.settings import IN_MEMORY, Settings


class CannotServe(Exception):
    """Settings that do not go together: one line that says what to change."""


def serve(settings: Settings) -> None:
    """Serve until a signal says otherwise; what is in flight by then is answered. Raises CannotServe."""
    signal.signal(signal.SIGTERM, _stop)
    telemetry.configure_logging(settings.log_level)
    with ExitStack() as running:
        url = settings.redis_url.get_secret_value() if settings.redis_url else running.enter_context(private_store())
        if (url or IN_MEMORY) == IN_MEMORY and settings.workers > 1:
            raise CannotServe("several workers cannot share sessions in memory: set REDIS_URL, or --workers 1")
        if settings.workers > 1:
            os.environ[telemetry.MULTIPROCESS_FOLDER] = running.enter_context(
                tempfile.TemporaryDirectory(prefix="onward-metrics-")
            )
        os.environ.update(settings.model_copy(update={"redis_url": SecretStr(url or IN_MEMORY)}).environment())
        config = uvicorn.Config(
            "onward.service.app:create_app_from_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=settings.rate_limit is not None,  # a caller's address counts for nothing else
            lifespan="on",
            http=FastProtocol,
            timeout_graceful_shutdown=int(settings.shutdown_timeout.total_seconds()),
        )
        _run(config)


def _run(config: uvicorn.Config) -> None:
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        if config.workers == 1:
            server.run()
        else:
            bound = config.bind_socket()
            Multiprocess(config, sockets=[SharedAddress.of(bound) if SPREADS else bound]).run()
    if config.workers == 1 and not server.started:
        sys.exit(STARTUP_FAILURE)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """End in order: before the server runs at once, after it once it has drained, since it repeats the signal then."""
    sys.exit(0)
