"""The performance aims, and whether the records meet them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.benchmarks.report.catalogs import CATALOGS, Catalog, Catalogs
from tests.benchmarks.report.engines import ENGINES, Engines
from tests.benchmarks.report.markdown import anchor, counted, figure, table
from tests.benchmarks.report.peers import CONNECTIONS, OURS, OURS_FAST, Peers
from tests.benchmarks.report.record import Record
from tests.benchmarks.report.serving import SERVING, Load, ServedCatalog, Serving
from tests.benchmarks.report.stages import STAGES, Stages

CORES = 2
SMALL, LARGE, LARGEST = 43_000, 1_000_000, 10_000_000
RATE_PER_S = 1_000
ENCODED_ITEMS = 20
SIZE_TOLERANCE = 0.1
"""Relative difference allowed between the size of a catalog and the size that an aim names."""


class Verdict(NamedTuple):
    """What one record measured, and whether it meets the aim."""

    text: str
    met: bool


class Aim(NamedTuple):
    """An aim, how to judge it from records, and the title of the section that explains a miss."""

    what: str
    aim: str
    verdicts: Callable[[Sequence[Record]], Iterator[Verdict]]
    explained_by: str


def aims_table(records: Sequence[Record]) -> str:
    """Return the table of all aims, each with every record that measures it."""
    two_cores = [record for record in records if record.cores == CORES]
    return table(["what", "aim", "measured", ""], [row for aim in AIMS for row in _rows(aim, two_cores)])


def _rows(aim: Aim, records: Sequence[Record]) -> Iterator[list[str]]:
    verdicts = list(aim.verdicts(records))
    if not verdicts:
        yield [aim.what, aim.aim, "", "not measured"]
    for verdict in verdicts:
        missed = f"**missed**: see [{aim.explained_by.lower()}]({anchor(aim.explained_by)})"
        yield [aim.what, aim.aim, verdict.text, "met" if verdict.met else missed]


def _is_near(items: int, aimed_at: int) -> bool:
    return abs(items - aimed_at) <= SIZE_TOLERANCE * aimed_at


def _beats_peer(peer: str, times: float, *, ours: str = OURS_FAST, recall: float = 0.95) -> Aim:
    """Aim at a multiple of a peer's requests/s, in the peer's best settings."""

    def verdicts(records: Sequence[Record]) -> Iterator[Verdict]:
        for record in records:
            if isinstance(record, Peers) and _is_near(record.items, SMALL):
                yield from _against_peer(record, peer, ours, times, recall)

    what = f"requests/s of one worker, {CONNECTIONS} connections, 43k items, recall@20 ≥ {recall:g}"
    return Aim(what, f"≥ {times:g} × {peer}", verdicts, STAGES.title)


def _against_peer(record: Peers, peer: str, ours: str, times: float, recall: float) -> Iterator[Verdict]:
    ratios = {name: ratio for name in record.variants(peer) if (ratio := record.times_better(ours, name)) is not None}
    if not ratios:
        return
    best = min(ratios, key=lambda name: ratios[name])
    own = record.servers[ours]
    load = own.connections[CONNECTIONS]
    notes = [best, f"recall {own.recall_at_20:.3f}", *_caveats(load.errors, load.generator_limited)]
    yield Verdict(
        f"{figure(ratios[best])} × ({', '.join(notes)})",
        ratios[best] >= times and own.recall_at_20 >= recall and not load.errors,
    )


def _caveats(errors: Mapping[str, int], generator_limited: bool) -> Iterator[str]:
    if errors:
        yield f"errors: {counted(errors)}"
    if generator_limited:
        yield "limited by the load generator"


def _latency_under_load(items: int, limits_ms: Mapping[str, float]) -> Aim:
    """Aim at latencies of the complete service at `RATE_PER_S`, with SR-GNN and a filter."""

    def verdicts(records: Sequence[Record]) -> Iterator[Verdict]:
        for record in records:
            if isinstance(record, Serving) and record.filter:
                for catalog in record.catalogs:
                    if catalog.model == "srgnn" and _is_near(catalog.items, items):
                        yield from _latencies(record, catalog, limits_ms)

    return Aim(
        f"{items // 1_000_000}M items, SR-GNN, Redis session, a filter, recall@20 ≥ 0.98, open loop at "
        f"{RATE_PER_S:,} requests/s, everything on {CORES} cores",
        ", ".join([*(f"{name} < {ms:g} ms" for name, ms in limits_ms.items()), "no error"]),
        verdicts,
        STAGES.title,
    )


def _latencies(record: Serving, catalog: ServedCatalog, limits_ms: Mapping[str, float]) -> Iterator[Verdict]:
    for load in catalog.loads.values():
        if load.rate_per_s == RATE_PER_S and not load.parts:
            latencies = {name: _percentile(load, name) for name in limits_ms}
            notes = [f"recall {catalog.recall_at_20:.3f}", f"workers: {record.workers}"]
            notes += _caveats(load.errors, bool(load.limited_by))
            yield Verdict(
                f"{', '.join(f'{name} {figure(ms)} ms' for name, ms in latencies.items())} ({', '.join(notes)})",
                all(ms is not None and ms < limits_ms[name] for name, ms in latencies.items())
                and catalog.recall_at_20 >= 0.98
                and not load.errors,
            )


def _percentile(load: Load, name: str) -> float | None:
    return {"p50": load.p50_ms, "p90": load.p90_ms, "p99": load.p99_ms}[name]


def _encoder_speed(engine: str, name: str, times: float) -> Aim:
    """Aim at a speed-up over eager torch, with the best form of an engine."""

    def verdicts(records: Sequence[Record]) -> Iterator[Verdict]:
        for record in records:
            if isinstance(record, Engines) and (engines := record.by_length.get(ENCODED_ITEMS)):
                forms = {
                    name: figures.times_as_fast for name, figures in engines.items() if name.partition(",")[0] == engine
                }
                if forms:
                    best = max(forms, key=lambda name: forms[name])
                    yield Verdict(f"{figure(forms[best])} × ({best})", forms[best] >= times)

    what = f"SR-GNN encode at {ENCODED_ITEMS} items, by {name}"
    return Aim(what, f"≥ {times:g} × eager torch with the graph built in Python", verdicts, ENGINES.title)


def _catalogs_near(items: int, records: Sequence[Record]) -> Iterator[Catalog]:
    for record in records:
        if isinstance(record, Catalogs):
            yield from (catalog for size, catalog in record.catalogs.items() if _is_near(size, items))


def _search_speed(items: int, name: str, times_less: float) -> Aim:
    def verdicts(records: Sequence[Record]) -> Iterator[Verdict]:
        for catalog in _catalogs_near(items, records):
            if search := catalog.targets.get(0.99):
                yield Verdict(
                    f"1/{figure(1 / search.share_of_flat)} (recall {search.recall_at_20:.3f})",
                    search.share_of_flat <= 1 / times_less and search.recall_at_20 >= 0.99,
                )

    return Aim(f"search of {name} items at recall@20 ≥ 0.99", f"≤ 1/{times_less:g} of flat", verdicts, CATALOGS.title)


def _first_answers(records: Sequence[Record]) -> Iterator[Verdict]:
    for catalog in _catalogs_near(LARGE, records):
        yield Verdict(f"{figure(catalog.first_answer_s)} s", catalog.first_answer_s <= 3)


def _telemetry(records: Sequence[Record]) -> Iterator[Verdict]:
    for record in records:
        if isinstance(record, Stages):
            share = record.telemetry.share_of_request
            yield Verdict(f"{share:.1%} ({record.items:,} items)", share <= 0.05)


def _floors(records: Sequence[Record]) -> Iterator[Verdict]:
    for record in records:
        if isinstance(record, Stages) and (request := record.connections.get(CONNECTIONS)):
            yield Verdict(f"{request.ratio:.2f} × ({record.items:,} items)", request.ratio <= 1.5)


def _two_workers(records: Sequence[Record]) -> Iterator[Verdict]:
    """Compare requests/s of two workers and of one, in two records of the same catalog."""
    for one in _by_workers(records, 1):
        for two in _by_workers(records, 2):
            if one.subject == two.subject:
                ratio = two.requests_per_s / one.requests_per_s
                yield Verdict(f"{ratio:.2f} × ({one.subject})", ratio > 1)


class _ClosedLoop(NamedTuple):
    """Throughput of a closed loop, and the bundle and query it was measured with."""

    subject: str
    requests_per_s: float


def _by_workers(records: Sequence[Record], workers: int) -> Iterator[_ClosedLoop]:
    for record in records:
        if isinstance(record, Serving) and record.workers == workers:
            for catalog in record.catalogs:
                if load := catalog.loads.get(f"closed {CONNECTIONS}"):
                    condition = ", a filter" if record.filter else ""
                    subject = f"{catalog.model}, {catalog.items:,} items, {catalog.index}{condition}"
                    yield _ClosedLoop(subject, load.achieved_per_s)


AIMS = (
    _beats_peer("plain FastAPI", 12),
    _beats_peer("good FastAPI", 3),
    _beats_peer("mosec", 2),
    _beats_peer("LitServe", 6),
    _beats_peer("BentoML", 6),
    _beats_peer("Ray Serve", 20),
    _beats_peer("plain FastAPI", 7, ours=OURS, recall=0.99),
    _latency_under_load(LARGE, {"p90": 7, "p99": 25}),
    _latency_under_load(LARGEST, {"p90": 50}),
    _encoder_speed("kernel", "the kernel", 25),
    _encoder_speed("onnx", "the ONNX program", 6),
    _search_speed(SMALL, "43k", 2),
    _search_speed(LARGE, "1M", 80),
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
