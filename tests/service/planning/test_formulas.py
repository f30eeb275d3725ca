"""The formulas of the plan are within 30 % of what the benchmarks measured: docs/performance and docs/planning."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from onward.bundle import RetrievedItem, RetrievedItems
from onward.service.planning import formulas
from onward.service.records.answers import Answer
from onward.service.records.event_log import EventLog
from onward.service.sessions import AppliedEvent

DOCS = Path(__file__).parents[3] / "docs"
DIMENSION = 64
FULL_LOAD = "closed 16"
TOLERANCE = 0.3


def record(path: str) -> Any:
    return json.loads((DOCS / path).read_text(encoding="utf-8"))


class Served(NamedTuple):
    """What a benchmark measured of a service at full load."""

    name: str
    items: int
    workers: int
    figures: dict[str, float]


def served() -> Iterator[Served]:
    for path in sorted((DOCS / "performance").glob("serving*.json")):
        measured = json.loads(path.read_text(encoding="utf-8"))
        for catalog in measured["catalogs"]:
            yield Served(path.stem, catalog["items"], measured["workers"], catalog["loads"][FULL_LOAD])


SERVED = list(served())
CATALOGS = {
    int(items): figures
    for path in ("performance/catalogs-43k-1m.json", "performance/catalogs-10m.json")
    for items, figures in record(path)["catalogs"].items()
}


def near(measured: float) -> Any:
    return pytest.approx(measured, rel=TOLERANCE)


def test_the_records_cover_three_sizes_of_catalogs() -> None:
    assert {each.items for each in SERVED} == CATALOGS.keys() == {43_097, 1_000_000, 10_000_000}


@pytest.mark.parametrize("measured", SERVED, ids=lambda each: each.name)
def test_processor_time_and_memory_of_the_service(measured: Served) -> None:
    assert formulas.request_cpu_s(measured.items) * 1e6 == near(measured.figures["cpu_us_per_request"])
    assert near(measured.figures["store_cpu_us_per_request"]) == formulas.STORE_CPU_S * 1e6
    memory_mib = formulas.replica_bytes(measured.items, DIMENSION, measured.workers) / formulas.MIB
    assert memory_mib == near(measured.figures["pss_mib"])


@pytest.mark.parametrize("items", CATALOGS)
def test_size_and_start_of_a_bundle(items: int) -> None:
    assert formulas.bundle_bytes(items, DIMENSION) / formulas.MIB == near(sum(CATALOGS[items]["files_mb"].values()))
    assert formulas.start_s(items) == near(CATALOGS[items]["first_answer_s"])


def test_memory_of_sessions_and_answers() -> None:
    measured = record("planning/store.json")
    for events, size in measured["bytes_of_a_session_by_events"].items():
        assert formulas.SESSION_BYTES + int(events) * formulas.EVENT_BYTES == near(size)
    assert near(measured["bytes_per_answer"]["mean"]) == formulas.ANSWER_BYTES


@pytest.mark.parametrize("path", ["planning/training-43k.json", "planning/training-200k.json"])
def test_processor_time_of_training(path: str) -> None:
    measured = record(path)
    example_s = formulas.training_core_s(1, measured["items"], measured["dimension"], epochs=1)
    assert example_s * 1e6 == near(measured["cpu_us_per_example"])


async def test_lines_of_the_event_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    session = "3f2b8c1e-77aa-4c0e-9d55-0a1b2c3d4e5f"
    for number in range(100):
        items = RetrievedItems.of(
            [RetrievedItem(f"item-{place:07}", 0.123456789 / place, "encoder", 0) for place in range(1, 21)]
        )
        event = AppliedEvent(
            session_id=session,
            item_id=f"item-{number:07}",
            type="view",
            timestamp_ms=1_764_000_000_000,
            weight=1.0,
            value=None,
            event_id=None,
            recommendation_id=None,
            session_items=(),
        )
        log.applied([event])
        log.served(Answer(f"{number:032x}", 1_764_000_000_000, "0" * 64, items, ("item-0000001",)), session)
    await log.close()
    assert line_bytes(tmp_path, "events") == near(formulas.LOGGED_EVENT_BYTES)
    assert line_bytes(tmp_path, "answers") == near(formulas.LOGGED_ANSWER_BYTES)


def line_bytes(folder: Path, kind: str) -> float:
    """Return the mean size of a line in the files of a kind."""
    lines = [line for path in folder.glob(f"{kind}*") for line in path.read_bytes().splitlines(keepends=True)]
    return sum(map(len, lines)) / len(lines)


@pytest.mark.parametrize(("low", "high"), [(1, 43_097), (43_097, 1_000_000), (10_000_000, 100_000_000)])
def test_a_larger_catalog_takes_more_of_everything(low: int, high: int) -> None:
    assert formulas.request_cpu_s(low) < formulas.request_cpu_s(high)
    assert formulas.replica_bytes(low, 64, 2) < formulas.replica_bytes(high, 64, 2)
    assert formulas.start_s(low) < formulas.start_s(high)
    assert formulas.training_bytes(1e6, low, 64) < formulas.training_bytes(1e6, high, 64)
