"""The service as real processes, while bundles, stores, workers and signals come and go."""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from redis import Redis

from onward.service.__main__ import main
from onward.service.live.stamps import LOCAL_FILE_SYSTEMS, STAMP_PREFIX, file_system
from onward.service.server.embedded_store import find_servers, run_server
from tests.bundles import item_ids, publish_bundle
from tests.service.http.test_scopes import line
from tests.service.process import ServiceProcess, wait_until

A_ITEMS, B_ITEMS = item_ids("a", 40), item_ids("b", 40)
BOTH = ["a1", "b1"]

Answers = list[httpx.Response]


def under_load(url: str, body: dict[str, Any], meanwhile: Callable[[], Awaitable[None]], callers: int = 4) -> Answers:
    """Request recommendations from several callers until `meanwhile` is done; return all answers in order."""

    async def run() -> Answers:
        answers: Answers = []
        done = asyncio.Event()

        async def call(client: httpx.AsyncClient) -> None:
            while not done.is_set():
                answers.append(await client.post("/v1/recommendations", json=body))

        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            tasks = [asyncio.create_task(call(client)) for _ in range(callers)]
            await meanwhile()
            done.set()
            await asyncio.gather(*tasks)
        return answers

    return asyncio.run(run())


async def until_live(service: ServiceProcess, digest: str) -> None:
    def is_live() -> bool:
        return any(line["bundle"] == digest for line in service.events("bundle live"))

    await asyncio.to_thread(wait_until, is_live)


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_bundles_are_swapped_under_load_without_a_failed_or_mixed_answer(tmp_path: Path) -> None:
    digests = {publish_bundle(tmp_path, A_ITEMS, seed=0): "a"}
    with ServiceProcess(tmp_path).wait_until_ready() as service:

        async def swap_ten_times() -> None:
            for seed in range(1, 11):
                prefix, items = ("b", B_ITEMS) if seed % 2 else ("a", A_ITEMS)
                digest = await asyncio.to_thread(publish_bundle, tmp_path, items, seed=seed)
                digests[digest] = prefix
                await until_live(service, digest)

        answers = under_load(service.url, {"items": BOTH, "k": 10}, swap_ten_times)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["bundle"] for answer in answers}) > 5
        for answer in map(httpx.Response.json, answers):
            prefix = digests[answer["bundle"]]
            assert [item["id"][0] for item in answer["items"]] == [prefix] * 10
            assert answer["unknown_item_ids"] == [item for item in BOTH if item[0] != prefix]


def test_a_damaged_bundle_is_reported_in_log_metric_and_readiness_while_the_old_one_serves(tmp_path: Path) -> None:
    good = publish_bundle(tmp_path, A_ITEMS)
    with ServiceProcess(tmp_path).wait_until_ready() as service:

        async def publish_a_damaged_one() -> None:
            staged = tmp_path / ("0" * 64)
            await asyncio.to_thread(shutil.copytree, tmp_path / good, staged)
            (staged / "ids.txt").write_text("")
            (tmp_path / "link").symlink_to(staged.name)
            os.replace(tmp_path / "link", tmp_path / "current")
            await asyncio.to_thread(wait_until, lambda: service.events("bundle refused"))

        answers = under_load(service.url, {"items": ["a1"]}, publish_a_damaged_one)
        assert {(answer.status_code, answer.json()["bundle"]) for answer in answers} == {(200, good)}
        readiness = httpx.get(f"{service.url}/health/ready").json()
        assert (readiness["status"], readiness["bundle"]) == ("ready", good)
        assert readiness["refused"]["bundle"] == "0" * 64
        assert "SHA-256" in readiness["refused"]["reason"]
        assert metric(service.url, 'onward_bundles_total{outcome="refused"}') == 1
        assert [line["reason"] for line in service.events("bundle refused")] == [readiness["refused"]["reason"]]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_of_the_served_bundle_may_be_truncated(tmp_path: Path, workers: str) -> None:
    digest = publish_bundle(tmp_path, A_ITEMS)
    with ServiceProcess(tmp_path, "--workers", workers).wait_until_ready() as service:
        wait_until(lambda: len(service.events("encoding")) == int(workers))

        def answers() -> list[Any]:
            bodies = [{"items": ["a1", f"a{number}"], "exact": number % 2 == 0, "k": 5} for number in range(2, 40)]
            responses = [httpx.post(f"{service.url}/v1/recommendations", json=body, timeout=30) for body in bodies]
            return [[item["id"] for item in response.json()["items"]] for response in responses]

        before = answers()
        for path in (tmp_path / digest).iterdir():
            os.truncate(path, 0)
        wait_until(lambda: len(service.events("bundle refused")) == int(workers))
        assert answers() == before
        readiness = httpx.get(f"{service.url}/health/ready", timeout=30).json()
        assert (readiness["status"], readiness["bundle"], readiness["refused"]["bundle"]) == ("ready", digest, digest)
        assert "serves on as it was loaded" in readiness["refused"]["reason"]
        assert not service.events("Child process [%d] died")
        assert service.stop() == 0


def test_a_single_bundle_is_served_from_its_folder_and_followed_if_that_is_a_link(tmp_path: Path) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with ServiceProcess(tmp_path / "current").wait_until_ready() as service:
        digest = publish_bundle(tmp_path, B_ITEMS)
        wait_until(lambda: httpx.get(f"{service.url}/health/ready").json().get("bundle") == digest)
        assert not service.events("bundle refused")


@pytest.mark.slow
def test_an_unusable_current_is_named_once_in_the_log_and_in_readiness(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("current")
    with ServiceProcess(tmp_path) as service, service.client() as client:
        wait_until(lambda: service.events("bundle refused"))
        time.sleep(0.5)  # ten more checks
        assert [line["reason"] for line in service.events("bundle refused")] == [
            f"current: links to itself in {tmp_path}"
        ]
        problem = client.get("/health/ready").json()
        assert (problem["code"], "links to itself" in problem["detail"]) == ("not_ready", True)
        assert not service.events("background work failed")


def test_the_service_runs_without_a_bundle_and_becomes_ready_when_one_appears(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path) as service, service.client() as client:
        assert client.get("/health/live").status_code == 200
        for path in ("/health/ready", "/v1/items:popular", "/v1/sessions/s/recommendations"):
            response = client.get(path)
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        assert client.get("/v1/version").json() == {"service": version("onward")}
        assert client.post("/v1/events", json={"session_id": "s", "item_id": "a1"}).status_code == 200
        publish_bundle(tmp_path, A_ITEMS)
        service.wait_until_ready()
        answer = client.get("/v1/sessions/s/recommendations").json()
        assert {item["source"] for item in answer["items"]} == {"encoder"}


@pytest.mark.parametrize("fault", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_recommendations_continue_when_the_store_dies_or_hangs(tmp_path: Path, fault: signal.Signals) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with run_server(find_servers()[0]) as url:
        store_pid = int(Redis.from_url(url).info("server")["process_id"])
        with ServiceProcess(tmp_path, environment={"REDIS_URL": url}).wait_until_ready() as service:

            async def fail_the_store() -> None:
                await asyncio.sleep(0.5)
                os.kill(store_pid, fault)
                await asyncio.sleep(1)

            answers = under_load(service.url, {"session_id": "s", "items": ["a1"], "k": 3}, fail_the_store)
            bodies = [answer.json() for answer in answers]
            assert {answer.status_code for answer in answers} == {200}
            assert bodies[0]["degraded"] == []
            assert bodies[-1]["degraded"] == ["session_store"]
            assert {item["source"] for item in bodies[-1]["items"]} == {"encoder"}  # the caller's own items

            with service.client() as client:
                stored = client.get("/v1/sessions/s/recommendations?k=3").json()
                assert (stored["degraded"], stored["items"][0]["source"]) == (["session_store"], "popular")
                for response in (
                    client.post("/v1/events", json={"session_id": "s", "item_id": "a1"}),
                    client.get("/v1/sessions/s"),
                    client.delete("/v1/sessions/s"),
                ):
                    assert (response.status_code, response.json()["code"]) == (503, "session_store_unavailable")
                assert client.get("/health/ready").status_code == 200
            assert metric(service.url, "onward_degraded_answers_total") > 0
            assert len(service.events("session store failed")) == 1
            assert service.stop() == 0
            (ended,) = [line for line in service.events("fault ended") if line["fault"] == "session store failed"]
            assert ended["times"] > 10
            assert ended["degraded_answers"] > 10
        if fault == signal.SIGSTOP:
            os.kill(store_pid, signal.SIGCONT)


def test_two_workers_share_sessions_metrics_and_bundles_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with ServiceProcess(tmp_path, "--workers", "2").wait_until_ready() as service:
        wait_until(lambda: len(service.events("bundle live")) == 2)

        def pids() -> set[int]:
            children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
            return {pid for pid in map(int, children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}

        workers = pids()
        assert len(workers) == 2
        for number in range(40):  # each on a new connection, so that both workers serve some
            event = {"session_id": "shared", "item_id": f"a{number + 1}"}
            assert httpx.post(f"{service.url}/v1/events", json=event).json()["applied"] == 1
        assert httpx.get(f"{service.url}/v1/sessions/shared").json()["count"] == 40
        assert metric(service.url, 'onward_events_total{outcome="applied"}') == 40

        os.kill(min(workers), signal.SIGKILL)
        wait_until(lambda: len(service.events("bundle live")) == 3)
        digest = publish_bundle(tmp_path, B_ITEMS)
        wait_until(lambda: sum(line["bundle"] == digest for line in service.events("bundle live")) == 2)
        for _ in range(10):
            assert httpx.get(f"{service.url}/v1/version").json()["bundle"] == digest
        assert httpx.get(f"{service.url}/v1/sessions/shared").json()["count"] == 40
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_embedded_store_is_started_again_when_it_dies(tmp_path: Path, workers: str) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with ServiceProcess(tmp_path, "--workers", workers).wait_until_ready() as service, service.client() as client:
        assert client.patch("/v1/items/new", json={"attributes": {"colour": "red"}}).status_code == 200
        url = service.events("embedded session store started")[0]["url"]
        for time_killed in (1, 2):
            os.kill(store_pid(url), signal.SIGKILL)
            wait_until(lambda count=1 + time_killed: len(service.events("embedded session store started")) == count)
            event = {"session_id": "s", "item_id": "a1"}
            wait_until(lambda event=event: client.post("/v1/events", json=event).status_code == 200)
            wait_until(lambda: live_items(url))
            assert [line["code"] for line in service.events("embedded session store ended")] == [-9] * time_killed
        assert client.get("/v1/items/new").status_code == 200
        children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] for pid in children]
        assert "Z" not in states
        assert service.stop() == 0


def store_pid(url: str) -> int:
    return int(Redis.from_url(url).info("server")["process_id"])


def live_items(url: str) -> list[bytes]:
    """Return the keys of the store that hold live items."""
    return [key for key in Redis.from_url(url).scan_iter() if b"items" in key]


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path, "--workers", "2") as service:
        wait_until(lambda: len(service.events("Application startup complete.")) == 2)
        children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        service.stop(signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def test_requests_in_flight_are_answered_before_the_service_stops(tmp_path: Path) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    body = json.dumps({"items": ["a1"]}).encode()
    head = (
        f"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    with ServiceProcess(tmp_path).wait_until_ready() as service:
        host, port = service.url.removeprefix("http://").split(":")
        connections = [socket.create_connection((host, int(port)), timeout=30) for _ in range(10)]
        for connection in connections:
            connection.sendall(f"{head}\r\n\r\n".encode() + body[:5])
        time.sleep(0.3)
        os.kill(service.pid, signal.SIGTERM)
        wait_until(lambda: service.events("Waiting for connections to close. (CTRL+C to force quit)"))
        for connection in connections:
            connection.sendall(body[5:])
        answers = [connection.makefile("rb").read() for connection in connections]
        for connection in connections:
            connection.close()
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers), answers
        assert service.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_no_process_or_folder_is_left_after_a_stop(tmp_path: Path, number: signal.Signals) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a unix socket is limited
        temporary = Path(folder)
        with ServiceProcess(tmp_path, environment={"TMPDIR": folder}).wait_until_ready() as service:
            assert list(temporary.glob("onward-valkey-*"))
            children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
            assert children
            assert service.stop(number) == 0
        assert not list(temporary.iterdir())
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


@pytest.mark.slow
@pytest.mark.skipif(
    file_system(Path("/tmp")) not in LOCAL_FILE_SYSTEMS,  # noqa: S108  # only looked at
    reason="files of other machines are hashed by each worker",
)
@pytest.mark.parametrize("copying", ["true", "false"])
def test_a_bundle_is_hashed_once_for_all_workers_and_not_when_one_is_replaced(tmp_path: Path, copying: str) -> None:
    digest = publish_bundle(tmp_path, A_ITEMS)
    for file in (tmp_path / digest).iterdir():
        file.chmod(0o444)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a unix socket is limited
        environment = {"TMPDIR": folder, "SERVICE_COPY_BUNDLES": copying}
        with ServiceProcess(tmp_path, "--workers", "2", environment=environment).wait_until_ready() as service:
            wait_until(lambda: len(service.events("bundle live")) == 2)
            (stamp,) = Path(folder).glob(f"onward-bundles-*/{STAMP_PREFIX}{digest}")
            copies = [path for path in stamp.parent.iterdir() if path.is_dir()]
            assert len(copies) == (copying == "true")
            first = stamp.stat().st_ino, stamp.stat().st_mtime_ns
            children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
            os.kill(
                next(int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()),
                signal.SIGKILL,
            )
            wait_until(lambda: len(service.events("bundle live")) == 3)
            assert (stamp.stat().st_ino, stamp.stat().st_mtime_ns) == first  # who hashes writes a new one
            assert service.stop() == 0
        assert not list(Path(folder).iterdir())


@pytest.mark.slow
def test_folders_of_a_killed_service_are_removed_at_the_next_start(tmp_path: Path) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a unix socket is limited
        temporary = Path(folder)
        with ServiceProcess(tmp_path, "--workers", "2", environment={"TMPDIR": folder}).wait_until_ready() as service:
            left = {path.name for path in temporary.iterdir()}
            assert {name.rpartition("-")[0] for name in left} == {"onward-valkey", "onward-counts", "onward-bundles"}
            os.kill(service.pid, signal.SIGKILL)
        with ServiceProcess(tmp_path, environment={"TMPDIR": folder}).wait_until_ready() as service:
            assert not left & {path.name for path in temporary.iterdir()}
            assert service.stop() == 0
        assert not list(temporary.iterdir())


def test_every_log_line_is_json_and_names_its_request(tmp_path: Path) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with ServiceProcess(tmp_path, environment={"SERVICE_LOG_LEVEL": "debug"}).wait_until_ready() as service:
        evil = quote('\n{"event": "forged"}\x1b[31m')
        httpx.get(f"{service.url}/v1/items/{evil}/similar", headers={"X-Request-ID": "trace-9"})
        wait_until(lambda: any(line.get("request_id") == "trace-9" for line in service.log))
        assert not service.events("forged")  # ServiceProcess parses each line of the log as JSON


@pytest.mark.slow
def test_thread_pools_are_limited_and_the_server_header_is_absent(tmp_path: Path) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with ServiceProcess(tmp_path).wait_until_ready() as service:
        environment = Path(f"/proc/{service.pid}/environ").read_bytes()
        assert b"torch" not in Path(f"/proc/{service.pid}/maps").read_bytes()
        assert b"PROMETHEUS_MULTIPROC_DIR" not in environment
        for _ in range(20):
            response = httpx.post(f"{service.url}/v1/recommendations", json={"items": ["a1"]})
        assert "server" not in response.headers
        threads = len(list(Path(f"/proc/{service.pid}/task").iterdir()))
        assert threads <= 3 + min(
            32, (os.cpu_count() or 1) + 4
        )  # the event loop's pool, but no pools of OpenMP or BLAS


def test_ids_of_any_characters_survive_http(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path) as service, service.client() as client:
        for odd_id in ("a%2Fb", "a/b", "é日😀", "x" * 128, "{x}:*"):
            client.post("/v1/events", json={"session_id": odd_id, "item_id": odd_id})
            assert client.get(f"/v1/sessions/{quote(odd_id, safe='')}").json()["session_id"] == odd_id


def test_a_huge_body_is_refused_without_being_buffered(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path) as service, service.client() as client:
        client.get("/health/live")
        before = resident_kib(service.pid)
        statuses: Counter[int | str] = Counter()
        for _ in range(20):
            try:
                headers = {"content-type": "application/json"}
                statuses[client.post("/v1/recommendations", content=b" " * 10**7, headers=headers).status_code] += 1
            except httpx.TransportError:  # the service closes the connection before the body ends
                statuses["closed"] += 1
        assert set(statuses) <= {413, "closed"}
        assert resident_kib(service.pid) - before < 10 * 1024
        assert client.get("/health/live").status_code == 200


def resident_kib(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1])


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--bundles", "nowhere"], {}, "SERVICE_BUNDLES: Path does not point to a directory"),
        ([], {}, "SERVICE_BUNDLES: Field required"),
        (["--bundles", ".", "--port", "70000"], {}, "SERVICE_PORT: Input should be less than or equal to 65535"),
        (["--bundles", "."], {"SERVICE_SESSION_TTL": "1h"}, "SERVICE_SESSION_TTL: a duration is written in seconds or"),
        (["--bundles", "."], {"SERVICE_SESSION_TTL": "0"}, "SERVICE_SESSION_TTL: a duration here is more than 0"),
        (["--bundles", "."], {"SERVICE_ANSWER_TTL": "-PT1S"}, "SERVICE_ANSWER_TTL: a duration is 0 or more"),
        (["--bundles", "."], {"SERVICE_WORKERS": "0"}, "SERVICE_WORKERS: "),
        (["--bundles", ".", "--workers", "2"], {"REDIS_URL": "memory://"}, "several workers cannot share sessions"),
        (["--bundles", "."], {"REDIS_URL": "http://secret@host"}, "REDIS_URL: "),
        (["--bundles", "."], {"SERVICE_API_KEYS": "a-secret"}, "SERVICE_API_KEYS: SHA-256 digests"),
        (["--bundles", "."], {"SERVICE_API_KEYS": f"{'0' * 64},"}, "SERVICE_API_KEYS: "),
        (["--bundles", "."], {"SERVICE_RATE_LIMIT": "often"}, "SERVICE_RATE_LIMIT: a limit is written as"),
        (["--bundles", "."], {"SERVICE_RATE_LIMIT": "0/second"}, "SERVICE_RATE_LIMIT: "),
        (["--bundles", "."], {"SERVICE_RATE_LIMIT_SCOPE": "all"}, "SERVICE_RATE_LIMIT_SCOPE: Input should be 'worker'"),
        (["--bundles", "."], {"SERVICE_RATE_LIMIT_SCOPE": "deployment"}, "SERVICE_RATE_LIMIT_SCOPE=deployment is of"),
        (["--bundles", "."], {"SERVICE_MAX_IN_FLIGHT": "0"}, "SERVICE_MAX_IN_FLIGHT: "),
        (["--bundles", "."], {"SERVICE_EVENT_LOG": "/proc"}, "SERVICE_EVENT_LOG: "),
        (["--bundles", "."], {"SERVICE_EVENT_LOG_KEY": "secret"}, "SERVICE_EVENT_LOG_KEY: must have 16 or more"),
        (["--bundles", "."], {"SERVICE_EVENT_LOG_MAX_AGE": "0"}, "SERVICE_EVENT_LOG_MAX_AGE: a duration here is"),
        (["--bundles", "."], {"SERVICE_EVENT_LOG_MAX_BYTES": "-1"}, "SERVICE_EVENT_LOG_MAX_BYTES: "),
        (["--bundles", "."], {"SERVICE_EVENT_LOG_MAX_AGE": "1"}, "SERVICE_EVENT_LOG_MAX_AGE is of an event log: set"),
        (["--bundles", "."], {"SERVICE_EVENT_LOG_KEY": "secret" * 4}, "SERVICE_EVENT_LOG_KEY is of an event log: set"),
        (["--bundles", "."], {"SERVICE_EVENT_LOG_SYNC": "0"}, "SERVICE_EVENT_LOG_SYNC is of an event log: set"),
    ],
)
def test_an_invalid_setting_stops_the_start_with_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    environment: dict[str, str],
    message: str,
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["onward-service", "serve", *options])
    monkeypatch.setattr(logging.root, "handlers", [])  # the command adds its own
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert "secret" not in error


def test_a_folder_of_a_tenants_event_log_that_cannot_be_used_stops_the_start_with_one_line(tmp_path: Path) -> None:
    keys, log = tmp_path / "keys", tmp_path / "log"
    keys.write_text(line("key-of-a-shop", "events", tenant="shop"))
    log.mkdir()
    (log / "shop").write_text("a file in the place of a folder")
    ended = subprocess.run(
        [sys.executable, "-m", "onward.service", "serve", "--bundles", "."],
        env=os.environ | {"SERVICE_KEYS_FILE": str(keys), "SERVICE_EVENT_LOG": str(log)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (2, f"error: SERVICE_EVENT_LOG: File exists: {log / 'shop'}\n")


def test_help_shows_an_example() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "onward.service", "serve", "--help"], capture_output=True, text=True, check=True
    )
    assert "onward-service serve --bundles" in ended.stdout
    assert "REDIS_URL" in ended.stdout


@pytest.mark.slow
def test_a_long_path_of_the_temporary_folder_does_not_prevent_the_start(tmp_path: Path) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    with ServiceProcess(tmp_path, environment={"TMPDIR": str(deep)}).wait_until_ready() as service:
        assert service.events("embedded session store started")


@pytest.mark.slow
def test_of_two_services_with_several_workers_on_one_port_the_second_is_refused(tmp_path: Path) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "onward.service", "serve", "--bundles", str(tmp_path), "--port", port]
    services = [subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        wait_until(lambda: any(service.poll() is not None for service in services))
        (refused,) = [service for service in services if service.poll() is not None]
        assert refused.returncode != 0
        _, log = refused.communicate()
        assert "another service" in log or "ddress already in use" in log
    finally:
        for service in services:
            service.kill()
            service.wait()
            assert service.stderr is not None
            service.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_unix_socket_is_taken_if_it_was_left_behind_but_not_from_another_service(
    tmp_path: Path, workers: str
) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    path, file = tmp_path / "socket", tmp_path / "file"
    file.touch()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    command = [sys.executable, "-m", "onward.service", "serve", "--bundles", str(tmp_path), "--workers", workers]
    with (
        ServiceProcess(tmp_path, "--workers", workers, environment={"SERVICE_UDS": str(path)}) as service,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://here") as client,
    ):
        wait_until(lambda: service.events("bundle live"))
        for taken, reason in ((path, "another service listens there"), (file, "not a socket")):
            refused = subprocess.run(
                command,
                env=os.environ | {"SERVICE_UDS": str(taken)},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert refused.returncode == 2
            assert refused.stderr == f"error: SERVICE_UDS: {reason}: {taken}\n"
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert service.stop() == 0
    assert not path.exists()
    assert file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_ipv6_address_accepts_ipv4_with_any_number_of_workers(tmp_path: Path, workers: str) -> None:
    publish_bundle(tmp_path, A_ITEMS)
    with ServiceProcess(tmp_path, "--host", "::", "--workers", workers) as service:
        port = service.url.rpartition(":")[2]
        for address in ("127.0.0.1", "[::1]"):
            wait_until(lambda address=address: is_live(f"http://{address}:{port}"))


def is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").status_code == 200
    except httpx.ConnectError:
        return False


@pytest.mark.slow
def test_a_service_that_others_reach_without_a_key_says_so_once(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jsonl"
    keys.touch()
    warned = {}
    for host, environment in (("0.0.0.0", {}), ("0.0.0.0", {"SERVICE_KEYS_FILE": str(keys)}), ("127.0.0.1", {})):  # noqa: S104
        options = ["--host", host, "--workers", "2"]
        with ServiceProcess(tmp_path, *options, environment=environment) as process:
            assert process.url
            warned[host, bool(environment)] = sum("OPEN TO ALL" in line["event"] for line in process.log)
    assert warned == {("0.0.0.0", False): 1, ("0.0.0.0", True): 0, ("127.0.0.1", False): 0}  # noqa: S104


@pytest.mark.parametrize(
    ("variable", "reason"),
    [("SERVICE_KEYS_FILE", "keys.jsonl, line 1: Invalid JSON"), ("SERVICE_AUDIT_LOG", "Not a directory")],
)
def test_files_that_cannot_be_used_stop_the_start_with_one_line(tmp_path: Path, variable: str, reason: str) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text("{")
    value = file if variable == "SERVICE_KEYS_FILE" else file / "audit.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "onward.service", "serve", "--bundles", str(tmp_path), "--port", "0"],
        env=os.environ | {variable: str(value)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {variable}: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
