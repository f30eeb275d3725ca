"""The section on the cost of a call to Redis."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from tests.benchmarks.report.markdown import figure, table
from tests.benchmarks.report.record import Record, RecordPart, check_columns
from tests.benchmarks.report.section import Section


class Call(RecordPart):
    """Processor time per call, of the client and of Redis."""

    client_us: float
    server_us: float
    calls_per_s: float


Ways = Mapping[str, Mapping[str, Call]]
"""Figures by the way to call and by calls in flight."""


class RedisCalls(Record):
    """A record of the cost of calls to Redis."""

    benchmark: Literal["redis_calls"]
    calls: int
    rounds: int
    tcp: Ways
    unix_socket: Ways = Field(alias="unix socket")

    @model_validator(mode="after")
    def _measured_alike(self) -> Self:
        check_columns(self.tcp.values())
        check_columns(self.unix_socket.values())
        return self


def _tables(record: RedisCalls) -> str:
    transports = {"TCP": record.tcp, "Unix socket": record.unix_socket}
    return "\n\n".join(f"{name}:\n\n{_table(ways)}" for name, ways in transports.items())


def _table(ways: Ways) -> str:
    loads = list(next(iter(ways.values())))
    head = [f"{load}: {what}" for load in loads for what in ("client, µs", "server, µs", "calls/s")]
    rows = [
        [name, *(figure(value) for load in loads for value in _figures(calls[load]))] for name, calls in ways.items()
    ]
    return table(["", *head], rows)


def _figures(call: Call) -> tuple[float, float, float]:
    return call.client_us, call.server_us, call.calls_per_s


REDIS_CALLS = Section(
    title="Calls to Redis",
    introduction=(
        "A call appends an item to a session and reads it: with redis-py in several ways, over the connection that "
        "all requests of a worker share, and through the session store, which stores more than the item. Processor "
        "time per call; calls/s are less reliable where cores are shared."
    ),
    kind=RedisCalls,
    usage="python -m tests.benchmarks.redis_calls",
    label=lambda record: f"{record.calls:,} calls per round",
    command=lambda record: f"python -m tests.benchmarks.redis_calls --calls {record.calls} --rounds {record.rounds}",
    tables=_tables,
)
