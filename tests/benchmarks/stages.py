"""Processor time of a request, and of each of its stages alone: `python -m tests.benchmarks.stages BUNDLES`.

The stages are HTTP (a bare ASGI server whose responses have the same size), the call of the session store, encoding,
search, and JSON parsing and serialization. Each is called in a loop by itself, in the same rounds as the complete
service is measured, so their sum is a lower bound ("floors"). The store and the load generator share the cores, but
their time is not counted. Also measured: the share of metrics, request id and log line, by calling the application
with and without them in turn. Prints one line of JSON.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))  # before they are imported

import asyncio
import gc
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
import uvloop
from pydantic_core import from_json, to_json

from onward.bundle import Bundle, KernelUnavailable
from onward.service import telemetry
from onward.service.app import create_app
from onward.service.bench.load_generator.api import Onward
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.loads import ClosedLoad
from onward.service.bench.load_generator.workload import Sessions, draw_sessions
from onward.service.bench.measurement import measure
from onward.service.bench.server import Server, started
from onward.service.http.connection import HTTP_SERVER, Responder
from onward.service.server.embedded_store import embedded_store
from onward.service.sessions import MAX_EVENT_AGE, EventRules, EventWeights, RedisSessionStore
from onward.service.settings import Settings
from onward.training.hardware import machine
from tests.benchmarks.bare_server import bare_server
from tests.benchmarks.service_patches import without_telemetry

IN_FLIGHT = 16
CALLS = 400
TURNS, CALLS_PER_TURN = 40, 3 * IN_FLIGHT
"""For each round, with and without telemetry: short turns, since the speed of a machine drifts."""
WARM_UP = 100


def us_of(call: Callable[[int], object], calls: int = CALLS) -> float:
    """Return the processor time of this thread per call, in microseconds."""
    started = time.thread_time()
    for number in range(calls):
        call(number)
    return 1e6 * (time.thread_time() - started) / calls


class IsolatedStages:
    """Calls encoding, search and JSON alone, with the sessions of the load."""

    def __init__(self, bundle: Bundle, sessions: Sessions, answer: bytes) -> None:
        rows = [[row for item in session if (row := bundle.catalog.row(item))] for session in sessions]
        self._prefixes = [session[: end + 1] for session in rows for end in range(len(session))][:CALLS]
        self._interests = [bundle.encoder.encode(prefix) for prefix in self._prefixes]
        self._bundle = bundle
        self._answer = from_json(answer)
        self._query = json.dumps({"session_id": "1-1", "items": [sessions[0][0]], "k": 20})

    def figures(self) -> dict[str, float]:
        """Measure each stage, in microseconds per call."""
        count = len(self._prefixes)
        encode, search = self._bundle.encoder.encode, self._bundle.index.search
        return {
            "encode": us_of(lambda number: encode(self._prefixes[number % count])),
            "search": us_of(lambda number: search(self._interests[number % count], 20)),
            "json": us_of(lambda _: (from_json(self._query), to_json(self._answer))),
        }


async def store_us(url: str, sessions: Sessions, seed: int, in_flight: int) -> float:
    """Return this process's processor time per call of the session store that appends an item, `in_flight` at once."""
    store = RedisSessionStore.connect(url, length=50, ttl=timedelta(minutes=1), timeout=timedelta(seconds=5))
    rules = EventRules(EventWeights(), MAX_EVENT_AGE)
    now = datetime.now(UTC)

    async def append_sessions(first: int) -> None:
        for number in range(first, CALLS, in_flight):
            session = sessions[number % len(sessions)]
            for item in session[:5]:
                await store.append(f"alone-{seed}-{number}", [rules.event(item, "view", None, None, now)])

    await store.append("warm", [])
    calls = sum(len(sessions[number % len(sessions)][:5]) for number in range(CALLS))
    started = time.thread_time()
    await asyncio.gather(*(append_sessions(first) for first in range(in_flight)))
    spent = time.thread_time() - started
    await store.close()
    return 1e6 * spent / calls


class InProcessClient:
    """Calls the application without a server, through its dispatcher."""

    def __init__(self, state: dict[str, Any], sessions: Sessions) -> None:
        self._responder: Responder = state[HTTP_SERVER].responder
        self._state = state
        self._bodies = [
            Onward().request(f"in-process-{number}", session[0]).partition(b"\r\n\r\n")[2]
            for number, session in enumerate(sessions)
        ]
        self._calls = 0
        self.status, self.answer = 0, b""

    async def call(self) -> None:
        """Request recommendations for the next session and keep the response."""
        body = self._bodies[self._calls % len(self._bodies)]
        self._calls += 1
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
        response = await self._responder.respond(scope, body)
        self.status, self.answer = response.status_code, bytes(response.body)

    async def us(self) -> float:
        """Return the processor time per request with `IN_FLIGHT` at once, in microseconds."""
        started = time.thread_time()
        for _ in range(CALLS_PER_TURN // IN_FLIGHT):
            await asyncio.gather(*(self.call() for _ in range(IN_FLIGHT)))
        return 1e6 * (time.thread_time() - started) / CALLS_PER_TURN


async def compare_telemetry(
    bundles: Path, url: str, sessions: Sessions, rounds: int
) -> tuple[bytes, list[float], list[float]]:
    """Return an answer, and microseconds per request with and without telemetry, measured in turn."""
    app = create_app(Settings(bundles=bundles, redis_url=url, log_level="info"))  # type: ignore[arg-type]  # read as a secret
    async with app.router.lifespan_context(app) as state:
        client = InProcessClient(dict(state or {}), sessions)
        while client.status != HTTPStatus.OK:  # until the bundle is live
            await client.call()
            await asyncio.sleep(0.05)
        for _ in range(WARM_UP):
            await client.call()
        gc.collect()
        gc.freeze()
        with_it: list[float] = []
        without_it: list[float] = []
        for turn in range(TURNS * rounds):
            for has_telemetry in (turn % 2 == 0, turn % 2 == 1):
                with nullcontext() if has_telemetry else without_telemetry():
                    (with_it if has_telemetry else without_it).append(await client.us())
        return client.answer, with_it, without_it


def cpu_us(
    generator: LoadGenerator, server: Server, sessions: Sessions, connections: int, seconds: float, seed: int
) -> float:
    """Return a server's processor time per request without the store's, in microseconds."""
    result, cost = measure(generator, server, ClosedLoad(server.url, Onward(), sessions, connections, seconds, seed))
    if cost.cpu_us_per_request is None:
        raise SystemExit("processor times are read from /proc, which this system does not have")
    if result.errors:
        raise SystemExit(f"failed requests: {dict(result.errors)}")
    return cost.cpu_us_per_request


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles.")],
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each load.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Print the processor time of a request, and of each stage alone."""
    telemetry.configure_logging("warning")
    bundle = Bundle.load(bundles / "current")
    with suppress(KernelUnavailable):
        bundle.accelerate(bundles / "current")
    sessions = draw_sessions(bundle)
    with embedded_store() as url:
        if url is None:
            raise SystemExit("needs a session store: valkey-server, redis-server or the extra `embedded`")
        answer, with_it, without_it = uvloop.run(compare_telemetry(bundles, url, sessions, rounds))
        isolated = IsolatedStages(bundle, sessions, answer)
        service_us: dict[int, list[float]] = {1: [], IN_FLIGHT: []}
        http_us: dict[int, list[float]] = {1: [], IN_FLIGHT: []}
        store_call_us: dict[int, list[float]] = {1: [], IN_FLIGHT: []}
        stages: list[dict[str, float]] = []
        with (
            started(bundles) as service,
            bare_server(len(answer)) as bare,
            LoadGenerator() as generator,
        ):
            for server in (service, bare):
                cpu_us(generator, server, sessions, IN_FLIGHT, 1, seed=0)
            for number in range(1, rounds + 1):
                stages.append(isolated.figures())
                for connections in service_us:
                    seed = 10 * number + connections
                    service_us[connections].append(cpu_us(generator, service, sessions, connections, seconds, seed))
                    http_us[connections].append(cpu_us(generator, bare, sessions, connections, seconds, seed))
                    store_call_us[connections].append(uvloop.run(store_us(url, sessions, seed, connections)))
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
                    connections: _by_stage(
                        service_us[connections], http_us[connections], store_call_us[connections], stages
                    )
                    for connections in service_us
                },
                "telemetry": _share(with_it, without_it, service_us[IN_FLIGHT]),
            }
        )
    )


def _by_stage(
    service_us: Sequence[float],
    http_us: Sequence[float],
    store_us: Sequence[float],
    isolated_us: Sequence[dict[str, float]],
) -> dict[str, Any]:
    floors = [
        {"http": http, "store": store, **others}
        for http, store, others in zip(http_us, store_us, isolated_us, strict=True)
    ]
    ratios = [request / sum(floor.values()) for request, floor in zip(service_us, floors, strict=True)]
    return {
        "cpu_us_per_request": round(median(service_us), 1),
        "floors_us": {name: round(median(floor[name] for floor in floors), 1) for name in floors[0]},
        "sum_of_floors_us": round(median(sum(floor.values()) for floor in floors), 1),
        "ratio": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _share(with_it: Sequence[float], without_it: Sequence[float], request_us: Sequence[float]) -> dict[str, float]:
    spent = median(more - less for more, less in zip(with_it, without_it, strict=True))
    return {"us_per_request": round(spent, 1), "share_of_request": round(spent / median(request_us), 4)}


if __name__ == "__main__":
    typer.run(main)
