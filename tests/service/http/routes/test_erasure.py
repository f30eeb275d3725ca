"""Erasing a user: everything that the service has stored, and the lines of an event log."""

import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from onward.service.cli import cli
from onward.service.records.event_log_erasure import erase_user
from onward.service.records.user_sessions import user_digest
from onward.service.settings import IN_MEMORY
from tests.service.process import wait_until
from tests.service.shop import UNHURRIED, get, opened, problem, publish_shop, recommend, send, stored_keys


def index_key(user_id: str) -> bytes:
    return f"onward:user:{{{user_digest(user_id)}}}:sessions".encode()


NOW = datetime(2026, 11, 30, 12, 30, tzinfo=UTC)


@pytest.fixture(params=["memory", "redis"])
def client(request: pytest.FixtureRequest, tmp_path: Path, valkey: str) -> Iterator[TestClient]:
    publish_shop(tmp_path)
    with opened(tmp_path, IN_MEMORY if request.param == "memory" else valkey, **UNHURRIED) as client:
        yield client


def explanation(client: TestClient, answer: dict[str, Any]) -> Any:
    return client.get(f"/v1/recommendations/{answer['recommendation_id']}/explanation")


def test_all_sessions_and_answers_of_a_user_are_erased_and_no_others(client: TestClient) -> None:
    with_session = [
        recommend(client, user_id="u/1", session_id=f"of-u-{number}", items=["item-1"], k=3) for number in range(3)
    ]
    alone = recommend(client, user_id="u/1", items=["item-2"], k=3)
    others = recommend(client, user_id="u", session_id="of-another", items=["item-1"], k=3)
    send(client, "of-u-0", "item-3", "purchase")
    client.post(f"/v1/recommendations/{with_session[0]['recommendation_id']}/next")
    assert {explanation(client, answer).status_code for answer in (*with_session, alone, others)} == {200}
    assert client.delete("/v1/users/u%2F1").status_code == 204
    for number in range(3):
        assert problem(client.get(f"/v1/sessions/of-u-{number}")) == (404, "session_not_found")
    for answer in (*with_session, alone):
        assert problem(explanation(client, answer)) == (404, "recommendation_not_found")
    assert get(client, "/v1/sessions/of-another")["count"] == 1
    assert explanation(client, others).status_code == 200
    assert client.delete("/v1/users/u%2F1").status_code == 204
    assert client.delete("/v1/users/never-seen").status_code == 204


def test_an_answer_that_is_not_written_yet_is_erased_too(client: TestClient) -> None:
    answer = recommend(client, user_id="hasty", session_id="hasty-session", items=["item-1"], k=3)
    assert client.delete("/v1/users/hasty").status_code == 204
    assert problem(explanation(client, answer)) == (404, "recommendation_not_found")
    assert problem(client.get("/v1/sessions/hasty-session")) == (404, "session_not_found")


def test_what_was_not_stored_leaves_no_trace_of_the_user(tmp_path: Path, valkey: str) -> None:
    publish_shop(tmp_path)
    with opened(tmp_path, valkey, **UNHURRIED) as client:
        recommend(client, user_id="stored-user", session_id="stored-session", items=["item-1"])
        wait_until(lambda: index_key("stored-user") in stored_keys(valkey))
        recommend(client, user_id="dry", session_id="s", items=["item-1"], dry_run=True)
        recommend(client, user_id="no-consent", session_id="s", items=["item-1"], store=False)
        client.delete("/v1/users/stored-user")
        left = stored_keys(valkey)
    assert left.keys().isdisjoint(map(index_key, ("stored-user", "dry", "no-consent")))
    assert not any(b"stored-user" in key + value for key, value in left.items())


def name(kind: str, made: datetime, number: int = 0) -> str:
    return f"{kind}-{made:%Y%m%dT%H%M%SZ}-{number:08x}.jsonl"


def write(file: Path, *lines: dict[str, Any] | str) -> Path:
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def test_the_lines_of_a_user_and_of_the_users_sessions_are_removed_from_the_event_log(tmp_path: Path) -> None:
    past = NOW - timedelta(hours=3)
    kept_answer = {"user_id": "other", "session_id": "s9"}
    answers = write(
        tmp_path / name("answers", past),
        {"user_id": "u", "session_id": "s1"},
        kept_answer,
        {"user_id": "u"},
        {"session_id": "s1"},
    )
    answers.chmod(0o640)
    kept_events: list[Any] = [{"session_id": "s9", "item_id": "u"}, '{"session_id": "s1', "[]"]
    events = write(tmp_path / name("events", past), {"session_id": "s1", "item_id": "a"}, *kept_events)
    untouched = write(tmp_path / name("events", past, 1), kept_answer)
    other = write(tmp_path / "notes.jsonl", {"user_id": "u"})
    unchanged = {file: (file.read_bytes(), file.stat().st_ino) for file in (untouched, other)}
    assert erase_user(tmp_path, "u", NOW) == (4, [])
    assert [json.loads(line) for line in answers.read_text().splitlines()] == [kept_answer]
    assert stat.S_IMODE(answers.stat().st_mode) == 0o640
    assert events.read_text() == f"{json.dumps(kept_events[0])}\n{kept_events[1]}\n[]\n"
    assert {file: (file.read_bytes(), file.stat().st_ino) for file in unchanged} == unchanged
    assert len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize(
    ("made", "is_left"),
    [
        (NOW - timedelta(minutes=10), True),
        (NOW.replace(minute=0), True),
        (NOW - timedelta(minutes=31), False),
    ],
)
def test_files_that_a_service_may_be_writing_are_left_and_named(tmp_path: Path, made: datetime, is_left: bool) -> None:
    file = write(tmp_path / name("answers", made), {"user_id": "u", "session_id": "s1"})
    closed = write(tmp_path / name("events", NOW - timedelta(days=1)), {"session_id": "s1"})
    assert erase_user(tmp_path, "u", NOW) == ((1, [file.name]) if is_left else (2, []))
    assert closed.read_text() == ""
    assert erase_user(tmp_path, "u", None) == (int(is_left), [])
    assert file.read_text() == ""


def test_the_command_erases_from_the_log_of_a_service(tmp_path: Path) -> None:
    bundles, log = tmp_path / "bundles", tmp_path / "log"
    bundles.mkdir()
    log.mkdir()
    publish_shop(bundles)
    with opened(bundles, event_log=log) as client:
        recommend(client, user_id="u", session_id="s", items=["item-1"])
        recommend(client, user_id="v", session_id="t", items=["item-2"])
        wait_until(lambda: sum(file.read_text().count("\n") for file in log.iterdir()) == 4)
        arguments = ["erase-user", "u", "--event-log", str(log), "--audit-log", str(tmp_path / "audit.jsonl")]
        left = CliRunner().invoke(cli, arguments)
    assert (left.exit_code, left.stdout) == (1, "removed 0 lines\n")
    assert "answers-" in left.stderr
    done = CliRunner().invoke(cli, [*arguments, "--stopped"])
    assert (done.exit_code, done.stdout) == (0, "removed 2 lines\n")
    assert sum(file.read_text().count("\n") for file in log.iterdir()) == 2
    audited = (tmp_path / "audit.jsonl").read_text()
    assert audited.count('"user erased from event log"') == 2
    missing = CliRunner().invoke(cli, ["erase-user", "u", "--event-log", str(tmp_path / "nowhere")])
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "No such file or directory" in missing.stderr
