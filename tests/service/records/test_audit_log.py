"""The audit log: every change is a line before it is acknowledged, and no line is lost or mixed with another."""

import json
import os
import resource
import signal
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from onward.service.cli import cli
from onward.service.records.audit_log import Actor, AuditLog, AuditLogError, Change
from onward.service.sessions import session_digest
from tests.service.http.test_scopes import keyed, line
from tests.service.shop import opened, problem, publish_shop, send


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text().splitlines()]


async def test_a_line_says_who_did_what_and_when(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = AuditLog(file)
    await log.record(
        Actor(key="web", address="10.0.0.1", request_id="r1"), [Change("item changed", "a", None, {"x": 1})]
    )
    (written,) = lines(file)
    assert written.pop("time").endswith("Z")
    assert written == {
        "key": "web",
        "address": "10.0.0.1",
        "request_id": "r1",
        "what": "item changed",
        "id": "a",
        "before": None,
        "after": {"x": 1},
    }
    assert stat.S_IMODE(file.stat().st_mode) & 0o007 == 0


async def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = AuditLog(file)
    await log.record(Actor(), [Change("first")])
    file.rename(tmp_path / "old")
    await log.record(Actor(), [Change("second")])
    assert [written["what"] for written in (*lines(tmp_path / "old"), *lines(file))] == ["first", "second"]


def test_many_writers_mix_no_lines(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    logs = [AuditLog(file) for _ in range(8)]
    changes = [Change("item changed", "x" * 100, "y" * 5_000) for _ in range(3)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: logs[number % 8].record_command(Actor(), changes), range(80)))
    assert len(lines(file)) == 240


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_cannot_be_written_is_told_and_spoils_no_later_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = AuditLog(file)
    log.record_command(Actor(), [Change("first")])
    with full_disk(file.stat().st_size + 10), pytest.raises(AuditLogError, match="No space left"):
        log.record_command(Actor(), [Change("second")])
    log.record_command(Actor(), [Change("third")])
    first, half, third = file.read_text().splitlines()
    assert (json.loads(first)["what"], len(half), json.loads(third)["what"]) == ("first", 10, "third")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.touch(mode=0o400)
    with pytest.raises(AuditLogError, match="Permission denied"):
        AuditLog(file)


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditLogError, match=r"No such file or directory: .*nowhere/audit"):
        AuditLog(tmp_path / "nowhere" / "audit.jsonl")


def test_every_change_of_the_api_is_a_line(tmp_path: Path) -> None:
    publish_shop(tmp_path)
    file, keys = tmp_path / "audit.jsonl", tmp_path / "keys.jsonl"
    keys.write_text(line("web"))
    with opened(tmp_path, audit_log=file, keys_file=keys) as client:
        client.headers.update(keyed("web"))
        client.patch("/v1/items/item-1", json={"available": False}, headers={"X-Request-ID": "r1"})
        client.patch("/v1/items/item-1", json={"attributes": {"price": 2.0}})
        client.delete("/v1/items/item-1")
        client.post("/v1/items:batch", json={"items": [{"id": "item-2", "available": False}, {"id": "item-3"}, {}]})
        client.put("/v1/scenarios/page", json={"k": 3})
        client.put("/v1/scenarios/page", json={"k": 4})
        client.delete("/v1/scenarios/page")
        send(client, "visitor", "item-1")
        client.delete("/v1/sessions/visitor")
        assert client.delete("/v1/scenarios/page").status_code == 404
        assert client.get("/v1/items/item-2").status_code == 200
    written = lines(file)
    assert (written[0]["key"], written[0]["address"], written[0]["request_id"]) == ("web", "testclient", "r1")
    assert {entry["key"] for entry in written} == {"web"}
    assert [(entry["what"], entry["id"], entry["before"], entry["after"]) for entry in written] == [
        ("item changed", "item-1", None, {"available": False}),
        ("item changed", "item-1", {"available": False}, {"available": False, "attributes": {"price": 2.0}}),
        ("item deleted", "item-1", {"available": False, "attributes": {"price": 2.0}}, {"deleted": True}),
        ("item changed", "item-2", None, {"available": False}),
        ("item changed", "item-3", None, {}),
        ("scenario stored", "page", None, {"k": 3}),
        ("scenario stored", "page", {"k": 3}, {"k": 4}),
        ("scenario deleted", "page", {"k": 4}, None),
        ("session erased", session_digest("visitor"), None, None),
    ]
    assert "visitor" not in file.read_text()


def test_a_change_that_cannot_be_logged_is_answered_so(tmp_path: Path) -> None:
    publish_shop(tmp_path)
    file = tmp_path / "audit.jsonl"
    with opened(tmp_path, audit_log=file) as client:
        file.unlink()
        file.mkdir()
        assert problem(client.delete("/v1/items/item-1")) == (503, "audit_log_unavailable")
        assert 'onward_lost_records_total{what="audit log"}' in client.get("/metrics").text


def test_commands_are_lines(tmp_path: Path) -> None:
    file, keys = tmp_path / "audit.jsonl", tmp_path / "keys.jsonl"
    where = ["--file", str(keys), "--audit-log", str(file)]
    CliRunner().invoke(cli, ["key", "create", "--name", "web", "--scope", "events", *where])
    CliRunner().invoke(cli, ["key", "revoke", "web", *where])
    CliRunner().invoke(cli, ["key", "revoke", "web", *where])
    created, revoked = lines(file)
    assert (created["what"], created["id"], created["before"], created["after"]["scopes"]) == (
        "key created",
        "web",
        None,
        ["events"],
    )
    assert (revoked["what"], revoked["before"], revoked["after"]) == ("key revoked", created["after"], None)
    assert created["user"]


def test_a_command_whose_change_cannot_be_logged_changes_nothing(tmp_path: Path) -> None:
    keys, log = tmp_path / "keys.jsonl", tmp_path / "nowhere" / "audit.jsonl"
    arguments = ["key", "create", "--name", "web", "--scope", "events", "--file", str(keys), "--audit-log", str(log)]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: --audit-log: No such file or directory" in result.stderr
    assert not keys.exists()
