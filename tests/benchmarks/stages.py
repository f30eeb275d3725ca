"""Processor time of a request, and of its stages alone: `python -m tests.benchmarks.stages BUNDLES`.

The stages are HTTP (a bare ASGI server that answers as many bytes), the session store's call, encoding, search, and
JSON both ways; each is called alone, over and over, in the same rounds as the whole service is asked, so these are
floors. The store and the load generator run on the same cores, but none of their time is counted. Beside them: what
of a request is spent on metrics, its id and its log line, by calling the application with and without these in turn.
Prints one line of JSON.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))  # before they are imported

import asyncio
import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import typer
import uvloop
from pydantic_core import from_json, to_json

from onward.bundle import Bundle, KernelUnavailable
from onward.service import telemetry
from onward.service.app import create_app
from onward.service.bench.api import Onward
from onward.service.bench.generator import Generator
from onward.service.bench.load import ClosedLoad
from onward.service.bench.measurement import measure
from onward.service.bench.server import Server, started
from onward.service.bench.visits import Sessions, draw_sessions
from onward.service.http.fast_protocol import SHORTCUT, Shortcut
from onward.service.server.embedded_store import embedded_store
from onward.service.sessions import MAX_EVENT_AGE, EventRules, EventWeights, RedisSessionStore
from onward.service.settings import Settings
from onward.training.hardware import machine
from tests.benchmarks.bare_server import bare_server

IN_FLIGHT = 16
CALLS = 400
TURNS, CALLS_OF_A_TURN = 40, 3 * IN_FLIGHT
"""For each round, of the application with and without telemetry: short ones, since a machine's speed wanders."""
WARM_UP = 100


def us_of(call: Callable[[int], object], calls: int = CALLS) -> float:
    """Processor time of this thread for a call, in microseconds."""
    started = time.thread_time()
    for number in range(calls):
        call(number)
    return 1e6 * (time.thread_time() - started) / calls


class Alone:
    """The stages of a request, each by itself, with the sessions of the load."""

    def __init__(self, bundle: Bundle, sessions: Sessions, answer: bytes) -> None:
        rows = [[row for item in session if (row := bundle.catalog.row(item))] for session in sessions]
        self._prefixes = [session[: end + 1] for session in rows for end in range(len(session))][:CALLS]
        self._interests = [bundle.encoder.encode(prefix) for prefix in self._prefixes]
        self._bundle = bundle
        self._answer = from_json(answer)
        self._query = json.dumps({"session_id": "1-1", "items": [sessions[0][0]], "k": 20})

    def figures(self) -> dict[str, float]:
        """Microseconds of each."""
        count = len(self._prefixes)
        encode, search = self._bundle.encoder.encode, self._bundle.index.search
        return {
            "encode": us_of(lambda number: encode(self._prefixes[number % count])),
            "search": us_of(lambda number: search(self._interests[number % count], 20)),
            "json": us_of(lambda _: (from_json(self._query), to_json(self._answer))),
        }


async def store_us(url: str, sessions: Sessions, seed: int, in_flight: int) -> float:
    """Processor time of this process for a call of the session store that appends an item, `in_flight` at once."""
    store = RedisSessionStore.connect(url, length=50, ttl=timedelta(minutes=1), timeout=timedelta(seconds=5))
    rules = EventRules(EventWeights(), MAX_EVENT_AGE)
    now = datetime.now(UTC)

    async def visit(first: int) -> None:
        for number in range(first, CALLS, in_flight):
            session = sessions[number % len(sessions)]
            for item in session[:5]:
                await store.append(f"alone-{seed}-{number}", [rules.event(item, "view", None, None, now)])

    await store.append("warm", [])
    calls = sum(len(sessions[number % len(sessions)][:5]) for number in range(CALLS))
    started = time.thread_time()
    await asyncio.gather(*(visit(first) for first in range(in_flight)))
    spent = time.thread_time() - started
    await store.close()
    return 1e6 * spent / calls


class Called:
    """The application, called without a server, by its shortcut."""

    def __init__(self, state: dict[str, Any], sessions: Sessions) -> None:
        self._shortcut: Shortcut = state[SHORTCUT]
        self._state = state
        self._bodies = [
            Onward().request(f"called-{number}", session[0]).partition(b"\r\n\r\n")[2]
            for number, session in enumerate(sessions)
        ]
        self._asked = 0
        self.status, self.answer = 0, b""

    async def ask(self) -> None:
        body = self._bodies[self._asked % len(self._bodies)]
        self._asked += 1
        length = (b"content-length", str(len(body)).encode())
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/recommendations",
            "raw_path": b"/v1/recommendations",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), length],
            "client": ("127.0.0.1", 1),
            "state": dict(self._state),
        }
        response = await self._shortcut.answer(scope, body)
        self.status, self.answer = response.status_code, bytes(response.body)

    async def us(self) -> float:
        """Processor time of an answer among others in flight, in microseconds."""
        started = time.thread_time()
        for _ in range(CALLS_OF_A_TURN // IN_FLIGHT):
            await asyncio.gather(*(self.ask() for _ in range(IN_FLIGHT)))
        return 1e6 * (time.thread_time() - started) / CALLS_OF_A_TURN


@contextmanager
def untold() -> Iterator[None]:
    """Answer without metrics, request ids of one's own and log lines."""
    with (
        patch.object(telemetry, "answered", _ignored),
        patch.object(telemetry, "retrieved", _ignored),
        patch.object(telemetry, "store_answered", _ignored),
        patch("onward.service.http.middleware._accepted_request_id", lambda scope: "untold"),
    ):
        yield


def _ignored(*_: object) -> None:
    pass


async def called(bundles: Path, url: str, sessions: Sessions, rounds: int) -> tuple[bytes, list[float], list[float]]:
    """An answer, and microseconds of answers with and without telemetry, taken in turn."""
    app = create_app(Settings(bundles=bundles, redis_url=url, log_level="info"))  # type: ignore[arg-type]  # read as a secret
    async with app.router.lifespan_context(app) as state:
        asked = Called(dict(state or {}), sessions)
        while asked.status != HTTPStatus.OK:  # until the bundle is live
            await asked.ask()
            await asyncio.sleep(0.05)
        for _ in range(WARM_UP):
            await asked.ask()
        gc.collect()
        gc.freeze()
        told: list[float] = []
        silent: list[float] = []
        for turn in range(TURNS * rounds):
            for is_told in (turn % 2 == 0, turn % 2 == 1):
                with nullcontext() if is_told else untold():
                    (told if is_told else silent).append(await asked.us())
        return asked.answer, told, silent


def cpu_us(
    generator: Generator, server: Server, sessions: Sessions, connections: int, seconds: float, seed: int
) -> float:
    """Processor time of a server for a request, the store apart, in microseconds."""
    outcome, cost = measure(generator, server, ClosedLoad(server.url, Onward(), sessions, connections, seconds, seed))
    if cost.cpu_us_per_request is None:
        raise SystemExit("processor times are read from /proc, which is not here")
    if outcome.errors:
        raise SystemExit(f"failed answers: {dict(outcome.errors)}")
    return cost.cpu_us_per_request


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles.")],
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each load.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Print the processor time of a request by stage, and of each stage alone."""
    telemetry.configure_logging("warning")
    bundle = Bundle.load(bundles / "current")
    with suppress(KernelUnavailable):
        bundle.accelerate(bundles / "current")
    sessions = draw_sessions(bundle)
    with embedded_store() as url:
        if url is None:
            raise SystemExit("needs a session store: valkey-server, redis-server or the extra `embedded`")
        answer, told, silent = uvloop.run(called(bundles, url, sessions, rounds))
        alone = Alone(bundle, sessions, answer)
        whole: dict[int, list[float]] = {1: [], IN_FLIGHT: []}
        http: dict[int, list[float]] = {1: [], IN_FLIGHT: []}
        store: dict[int, list[float]] = {1: [], IN_FLIGHT: []}
        stages: list[dict[str, float]] = []
        with (
            started(bundles) as service,
            bare_server(len(answer)) as bare,
            Generator() as generator,
        ):
            for server in (service, bare):
                cpu_us(generator, server, sessions, IN_FLIGHT, 1, seed=0)
            for number in range(1, rounds + 1):
                stages.append(alone.figures())
                for connections in whole:
                    seed = 10 * number + connections
                    whole[connections].append(cpu_us(generator, service, sessions, connections, seconds, seed))
                    http[connections].append(cpu_us(generator, bare, sessions, connections, seconds, seed))
                    store[connections].append(uvloop.run(store_us(url, sessions, seed, connections)))
    typer.echo(
        json.dumps(
            {
                "benchmark": "stages",
                **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn", "numba"),
                "model": bundle.manifest.model,
                "engine": bundle.encoder.engine,
                "items": bundle.manifest.items,
                "index": bundle.manifest.index.model_dump(),
                "connections": {
                    connections: _by_stage(whole[connections], http[connections], store[connections], stages)
                    for connections in whole
                },
                "telemetry": _share(told, silent, whole[IN_FLIGHT]),
            }
        )
    )


def _by_stage(
    whole: Sequence[float], http: Sequence[float], store: Sequence[float], others: Sequence[dict[str, float]]
) -> dict[str, Any]:
    floors = [{"http": h, "store": s, **o} for h, s, o in zip(http, store, others, strict=True)]
    ratios = [one / sum(floor.values()) for one, floor in zip(whole, floors, strict=True)]
    return {
        "cpu_us_per_request": round(median(whole), 1),
        "floors_us": {name: round(median(floor[name] for floor in floors), 1) for name in floors[0]},
        "sum_of_floors_us": round(median(sum(floor.values()) for floor in floors), 1),
        "ratio": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _share(told: Sequence[float], silent: Sequence[float], whole: Sequence[float]) -> dict[str, float]:
    spent = median(one - other for one, other in zip(told, silent, strict=True))
    return {"us_per_request": round(spent, 1), "share_of_request": round(spent / median(whole), 4)}


if __name__ == "__main__":
    typer.run(main)
