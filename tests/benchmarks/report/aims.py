"""What was aimed at, and what the records say of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.benchmarks.report.catalogs import CATALOGS, Catalog, Catalogs
from tests.benchmarks.report.engines import ENGINES, Engines
from tests.benchmarks.report.markdown import anchor, counted, figure, table
from tests.benchmarks.report.peers import CONNECTIONS, OURS, OURS_FAST, Peers
from tests.benchmarks.report.record import Record
from tests.benchmarks.report.serving import SERVING, Load, Serving
from tests.benchmarks.report.serving import Catalog as Served
from tests.benchmarks.report.stages import STAGES, Stages

CORES = 2
SMALL, LARGE, LARGEST = 43_000, 1_000_000, 10_000_000
RATE_PER_S = 1_000
ENCODED_ITEMS = 20
NEAR = 0.1
"""By which part a catalog may be smaller or larger than what an aim names."""


class Measured(NamedTuple):
    """What one record says, and whether the aim is met."""

    text: str
    met: bool


class Aim(NamedTuple):
    """An aim, how records are asked for it, and the title of the section with the figures that explain a miss."""

    what: str
    aim: str
    measured: Callable[[Sequence[Record]], Iterator[Measured]]
    explained_by: str


def aims_table(records: Sequence[Record]) -> str:
    """All aims, each with every record that tells of it."""
    own = [record for record in records if record.cores == CORES]
    return table(["what", "aim", "measured", ""], [row for aim in AIMS for row in _rows(aim, own)])


def _rows(aim: Aim, records: Sequence[Record]) -> Iterator[list[str]]:
    found = list(aim.measured(records))
    if not found:
        yield [aim.what, aim.aim, "", "not measured"]
    for one in found:
        missed = f"**missed**: see [{aim.explained_by.lower()}]({anchor(aim.explained_by)})"
        yield [aim.what, aim.aim, one.text, "met" if one.met else missed]


def _near(items: int, wanted: int) -> bool:
    return abs(items - wanted) <= NEAR * wanted


def _of_peer(peer: str, times: float, *, ours: str = OURS_FAST, recall: float = 0.95) -> Aim:
    """Requests/s over those of a peer, in whichever of its settings it is at its best."""

    def measured(records: Sequence[Record]) -> Iterator[Measured]:
        for record in records:
            if isinstance(record, Peers) and _near(record.items, SMALL):
                yield from _beside(record, peer, ours, times, recall)

    what = f"requests/s of one worker, {CONNECTIONS} connections, 43k items, recall@20 ≥ {recall:g}"
    return Aim(what, f"≥ {times:g} × {peer}", measured, STAGES.title)


def _beside(record: Peers, peer: str, ours: str, times: float, recall: float) -> Iterator[Measured]:
    ratios = {name: ratio for name in record.variants(peer) if (ratio := record.times_better(ours, name)) is not None}
    if not ratios:
        return
    best = min(ratios, key=lambda name: ratios[name])
    own = record.servers[ours]
    load = own.connections[CONNECTIONS]
    notes = [best, f"recall {own.recall_at_20:.3f}", *_reservations(load.errors, load.generator_limited)]
    yield Measured(
        f"{figure(ratios[best])} × ({', '.join(notes)})",
        ratios[best] >= times and own.recall_at_20 >= recall and not load.errors,
    )


def _reservations(errors: Mapping[str, int], generator_limited: bool) -> Iterator[str]:
    if errors:
        yield f"errors: {counted(errors)}"
    if generator_limited:
        yield "the generator was the limit"


def _open_loop(items: int, limits_ms: Mapping[str, float]) -> Aim:
    """Latencies of the whole service at `RATE_PER_S`, of SR-GNN under a filter."""

    def measured(records: Sequence[Record]) -> Iterator[Measured]:
        for record in records:
            if isinstance(record, Serving) and record.filter:
                for catalog in record.catalogs:
                    if catalog.model == "srgnn" and _near(catalog.items, items):
                        yield from _latencies(record, catalog, limits_ms)

    return Aim(
        f"{items // 1_000_000}M items, SR-GNN, Redis session, a filter, recall@20 ≥ 0.98, open loop at "
        f"{RATE_PER_S:,} requests/s, everything on {CORES} cores",
        ", ".join([*(f"{name} < {ms:g} ms" for name, ms in limits_ms.items()), "no error"]),
        measured,
        STAGES.title,
    )


def _latencies(record: Serving, catalog: Served, limits_ms: Mapping[str, float]) -> Iterator[Measured]:
    for load in catalog.loads.values():
        if load.rate_per_s == RATE_PER_S and not load.parts:
            found = {name: _percentile(load, name) for name in limits_ms}
            notes = [f"recall {catalog.recall_at_20:.3f}", f"workers: {record.workers}"]
            notes += _reservations(load.errors, bool(load.limited_by))
            yield Measured(
                f"{', '.join(f'{name} {figure(ms)} ms' for name, ms in found.items())} ({', '.join(notes)})",
                all(ms is not None and ms < limits_ms[name] for name, ms in found.items())
                and catalog.recall_at_20 >= 0.98
                and not load.errors,
            )


def _percentile(load: Load, name: str) -> float | None:
    return {"p50": load.p50_ms, "p90": load.p90_ms, "p99": load.p99_ms}[name]


def _encoded(engine: str, name: str, times: float) -> Aim:
    """How many times as fast as eager torch, in whichever of its forms an engine is at its best."""

    def measured(records: Sequence[Record]) -> Iterator[Measured]:
        for record in records:
            if isinstance(record, Engines) and (engines := record.by_length.get(ENCODED_ITEMS)):
                forms = {name: one.times_as_fast for name, one in engines.items() if name.partition(",")[0] == engine}
                if forms:
                    best = max(forms, key=lambda name: forms[name])
                    yield Measured(f"{figure(forms[best])} × ({best})", forms[best] >= times)

    what = f"SR-GNN encode at {ENCODED_ITEMS} items, by {name}"
    return Aim(what, f"≥ {times:g} × eager torch with the graph built in Python", measured, ENGINES.title)


def _of_catalogs(items: int, records: Sequence[Record]) -> Iterator[Catalog]:
    for record in records:
        if isinstance(record, Catalogs):
            yield from (one for size, one in record.catalogs.items() if _near(size, items))


def _searched(items: int, name: str, times_less: float) -> Aim:
    def measured(records: Sequence[Record]) -> Iterator[Measured]:
        for one in _of_catalogs(items, records):
            if found := one.targets.get(0.99):
                yield Measured(
                    f"1/{figure(1 / found.share_of_flat)} (recall {found.recall_at_20:.3f})",
                    found.share_of_flat <= 1 / times_less and found.recall_at_20 >= 0.99,
                )

    return Aim(f"search of {name} items at recall@20 ≥ 0.99", f"≤ 1/{times_less:g} of flat", measured, CATALOGS.title)


def _first_answers(records: Sequence[Record]) -> Iterator[Measured]:
    for one in _of_catalogs(LARGE, records):
        yield Measured(f"{figure(one.first_answer_s)} s", one.first_answer_s <= 3)


def _telemetry(records: Sequence[Record]) -> Iterator[Measured]:
    for record in records:
        if isinstance(record, Stages):
            share = record.telemetry.share_of_request
            yield Measured(f"{share:.1%} ({record.items:,} items)", share <= 0.05)


def _floors(records: Sequence[Record]) -> Iterator[Measured]:
    for record in records:
        if isinstance(record, Stages) and (request := record.connections.get(CONNECTIONS)):
            yield Measured(f"{request.ratio:.2f} × ({record.items:,} items)", request.ratio <= 1.5)


def _two_workers(records: Sequence[Record]) -> Iterator[Measured]:
    """Requests/s of two workers over those of one, of the same catalog in records of their own."""
    for one in _by_workers(records, 1):
        for two in _by_workers(records, 2):
            if one.of == two.of:
                ratio = two.requests_per_s / one.requests_per_s
                yield Measured(f"{ratio:.2f} × ({one.of})", ratio > 1)


class _Closed(NamedTuple):
    """What a number of workers does, and of which bundle and question."""

    of: str
    requests_per_s: float


def _by_workers(records: Sequence[Record], workers: int) -> Iterator[_Closed]:
    for record in records:
        if isinstance(record, Serving) and record.workers == workers:
            for catalog in record.catalogs:
                if load := catalog.loads.get(f"closed {CONNECTIONS}"):
                    asked = ", a filter" if record.filter else ""
                    of = f"{catalog.model}, {catalog.items:,} items, {catalog.index}{asked}"
                    yield _Closed(of, load.achieved_per_s)


AIMS = (
    _of_peer("plain FastAPI", 12),
    _of_peer("good FastAPI", 3),
    _of_peer("mosec", 2),
    _of_peer("LitServe", 6),
    _of_peer("BentoML", 6),
    _of_peer("Ray Serve", 20),
    _of_peer("plain FastAPI", 7, ours=OURS, recall=0.99),
    _open_loop(LARGE, {"p90": 7, "p99": 25}),
    _open_loop(LARGEST, {"p90": 50}),
    _encoded("kernel", "the kernel", 25),
    _encoded("onnx", "the ONNX program", 6),
    _searched(SMALL, "43k", 2),
    _searched(LARGE, "1M", 80),
    Aim("metrics, request id and logging together", "≤ 5 % of CPU per request", _telemetry, STAGES.title),
    Aim(
        f"the service's CPU per request, {CONNECTIONS} connections", "≤ 1.5 × the sum of floors", _floors, STAGES.title
    ),
    Aim(
        "first answer from the start of the process, a built bundle of 1M items",
        "≤ 3 s",
        _first_answers,
        CATALOGS.title,
    ),
    Aim(f"requests/s of two workers, {CONNECTIONS} connections", "> those of one", _two_workers, SERVING.title),
)
