"""The event log of a service can be prepared, alone or together with other logs."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from onward.bundle import RetrievedItem, RetrievedItems
from onward.service.records.answers import Answer
from onward.service.records.event_log import EventLog
from onward.service.sessions import AppliedEvent
from onward.training.data.readers.events import NO_INTERACTION
from tests.training.data.conftest import START_MS, Outcome, Prepare, log, shown

WEIGHTS = {"view": 1.0, "purchase": 5.0, "impression": 0.0, "dislike": -1.0}
SERVED = {"1": "a:view b:impression b:view c:purchase", "2": "b:view a:dislike c:view", "3": "a:impression"}


def write_log(folder: Path, sessions: dict[str, str] = SERVED) -> Path:
    """Log {"s1": "a:view b:cart"} as a service that recommended items and received these events."""
    folder.mkdir()
    event_log = EventLog(folder)
    items = RetrievedItems.of([RetrievedItem("a", 1.0, "encoder", 0)])
    for number, (session, events) in enumerate(sessions.items()):
        for place, event in enumerate(events.split()):
            item, kind = event.split(":")
            moment_ms = START_MS + 60_000 * (60 * number + place)
            event_log.applied(
                [AppliedEvent(session, item, kind, WEIGHTS[kind], moment_ms, None, f"{number}-{place}", None, ())]
            )
        event_log.served(Answer("id", START_MS, "digest", items), session)
    asyncio.run(event_log.close())
    return folder


@pytest.mark.parametrize("named", ["folder", "files"])
def test_the_event_log_of_a_service_can_be_prepared(prepared: Prepare, tmp_path: Path, named: str) -> None:
    folder = write_log(tmp_path / "log")
    dataset = prepared([str(folder)] if named == "folder" else [str(file) for file in folder.glob("events-*.jsonl")])
    assert shown(dataset, "train") == {"1": "a *b *c", "2": "b *c"}
    assert dataset.info.dropped == {NO_INTERACTION: 3}
    assert dataset.info.problems == ()


def test_events_with_and_without_weights_can_be_mixed(prepared: Prepare, tmp_path: Path) -> None:
    before = log({"0": "a c"}).with_columns(pl.col("timestamp") - 86_400_000)
    before.write_parquet(tmp_path / "before.parquet")
    dataset = prepared([str(tmp_path / "before.parquet"), str(write_log(tmp_path / "log"))])
    assert shown(dataset, "train") == {"0": "a *c", "1": "a *b *c", "2": "b *c"}


@pytest.mark.parametrize("value", [0, -1, -0.5])
def test_a_weight_in_a_table_counts_too(prepared: Prepare, value: float) -> None:
    events = log({"1": "a b c"})
    weighted = events.with_columns(w=pl.Series([1.0, value, None]))
    assert shown(prepared(weighted.rename({"w": "weight"})), "train") == {"1": "a *c"}
    assert shown(prepared(weighted), "train") == {"1": "a *b *c"}


def test_a_partially_written_line_is_reported_and_the_rest_is_read(prepared: Prepare, tmp_path: Path) -> None:
    (file,) = write_log(tmp_path / "log").glob("events-*.jsonl")
    file.write_bytes(file.read_bytes() + b'{"session_id":"9","item_')
    dataset = prepared([str(tmp_path / "log")])
    assert shown(dataset, "train") == {"1": "a *b *c", "2": "b *c"}
    assert [problem.count for problem in dataset.info.problems] == [1]


def test_one_command_reads_the_folder_and_strict_accepts_impressions(
    tmp_path: Path, onward_training: Callable[..., Outcome]
) -> None:
    folder, out = write_log(tmp_path / "log"), tmp_path / "dataset"
    options = ("--split", "given", "--min-support", 1, "--validation", 0, "--strict")
    outcome = onward_training("prepare", folder, "--out", out, *options)
    assert outcome.code == 0, outcome.err
    assert NO_INTERACTION in outcome.out + outcome.err


def test_an_invalid_weight_is_refused(tmp_path: Path, onward_training: Callable[..., Outcome]) -> None:
    log({"1": "a b"}).with_columns(w=pl.Series([[1], [2]])).write_parquet(tmp_path / "log.parquet")
    outcome = onward_training("prepare", tmp_path / "log.parquet", "--out", tmp_path / "d", "--weight-column", "w")
    assert outcome.code == 2
    assert "which cannot be a weight; give --weight-column" in outcome.err
