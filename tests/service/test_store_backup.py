"""What the store keeps is backed up to a file while the service runs, and restored into an empty store."""

import gzip
import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from onward.service.cli import cli
from tests.bundles import publish_bundle
from tests.redis_servers import RedisServer, redis_servers
from tests.service.process import ServiceProcess, wait_until

IDS = [f"a-{number}" for number in range(20)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, IDS)
    return folder


@pytest.fixture(scope="module")
def used(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A store that a service has written all kinds of data to."""
    with redis_servers(tmp_path_factory.mktemp("used"), 1) as (server,):
        with serving(bundles, server) as service, service.client() as client:
            client.patch("/v1/items/a-3", json={"available": False}).raise_for_status()
            client.put("/v1/scenarios/page", json={"k": 3}).raise_for_status()
            events = [{"session_id": "s-1", "item_id": "a-1", "type": "purchase"}]
            client.post("/v1/events", json={"events": events}).raise_for_status()
            query = {"session_id": "s-2", "items": ["a-2"], "scenario": "page"}
            client.post("/v1/recommendations", json=query).raise_for_status()
            wait_until(lambda: popular(client) == "a-1")
            wait_until(lambda: answers_counted(client) == 1)
            assert service.stop() == 0
        yield server


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_servers(tmp_path / "empty", 1) as (server,):
        yield server


def serving(bundles: Path, server: RedisServer) -> ServiceProcess:
    return ServiceProcess(bundles, environment={"REDIS_URL": server.url}).wait_until_ready()


def popular(client: httpx.Client) -> str | None:
    items = client.get("/v1/items:popular", params={"k": 1}).raise_for_status().json()["items"]
    return items[0]["id"] if items else None


def answers_counted(client: httpx.Client) -> int:
    response = client.get("/v1/metrics/online", params={"window": "PT1H"}).raise_for_status()
    return sum(outcome["answers"] for outcome in response.json()["outcomes"])


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def backed_up(server: RedisServer, folder: Path, *options: str) -> Path:
    file = folder / "onward.backup.gz"
    done = run("backup", file, "--redis-url", server.url, *options)
    assert done.exit_code == 0, done.output
    return file


def test_a_service_on_a_restored_store_knows_what_the_first_one_knew(
    bundles: Path, used: RedisServer, empty: RedisServer, tmp_path: Path
) -> None:
    file = backed_up(used, tmp_path, "--sessions")
    done = run("restore", file, "--redis-url", empty.url)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"restored {used.execute('DBSIZE')} keys\n")
    with serving(bundles, empty) as service, service.client() as client:
        assert client.get("/v1/items/a-3").json()["available"] is False
        assert client.get("/v1/scenarios/page").json()["options"]["k"] == 3
        assert client.get("/v1/sessions/s-1").json()["events"][0]["item_id"] == "a-1"
        assert popular(client) == "a-1"
        assert answers_counted(client) == 1
        query = {"session_id": "s-2", "items": ["a-4"], "scenario": "page"}
        answer = client.post("/v1/recommendations", json=query).raise_for_status().json()
        assert len(answer["items"]) == 3
        assert not answer["degraded"]


def test_visitors_are_backed_up_only_if_asked_for(used: RedisServer, empty: RedisServer, tmp_path: Path) -> None:
    file = backed_up(used, tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("restore", file, "--redis-url", empty.url).exit_code == 0
    names = {name.decode().split(":")[1].strip("{}") for name in empty.execute("KEYS", "*")}
    assert {"items", "scenarios"} <= names
    assert not names & {"session", "user", "answer-secret"}


def test_times_to_live_go_on_and_what_has_expired_is_left_out(
    used: RedisServer, empty: RedisServer, tmp_path: Path
) -> None:
    file = backed_up(used, tmp_path, "--sessions")
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    keys = [json.loads(line) for line in lines[1:]]
    first = next(place for place, key in enumerate(keys) if key["expires_ms"])
    keys[first]["expires_ms"] = 1
    file.write_bytes(gzip.compress("\n".join([lines[0], *map(json.dumps, keys)]).encode()))
    done = run("restore", file, "--redis-url", empty.url)
    assert done.output.endswith("left out 1 keys that have expired since\n")
    assert empty.execute("DBSIZE") == len(keys) - 1
    for key in keys:
        if key["expires_ms"] > 1:
            assert abs(empty.execute("PEXPIRETIME", key["key"]) - key["expires_ms"]) <= 1


def test_a_store_that_holds_data_is_left_as_it_is(used: RedisServer, tmp_path: Path) -> None:
    before = used.execute("DBSIZE")
    done = run("restore", backed_up(used, tmp_path), "--redis-url", used.url)
    assert done.exit_code == 2
    assert "the store holds data of Onward already" in done.output
    assert used.execute("DBSIZE") == before


@pytest.mark.parametrize("damage", ["cut", "flipped", "another line", "another format", "not packed", "missing"])
def test_a_damaged_backup_is_refused_in_one_line_and_nothing_is_restored(
    damage: str, used: RedisServer, empty: RedisServer, tmp_path: Path
) -> None:
    file = backed_up(used, tmp_path)
    content = file.read_bytes()
    text = gzip.decompress(content)
    damaged = {
        "cut": content[: len(content) // 2],
        "flipped": content[:200] + bytes([content[200] ^ 255]) + content[201:],
        "another line": gzip.compress(text + b'{"key": "onward:x"}\n'),
        "another format": gzip.compress(text.replace(b'"format":1', b'"format":2', 1)),
        "not packed": text,
    }
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    done = run("restore", file, "--redis-url", empty.url)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {file}: ")
    assert done.output.count("\n") == 1
    assert empty.execute("DBSIZE") == 0


def test_a_failed_backup_leaves_the_one_before(used: RedisServer, tmp_path: Path) -> None:
    file = backed_up(used, tmp_path)
    before = file.read_bytes()
    done = run("backup", file, "--redis-url", "redis://127.0.0.1:1")
    assert done.exit_code == 2
    assert done.output == "error: --redis-url: no Redis or Valkey answers there\n"
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]
    shutil.rmtree(tmp_path)
    done = run("backup", file, "--redis-url", used.url)
    assert (done.exit_code, done.output) == (2, f"error: {file}: No such file or directory\n")
