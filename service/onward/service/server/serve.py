"""Run the service: find or start a session store, start the workers, and clean up at the end."""

import ipaddress
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

import uvicorn
from pydantic import SecretStr
from uvicorn.config import STARTUP_FAILURE

from onward.bundle.mirror import Mirror, MirrorError
from onward.bundle.storage import Address, ObjectStore, StorageError
from onward.service import telemetry
from onward.service.http.connection import Connection
from onward.service.http.tracing import require_traceable
from onward.service.keys import key_ring
from onward.service.live.private_copies import COPIES_FOLDER, copies_folder
from onward.service.records.audit_log import AuditLog
from onward.service.records.event_log import log_folder, require_writable
from onward.service.server.draining import DRAIN, DrainingServer, DrainingWorkers, Stop
from onward.service.server.embedded_store import embedded_store
from onward.service.server.puller import pulling
from onward.service.server.reuse_port import KERNEL_BALANCES, ReusePortSocket, claimed
from onward.service.settings import IN_MEMORY, Settings
from onward.service.temporary_folder import remove_abandoned, temporary_folder

PULLED_PREFIX = "onward-pulled-"
METRICS_PREFIX = "onward-counts-"
"""Begins the name of the folder of the workers' metrics. Other than of earlier versions, which did not lock theirs."""
WORKER_START_TIMEOUT_S = 60
"""Time after which a worker that does not answer its supervisor is replaced. On a busy machine the imports of one that
starts take many seconds; uvicorn's own 5 s would end it again and again."""


class CannotServe(Exception):
    """The settings contradict each other; the message says in one line what to change."""


def serve(settings: Settings, *, ignored: Sequence[str] = ()) -> None:
    """Serve until a signal stops the service; requests in flight are answered first.

    Raises CannotServe, KeysFileError, AuditLogError, EventLogError, TracingError.

    `ignored`: environment variables that look like settings and belong to other programs.
    """
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(DRAIN, signal.SIG_IGN)  # until the application of a worker can handle it
    telemetry.configure_logging(settings.log_level)
    if ignored:
        telemetry.variables_ignored(ignored)
    keys = key_ring(settings.api_keys, settings.keys_file)
    if keys is None and _is_reachable(settings):
        telemetry.open_to_all(settings.host)
    AuditLog(settings.audit_log)  # raises if it cannot be written to
    require_traceable()
    if isinstance(settings.event_log, Address):
        _require_storage("SERVICE_EVENT_LOG", settings.event_log)
    if settings.event_log_folder is not None:
        for tenant in (None, *sorted(keys.tenants if keys is not None else ())):
            require_writable(log_folder(settings.event_log_folder, tenant))
    with ExitStack() as stack:
        if settings.uds is not None:
            _free_socket(settings.uds)
            stack.callback(settings.uds.unlink, missing_ok=True)
        url = settings.redis_url.get_secret_value() if settings.redis_url else stack.enter_context(embedded_store())
        if (url or IN_MEMORY) == IN_MEMORY and settings.workers > 1:
            raise CannotServe("several workers cannot share sessions in memory: set REDIS_URL, or --workers 1")
        remove_abandoned(METRICS_PREFIX)
        if settings.workers > 1:
            os.environ[telemetry.MULTIPROCESS_FOLDER] = str(stack.enter_context(temporary_folder(METRICS_PREFIX)))
        os.environ.pop(COPIES_FOLDER, None)
        if isinstance(settings.bundles, Address):
            settings = _pulled(settings, settings.bundles, stack)
        if (copies := stack.enter_context(copies_folder(copying=settings.copy_bundles))) is not None:
            os.environ[COPIES_FOLDER] = str(copies)
        _raise_descriptor_limit()
        os.environ.update(settings.model_copy(update={"redis_url": SecretStr(url or IN_MEMORY)}).environment())
        config = uvicorn.Config(
            "onward.service.app:create_app_from_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            uds=None if settings.uds is None else str(settings.uds),
            root_path=settings.root_path,
            workers=settings.workers,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the dispatcher reads them
            lifespan="on",
            http=Connection,
            ws="none",
            timeout_worker_healthcheck=WORKER_START_TIMEOUT_S,
            timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout.total_seconds()),
        )
        _run(config, Stop(settings.drain_delay))


def _pulled(settings: Settings, address: Address, stack: ExitStack) -> Settings:
    """Pull the bundles of an address into a folder until `stack` is closed; return settings that name the folder.

    Nobody else changes files there, so that no copies are needed. Raises CannotServe.
    """
    _require_storage("SERVICE_BUNDLES", address)
    try:
        folder = settings.pull_into or stack.enter_context(temporary_folder(PULLED_PREFIX))
        stack.enter_context(pulling(Mirror(address, folder), settings.reload_interval))
    except MirrorError as error:
        raise CannotServe(f"SERVICE_PULL_INTO: {error}") from error
    return settings.model_copy(update={"bundles": folder, "copy_bundles": False})


def _require_storage(variable: str, address: Address) -> None:
    """Raise CannotServe if addresses cannot be used, as without the extra; whether it answers is another question."""
    try:
        ObjectStore(address)
    except StorageError as error:
        raise CannotServe(f"{variable}: {error}") from error


def _is_reachable(settings: Settings) -> bool:
    """Return whether other machines can connect."""
    if settings.uds is not None or settings.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(settings.host).is_loopback
    except ValueError:  # a host name
        return True


def _free_socket(path: Path) -> None:
    """Remove a unix socket that an earlier service left behind. Raises CannotServe if another one listens there."""
    if not path.is_socket():
        if path.exists():
            raise CannotServe(f"SERVICE_UDS: not a socket: {path}")
        return
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)  # one that listens may have no room for another connection
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise CannotServe(f"SERVICE_UDS: {error.strerror or error}: {path}") from error
    raise CannotServe(f"SERVICE_UDS: another service listens there: {path}")


def _raise_descriptor_limit() -> None:
    """Allow this process and its workers as many open files as the system lets them have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS refuses an infinite limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run(config: uvicorn.Config, stop: Stop) -> None:
    if config.workers > 1:
        with suppress(KeyboardInterrupt):
            _run_workers(config, stop)
        return
    server = DrainingServer(config, stop)
    with suppress(KeyboardInterrupt):
        # uvicorn's own socket for an IPv6 address would not accept IPv4, unlike that for several workers.
        server.run(sockets=[config.bind_socket()] if ":" in config.host else None)
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _run_workers(config: uvicorn.Config, stop: Stop) -> None:
    bound = config.bind_socket()
    if config.uds is not None or not KERNEL_BALANCES:
        DrainingWorkers(config, [bound], stop).run()
        return
    with ReusePortSocket.of(bound) as address, claimed(address.getsockname()) as is_ours:
        if not is_ours:
            raise CannotServe(f"another service with several workers has port {address.getsockname()[1]}")
        DrainingWorkers(config, [address], stop).run()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Exit normally on SIGTERM. While uvicorn serves, it handles the signal first, drains, and then raises it again."""
    sys.exit(0)
