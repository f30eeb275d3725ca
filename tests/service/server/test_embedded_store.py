"""The embedded session store is reachable only by its owner, and ends with the service."""

import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from onward.service.server.embedded_store import StoreNotStarted, embedded_store, find_servers, run_server
from tests.service.process import wait_until

KILL_WITH_STORE = """
import os, signal
from redis import Redis
from onward.service.server.embedded_store import embedded_store

with embedded_store() as url:
    print("pid", Redis.from_url(url).info("server")["process_id"], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o700)
    return path


def test_it_is_reachable_only_through_a_socket_of_its_owner() -> None:
    with embedded_store() as url:
        assert url is not None
        socket = Path(url.removeprefix("unix://"))
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        with Redis.from_url(url) as redis:
            assert redis.config_get("port") == {"port": "0"}
            pid = int(redis.info("server")["process_id"])
    assert not socket.parent.exists()
    assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_it_ends_when_the_service_is_killed() -> None:
    killed = subprocess.run([sys.executable, "-c", KILL_WITH_STORE], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    pid = int(killed.stdout.rpartition("pid")[2])
    wait_until(lambda: not is_running(pid))


def test_a_server_on_path_comes_before_the_packaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = find_servers()[-1]
    for name in ("redis-server", "valkey-server"):
        executable(tmp_path / name, "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_servers()[:2] == [tmp_path / "valkey-server", tmp_path / "redis-server"]
    assert find_servers()[-1] == packaged


def test_the_next_server_is_tried_if_one_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = executable(tmp_path / "valkey-server", "#!/bin/sh\nexit 3\n")
    with pytest.raises(StoreNotStarted, match="ended with code 3"), run_server(broken):
        pass
    unusable = executable(tmp_path / "redis-server", "no program")
    servers = [broken, unusable, find_servers()[-1]]
    monkeypatch.setattr("onward.service.server.embedded_store.find_servers", lambda: servers)
    with embedded_store() as url:
        assert url is not None
        assert Redis.from_url(url).ping()


def test_it_is_started_again_on_its_socket_as_often_as_it_dies() -> None:
    with embedded_store() as url:
        assert url is not None
        pids: list[int] = []
        for _ in range(3):
            pids.append(wait_for_pid(url, pids))
            os.kill(pids[-1], signal.SIGKILL)
        pids.append(wait_for_pid(url, pids))
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids[:-1])  # none is a zombie
    assert not is_running(pids[-1])


def wait_for_pid(url: str, earlier: list[int]) -> int:
    pids: list[int] = []

    def is_new() -> bool:
        with suppress(RedisError), Redis.from_url(url) as redis:
            pids.append(int(redis.info("server")["process_id"]))
        return bool(pids) and pids[-1] not in earlier

    wait_until(is_new)
    return pids[-1]


def test_there_is_no_url_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onward.service.server.embedded_store.find_servers", list)
    with embedded_store() as url:
        assert url is None
