"""Closed files of an event log go to an address: each once its upload succeeded, none is lost by an outage."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from onward.bundle.storage import Address, ObjectStore
from onward.service.cli import cli
from onward.service.records.event_log import EventLog, EventLogOptions, Pseudonyms
from onward.service.records.event_log_upload import EventLogUpload
from onward.service.sessions import AppliedEvent
from tests.bundles import item_ids, publish_bundle
from tests.s3_server import BUCKET, S3Server, s3_server
from tests.service.process import ServiceProcess, wait_until

EVENTS = Address("s3", BUCKET, "events")
IDS = item_ids("a", 10)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as server:
        yield server


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Address:
    return Address("memory", request.node.name, "events")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool" / "tenant").mkdir(parents=True)
    return tmp_path / "spool"


def event(item_id: str) -> AppliedEvent:
    return AppliedEvent(
        session_id="s", item_id=item_id, timestamp_ms=7, session_items=(), type="view", weight=1.0,
        value=None, event_id=None, recommendation_id=None,
    )  # fmt: skip


async def written(folder: Path, item_id: str) -> EventLog:
    log = EventLog(folder)
    log.applied([event(item_id)])
    await log.flush()
    return log


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def uploaded(address: Address) -> list[str]:
    """Return the items of all events at the address, by the folder that they lie in."""
    store = ObjectStore(address)
    lines = ((found.name.rpartition("/")[0], store.read(found.name).content) for found in store.list())
    return sorted(f"{folder}/{json.loads(line)['item_id']}" for folder, lines in lines for line in lines.splitlines())


async def test_closed_files_are_moved_and_files_being_written_stay(spool: Path, address: Address) -> None:
    closed, of_tenant = await written(spool, "a"), await written(spool / "tenant", "b")
    await closed.close()
    await of_tenant.close()
    (spool / "tenant" / "notes.txt").write_text("not of the log")
    open_log = await written(spool, "c")
    await EventLogUpload(spool, address).run()
    assert uploaded(address) == ["/a", "tenant/b"]
    await open_log.close()
    await EventLogUpload(spool, address).run()
    assert uploaded(address) == ["/a", "/c", "tenant/b"]
    assert [path.name for path in files(spool)] == ["notes.txt"]


async def test_an_outage_is_logged_once_and_loses_nothing(s3: S3Server, spool: Path) -> None:
    await (await written(spool, "a")).close()
    s3.stop()
    upload = EventLogUpload(spool, EVENTS)
    with capture_logs() as logs:
        await upload.run()
        await upload.run()
        await (await written(spool, "b")).close()
        s3.start()
        s3.refusal = "ExpiredToken"
        await upload.run()
        s3.refusal = None
        await upload.run()
    assert uploaded(EVENTS) == ["/a", "/b"]
    assert len(logs) == 2  # it begins, and it is over
    assert "the object store does not answer" in str(logs[0])
    assert not files(spool)


async def test_a_file_whose_upload_was_not_noted_is_uploaded_again_as_the_same(spool: Path, address: Address) -> None:
    await (await written(spool, "a")).close()
    (file,) = files(spool)
    content = file.read_bytes()
    await EventLogUpload(spool, address).run()
    file.write_bytes(content)  # the process was killed before it could delete the file
    await EventLogUpload(spool, address).run()
    assert uploaded(address) == ["/a"]


async def test_a_user_is_erased_at_the_address(spool: Path, s3: S3Server) -> None:
    key = "0123456789abcdef"
    named = Pseudonyms(key)
    log = EventLog(spool, EventLogOptions(key=key))
    log.applied([event("a")])
    await log.close()
    other = {"session_id": "other", "item_id": "b"}
    (spool / "events-20260101T000000Z-01.jsonl").write_text(json.dumps(other) + "\n")
    answer = {"recommendation_id": "r", "session_id": named("s"), "user_id": named("user-7"), "item_ids": ["a"]}
    (spool / "answers-20260101T000000Z-02.jsonl").write_text(json.dumps(answer) + "\n")
    await EventLogUpload(spool, EVENTS).run()
    arguments = ["erase-user", "user-7", "--event-log", str(EVENTS), "--event-log-key", key]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.output) == (0, "removed 2 lines\n")
    assert uploaded(EVENTS) == ["/b"]
    s3.refusal = "AccessDenied"
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, "AccessDenied" in result.output) == (2, True)
    result = CliRunner().invoke(cli, ["erase-user", "user-7", "--event-log", "ftp://shop/events"])
    assert (result.exit_code, "unknown scheme" in result.output) == (2, True)


@pytest.mark.slow
def test_a_service_loses_no_event_by_an_outage_and_a_restart(s3: S3Server, spool: Path, tmp_path: Path) -> None:
    publish_bundle(tmp_path / "bundles", IDS)
    environment = {"SERVICE_EVENT_LOG": str(EVENTS), "SERVICE_EVENT_LOG_SPOOL": str(spool)}
    for number, item in enumerate(("a1", "a2", "a3")):
        if number == 1:
            s3.stop()
        with ServiceProcess(tmp_path / "bundles", environment=environment).wait_until_ready() as service:
            if number == 2:
                s3.start()
                wait_until(lambda: len(events_at()) == 2)  # of the run before
            body = {"session_id": "s", "item_id": item}
            httpx.post(f"{service.url}/v1/events", json=body, timeout=30).raise_for_status()
            assert service.stop() == 0
    assert sorted(events_at()) == ["a1", "a2", "a3"]
    assert not list(spool.glob("events*.jsonl"))


def events_at() -> list[str]:
    store = ObjectStore(EVENTS)
    names = [found.name for found in store.list() if found.name.startswith("events")]
    return [json.loads(line)["item_id"] for name in names for line in store.read(name).content.splitlines()]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SERVICE_EVENT_LOG": "s3://shop/events"}, "set SERVICE_EVENT_LOG_SPOOL"),
        ({"SERVICE_EVENT_LOG": "{tmp}", "SERVICE_EVENT_LOG_SPOOL": "{tmp}"}, "unset it for one in a folder"),
        ({"SERVICE_EVENT_LOG": "ftp://shop/events"}, "SERVICE_EVENT_LOG: ftp://shop/events: unknown scheme"),
        (
            {"SERVICE_EVENT_LOG": "s3://shop/e", "SERVICE_EVENT_LOG_SPOOL": "s3://shop/s"},
            "must be a path of this machine",
        ),
        ({"SERVICE_EVENT_LOG_SPOOL": "{tmp}"}, "set SERVICE_EVENT_LOG"),
    ],
)
def test_contradictory_settings_are_refused(
    variables: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_BUNDLES", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("{tmp}", str(tmp_path)))
    result = CliRunner().invoke(cli, ["serve"])
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
