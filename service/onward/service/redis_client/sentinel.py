"""Sentinels: find the master that Sentinels name, and leave a server that is the master no longer.

Sentinel makes the old master of a planned failover a replica only some ten seconds after it has promoted the new one,
and announces the switch up to a second after the promotion. What is written to the old one meanwhile is lost. So
nothing is written from the promotion to the announcement, and connections move to the new master with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from onward.service import telemetry
from onward.service.redis_client.circuit import CircuitBreaker
from onward.service.redis_client.connection import ReconnectingConnection, open_connection

PROMOTION, SWITCH = "+failover-state-send-slaveof-noone", "+switch-master"
"""Announcements: a replica is about to be promoted; the master is another server."""
HOLD_S = 3.0
"""How long the announcement of a switch is awaited after that of a promotion, which may fail."""
PATIENCE_S = 0.05
"""How long the other Sentinels may take to answer after the first one has."""
CHECK_INTERVAL_S = 1.0
"""Time between two checks that a server is the master, and that a Sentinel still answers."""
RETRY_S = 2.0
"""Time until a Sentinel that could not be followed is tried again."""
MASTER = b"master"

HostPort = tuple[str, int]


class _Answer(NamedTuple):
    """What a Sentinel knows; of several, the one with the highest epoch is the latest."""

    config_epoch: int
    master: HostPort


class Sentinels:
    """Opens connections to the master of one name, and drops them once it is another server.

    It follows all Sentinels, since each announces a switch when it learns of it, and asks a server for its role when it
    is connected to, and every second.
    """

    def __init__(
        self,
        hosts: Sequence[HostPort],
        service: str,
        circuit: CircuitBreaker,
        *,
        connection_options: Mapping[str, Any],
        sentinel_options: Mapping[str, Any],
        is_encrypted: bool,
    ) -> None:
        """Take the Sentinels, the name and circuit breaker of the master, and the options of connections to both."""
        self._service = service
        self._circuit = circuit
        self._connection_options = connection_options
        self._connection_class = SSLConnection if is_encrypted else Connection
        self._sentinels = [Redis(host=host, port=port, ssl=is_encrypted, **sentinel_options) for host, port in hosts]
        self._connections: dict[ReconnectingConnection, float] = {}
        """Those that are watched, and the time limit of their calls in seconds."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._switches = 0
        self._announced: HostPort | None = None

    def watch(self, connection: ReconnectingConnection, timeout_s: float) -> None:
        """Drop this connection, which `open` opens, whenever it does not lead to the master.

        `timeout_s`: the time limit of its calls; no other may be used, since calls behind one with a later deadline
        would be overdue as late.
        """
        self._connections[connection] = timeout_s

    async def open(self) -> AbstractConnection:
        """Open a connection to the master. Raises RedisError and OSError."""
        self._start()
        switches = self._switches
        host, port = await self._master()
        connection = await open_connection(self._connection_class(host=host, port=port, **self._connection_options))
        try:
            await connection.send_command("HELLO")  # not ROLE: every account may call it
            _require_master(await connection.read_response())
            if self._switches != switches:
                raise RedisConnectionError("Another server became the master meanwhile.")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def aclose(self) -> None:
        """Stop following the Sentinels, and close the connections to them."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for sentinel in self._sentinels:
            await sentinel.aclose()

    def _start(self) -> None:
        if not self._tasks:
            work = [*(self._follow(sentinel) for sentinel in self._sentinels), self._check_roles()]
            self._tasks = {asyncio.create_task(coroutine) for coroutine in work}

    async def _master(self) -> HostPort:
        """Ask all Sentinels at once for the master. Raises RedisError or OSError if none names one."""
        loop = asyncio.get_running_loop()
        pending = {loop.create_task(self._ask(sentinel)) for sentinel in self._sentinels}
        answers: list[_Answer] = []
        failure: BaseException = RedisConnectionError("No Sentinel answered.")
        timeout_s = None
        try:
            while pending:
                done, pending = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    if (error := task.exception()) is None:
                        answers.append(task.result())
                        timeout_s = PATIENCE_S
                    else:
                        failure = error
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if not answers:
            raise failure
        return max(answers).master

    async def _ask(self, sentinel: "Redis") -> _Answer:
        """Ask one Sentinel. During a failover it names the new master as soon as that is promoted."""
        ask = cast("Callable[..., Awaitable[Any]]", sentinel.execute_command)  # redis-py has no types for it
        state = await ask("SENTINEL MASTER", self._service)
        host, port = await ask("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
        return _Answer(int(state["config-epoch"]), (_text(host), int(port)))

    async def _follow(self, sentinel: "Redis") -> None:
        """Drop connections to a former master whenever a Sentinel announces a switch; reconnect to it for ever."""
        while True:
            connection: AbstractConnection = sentinel.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await open_connection(connection)
                await connection.send_command("SUBSCRIBE", PROMOTION, SWITCH)
                await self._read_switches(connection)
            except Exception:  # noqa: S110  # the Sentinel is gone, or does not speak the protocol: the others are followed
                pass
            finally:
                await connection.disconnect(nowait=True)
            await asyncio.sleep(RETRY_S)

    async def _read_switches(self, connection: AbstractConnection) -> None:
        """Read announcements. Raises RedisError and OSError once the Sentinel does not answer any more."""
        is_asked = False
        while True:
            reply = await connection.read_response(timeout=CHECK_INTERVAL_S)
            if reply is not None:
                is_asked = False
                await self._take_in(reply)
            elif is_asked:
                raise RedisConnectionError("The Sentinel does not answer.")
            else:
                await connection.send_command("PING")
                is_asked = True

    async def _take_in(self, message: Sequence[Any]) -> None:
        """Act on a message of a Sentinel's connection."""
        kind, *content = message
        if kind == b"subscribe":  # a switch may have been missed until now
            self._leave_all_but(await self._master())
        elif kind == b"message":
            channel, words = _text(content[0]), _text(content[1]).split(" ")
            if channel == SWITCH and words[0] == self._service:
                self._switch_to((words[-2], int(words[-1])))
            elif channel == PROMOTION and words[-3] == self._service:
                self._switches += 1
                self._announced = None
                self._circuit.hold(HOLD_S)
                self._drop(lambda _: True, "Another server is becoming the master.")

    def _switch_to(self, master: HostPort) -> None:
        """Take in the announcement of a switch, which each Sentinel makes."""
        self._leave_all_but(master)
        if master != self._announced:
            self._switches += 1
            self._announced = master
            self._circuit.succeeded()

    def _leave_all_but(self, master: HostPort) -> None:
        self._drop(lambda connection: connection.address != master, f"The master is {master[0]}:{master[1]} now.")

    async def _check_roles(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            for connection, timeout_s in list(self._connections.items()):
                if connection.is_open:
                    with suppress(RedisError, OSError):  # a lost connection is reported to those who use it
                        await self._check_role(connection, timeout_s)

    async def _check_role(self, connection: ReconnectingConnection, timeout_s: float) -> None:
        (reply,) = await connection.execute([("HELLO",)], asyncio.get_running_loop().time() + timeout_s)
        try:
            _require_master(reply)
        except RedisConnectionError as error:
            self._drop(lambda other: other is connection, str(error))

    def _drop(self, is_former: Callable[[ReconnectingConnection], bool], reason: str) -> None:
        former = [connection for connection in self._connections if connection.is_open and is_former(connection)]
        for connection in former:
            connection.drop(reason)
        if former:
            telemetry.master_left(reason)


def _require_master(reply: Any) -> None:
    """Check the reply to HELLO. Raises RedisError."""
    if isinstance(reply, RedisError):
        raise reply
    if dict(zip(reply[::2], reply[1::2], strict=True)).get(b"role") != MASTER:
        raise RedisConnectionError("The server is not a master.")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
