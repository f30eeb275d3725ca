"""Events and answers are written to files of JSON lines, and write errors never fail a request."""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from onward.bundle import RetrievedItem, RetrievedItems
from onward.service import telemetry
from onward.service.records import event_log
from onward.service.records.answers import Answer
from onward.service.records.event_log import (
    EventLog,
    EventLogError,
    EventLogOptions,
    Pseudonyms,
    delete_old_files,
    require_writable,
)
from onward.service.records.event_log_erasure import erase_user
from onward.service.sessions import AppliedEvent
from tests.service.clock import Clock

AFTERNOON_S = datetime(2026, 11, 22, 12, 30, tzinfo=UTC).timestamp()


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now_s = AFTERNOON_S
    return clock


@pytest.fixture
async def log(tmp_path: Path, clock: Clock) -> AsyncIterator[EventLog]:
    log = EventLog(tmp_path, clock=clock)
    yield log
    await log.close()


def event(item_id: str, **optional: Any) -> AppliedEvent:
    fields: dict[str, Any] = {
        "type": "view",
        "weight": 1.0,
        "value": None,
        "event_id": None,
        "recommendation_id": None,
    } | optional
    return AppliedEvent(session_id="ítem \n{1}", item_id=item_id, timestamp_ms=7, session_items=(), **fields)


def fill_the_disk(log: EventLog) -> None:
    """Replace the file being written by one that accepts no data."""
    log_file = log._events._file
    assert log_file._file is not None
    log_file._file.close()
    log_file._file = Path("/dev/full").open("wb")  # noqa: SIM115  # the log closes it


def files(folder: Path, kind: str = "events") -> list[Path]:
    return sorted(folder.glob(f"{kind}-*.jsonl"))


def lines(folder: Path, kind: str = "events") -> list[dict[str, Any]]:
    return [json.loads(line) for file in files(folder, kind) for line in file.read_text().splitlines()]


async def test_an_event_is_a_line_with_all_fields_that_are_set(log: EventLog, tmp_path: Path) -> None:
    log.applied([event("a"), event("b", type="purchase", weight=5.0, value=9.5, event_id="1", recommendation_id="2")])
    await log.flush()
    plain = {"session_id": "ítem \n{1}", "item_id": "a", "timestamp_ms": 7, "type": "view", "weight": 1.0}
    full = plain | {"item_id": "b", "type": "purchase", "weight": 5.0}
    assert lines(tmp_path) == [plain, full | {"value": 9.5, "event_id": "1", "recommendation_id": "2"}]


async def test_an_answer_is_a_line_with_its_items(log: EventLog, tmp_path: Path) -> None:
    items = RetrievedItems.of([RetrievedItem("a", 1.5, "encoder", 0), RetrievedItem("b", 0.5, "popular")])
    log.served(Answer("id", 7, "digest", items, user_id="user-7", scenario="home", variant="x"), "visitor")
    log.served(Answer("id2", 8, "digest", RetrievedItems(), root_id="id"), None)
    await log.flush()
    assert lines(tmp_path, "answers") == [
        {
            "recommendation_id": "id",
            "session_id": "visitor",
            "user_id": "user-7",
            "timestamp_ms": 7,
            "bundle": "digest",
            "scenario": "home",
            "variant": "x",
            "item_ids": ["a", "b"],
            "scores": [1.5, 0.5],
            "sources": ["encoder", "popular"],
        },
        {
            "recommendation_id": "id2",
            "timestamp_ms": 8,
            "bundle": "digest",
            "page_of": "id",
            "item_ids": [],
            "scores": [],
            "sources": [],
        },
    ]


async def test_no_file_is_created_without_lines(log: EventLog, tmp_path: Path) -> None:
    await log.flush()
    await log.close()
    assert not files(tmp_path)


async def test_files_rotate_at_the_hour_and_are_named_by_their_start(
    log: EventLog, tmp_path: Path, clock: Clock
) -> None:
    for _ in range(4):
        log.applied([event("a")])
        await log.flush()
        clock.now_s += timedelta(minutes=20).total_seconds()
    assert [len(file.read_text().splitlines()) for file in files(tmp_path)] == [2, 2]
    starts = [re.sub("-[0-9a-f]{8}[.]", ".", file.name) for file in files(tmp_path)]
    assert starts == ["events-20261122T123000Z.jsonl", "events-20261122T131000Z.jsonl"]


async def test_files_rotate_at_a_size(
    log: EventLog, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MAX_FILE_BYTES", 250)
    for number in range(6):
        log.applied([event(f"item-{number}")])
        await log.flush()
        clock.now_s += 1
    assert [len(file.read_text().splitlines()) for file in files(tmp_path)] == [3, 3]
    assert [line["item_id"] for line in lines(tmp_path)] == [f"item-{number}" for number in range(6)]


async def test_files_are_synced_to_disk_when_they_rotate(
    log: EventLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    log.applied([event("a")])
    await log.flush()
    assert not synced
    clock.now_s += timedelta(hours=1).total_seconds()
    await log.flush()
    assert len(synced) == 1
    log.applied([event("a")])
    await log.close()
    assert len(synced) == 2


async def test_two_processes_never_share_a_file(tmp_path: Path, clock: Clock) -> None:
    for log in (EventLog(tmp_path, clock=clock), EventLog(tmp_path, clock=clock)):
        log.applied([event("a")])
        await log.close()
    assert len(files(tmp_path)) == 2


async def test_lines_are_lost_and_counted_until_the_disk_recovers(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[object] = []
    reporters: dict[str, Callable[..., None]] = {
        "records_lost": lambda what, count: reported.append(count),
        "recording_failed": lambda what, error: reported.append(what),
        "recording_recovered": lambda what, lost, seconds: reported.append(lost),
    }
    for name, reporter in reporters.items():
        monkeypatch.setattr(telemetry, name, reporter)
    folder = tmp_path / "log"
    log = EventLog(folder, clock=clock)
    for count in (2, 3):
        log.applied([event("a")] * count)
        await log.flush()
    folder.mkdir()
    log.applied([event("b")])
    await log.close()
    assert reported == ["event log", 2, 3, 5]
    assert [line["item_id"] for line in lines(folder)] == ["b"]


async def test_a_failed_write_starts_a_new_file(log: EventLog, tmp_path: Path, clock: Clock) -> None:
    log.applied([event("a")])
    await log.flush()
    fill_the_disk(log)
    log.applied([event("b")])
    await log.flush()
    clock.now_s += 1
    log.applied([event("c")])
    await log.flush()
    assert len(files(tmp_path)) == 2
    assert [line["item_id"] for line in lines(tmp_path)] == ["a", "c"]


async def test_an_outage_ends_with_the_first_line_that_is_written(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(telemetry, "recording_failed", lambda what, error: logged.append("failed"))
    monkeypatch.setattr(telemetry, "recording_recovered", lambda *_: logged.append("recovered"))
    log.applied([event("a")])
    await log.flush()
    fill_the_disk(log)
    log.applied([event("b")])
    for _ in range(3):  # the last two have nothing to write
        await log.flush()
    assert logged == ["failed"]
    log.applied([event("c")])
    await log.flush()
    assert logged == ["failed", "recovered"]


async def test_lines_beyond_the_queue_limit_are_lost_oldest_first_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    monkeypatch.setattr(telemetry, "records_lost", lambda what, count: lost.append(count))
    monkeypatch.setattr(event_log, "MAX_WAITING", 3)
    log = EventLog(tmp_path)
    log.applied([event(item) for item in "abcde"])
    await log.close()
    assert sum(lost) == 2
    assert [line["item_id"] for line in lines(tmp_path)] == ["c", "d", "e"]


async def test_files_are_for_the_owner_and_the_group(log: EventLog, tmp_path: Path) -> None:
    umask = os.umask(0o002)
    try:
        log.applied([event("a")])
        await log.flush()
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o640}


async def test_sessions_and_users_are_named_by_keyed_hashes(tmp_path: Path, clock: Clock) -> None:
    log = EventLog(tmp_path, EventLogOptions(key="a long enough secret"), clock=clock)
    other = EventLog(tmp_path / "other", EventLogOptions(key="another such secret"), clock=clock)
    (tmp_path / "other").mkdir()
    for written in (log, other):
        written.applied([event("a"), event("b")])
        written.served(Answer("id", 7, "digest", RetrievedItems(), user_id="user-7"), event("a").session_id)
        written.served(Answer("id", 7, "digest", RetrievedItems()), None)
        await written.close()
    sessions = [line["session_id"] for line in lines(tmp_path)]
    assert sessions[0] == sessions[1]
    assert re.fullmatch("[0-9a-f]{32}", sessions[0])
    answers = lines(tmp_path, "answers")
    assert answers[0]["session_id"] == sessions[0]
    assert answers[0]["user_id"] == Pseudonyms("a long enough secret")("user-7")
    assert "session_id" not in answers[1]
    assert lines(tmp_path / "other")[0]["session_id"] != sessions[0]
    assert not {"ítem \n{1}", "user-7"} & {
        str(value) for line in (*lines(tmp_path), *answers) for value in line.values()
    }
    assert erase_user(tmp_path, "user-7", None).lines == 0
    assert erase_user(tmp_path, "user-7", None, key="a long enough secret").lines == 3


async def test_files_are_deleted_by_age_from_the_end_of_their_hour(tmp_path: Path, clock: Clock) -> None:
    log = EventLog(tmp_path, EventLogOptions(max_age=timedelta(hours=2)), clock=clock)
    (tmp_path / "events-of-mine.jsonl").touch()
    log.applied([event("a")])
    await log.flush()
    clock.now_s += 29 * 60
    await log.flush()
    for hours, left in ((1, 1), (1, 1), (1, 0)):
        clock.now_s += hours * 3600
        await log.flush()
        assert len(files(tmp_path)) == 1 + left
    assert (tmp_path / "events-of-mine.jsonl").exists()


async def test_the_oldest_closed_files_are_deleted_while_all_are_too_large(tmp_path: Path, clock: Clock) -> None:
    options = EventLogOptions(max_bytes=1000)
    log, another = (EventLog(tmp_path, options, clock=clock) for _ in range(2))
    for hour in range(4):
        log.applied([event(f"item-{hour}")] * 5)  # about 500 bytes
        await log.flush()
        clock.now_s += 3600
    await another.flush()  # that of the first process is open, whatever its hour
    assert [line["item_id"] for line in lines(tmp_path)] == ["item-2"] * 5 + ["item-3"] * 5
    await log.close()
    big = EventLog(tmp_path, EventLogOptions(max_bytes=1), clock=clock)
    big.applied([event("last")])
    await big.flush()
    assert [line["item_id"] for line in lines(tmp_path)] == ["last"]
    await big.close()


async def test_a_file_that_cannot_be_deleted_keeps_no_other(tmp_path: Path, clock: Clock) -> None:
    foreign, old = (tmp_path / f"events-20261101T{hour}0000Z-0.jsonl" for hour in ("10", "11"))
    foreign.mkdir()  # it cannot be opened for writing, like the file of another account
    old.touch()
    delete_old_files(tmp_path, EventLogOptions(max_age=timedelta(hours=1)), clock())
    assert files(tmp_path) == [foreign]


async def test_files_are_locked_as_nfs_asks_for(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(file: Any, operation: int) -> None:
        """Lock as NFS does: a shared lock takes a file that may be read, an exclusive one that may be written."""
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        unfit = os.O_WRONLY if operation & fcntl.LOCK_SH else os.O_RDONLY
        if mode == unfit:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", lock)
    log = EventLog(tmp_path, EventLogOptions(max_age=timedelta(hours=2)), clock=clock)
    log.applied([event("a")])
    await log.flush()
    assert len(files(tmp_path)) == 1
    await log.close()
    clock.now_s += 4 * 3600
    await log.flush()
    assert files(tmp_path) == []


@pytest.mark.parametrize(("seconds", "expected"), [(None, 0), (0, 4), (2, 2)])
async def test_files_are_synced_at_an_interval(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: int | None, expected: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    interval = None if seconds is None else timedelta(seconds=seconds)
    log = EventLog(tmp_path, EventLogOptions(sync_interval=interval), clock=clock)
    for _ in range(4):
        clock.now_s += 1
        log.applied([event("a")])
        await log.flush()
    assert len(synced) == expected
    clock.now_s += 10
    await log.flush()
    before = len(synced)
    await log.flush()  # nothing was written
    assert len(synced) == before
    await log.close()
    assert len(synced) > expected or seconds == 0


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    require_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(EventLogError, match=r"^.+: /proc$"):
        require_writable(Path("/proc"))
