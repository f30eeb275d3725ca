"""Bundles are pulled from a real S3 server: by a service itself, and by a process beside services."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from onward.bundle import current_digest
from onward.bundle.files.manifest import VECTORS
from onward.bundle.remote_bundles import working_copy
from onward.bundle.storage import Address, ObjectStore
from onward.service import telemetry
from onward.service.cli import cli
from tests.bundles import item_ids, publish_bundle
from tests.s3_server import BUCKET, S3Server, s3_server
from tests.service.process import ServiceProcess, wait_until

IDS = item_ids("a", 10)
ADDRESS = Address("s3", BUCKET, "bundles")


@pytest.fixture(autouse=True)
def logging_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets up the log of its process, which is that of all tests here."""
    monkeypatch.setattr(telemetry, "configure_logging", lambda _level: None)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as server:
        yield server


def published(seed: int) -> str:
    with working_copy(ADDRESS) as folder:
        return publish_bundle(folder, IDS, seed=seed)


def health(service: ServiceProcess) -> dict[str, object]:
    answer: dict[str, object] = httpx.get(f"{service.url}/health/ready", timeout=30).json()
    return answer


def metric(service: ServiceProcess, name: str) -> float:
    lines = httpx.get(f"{service.url}/metrics", timeout=30).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def command(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["pull", *map(str, arguments)])
    return result.exit_code, result.output.strip().splitlines()[-1]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_service_serves_what_is_live_at_an_address(s3: S3Server, workers: int, tmp_path: Path) -> None:
    first = published(0)
    environment = {"TMPDIR": str(tmp_path)}
    with ServiceProcess(str(ADDRESS), "--workers", str(workers), environment=environment) as service:
        service.wait_until_ready()
        assert health(service)["bundle"] == first
        second = published(1)
        wait_until(lambda: len([line for line in service.events("bundle live") if line["bundle"] == second]) == workers)
        assert health(service) == {"status": "ready", "bundle": second}
        assert [line["bundle"] for line in service.events("bundle pulled")] == [first, second]
        assert metric(service, "onward_bundles_read_timestamp_seconds") > 1e9
        assert service.stop() == 0
    assert not list(tmp_path.glob("onward-*"))


@pytest.mark.slow
def test_an_outage_and_a_damaged_bundle_are_said_once_while_the_bundle_serves_on(s3: S3Server) -> None:
    first = published(0)
    with ServiceProcess(str(ADDRESS)).wait_until_ready() as service:
        s3.refusal = "ExpiredToken"
        wait_until(lambda: "refused" in health(service))
        count = len(s3.requests)
        wait_until(lambda: len(s3.requests) > count + 5)
        refused = health(service)["refused"]
        assert isinstance(refused, dict)
        assert refused["bundle"] == "current"
        assert "ExpiredToken" in refused["reason"]
        assert len(service.events("bundle not pulled")) == len(service.events("bundle refused")) == 1
        s3.refusal = None
        wait_until(lambda: "refused" not in health(service))
        assert len(service.events("bundles are pulled again")) == 1
        with working_copy(ADDRESS) as folder:
            second = publish_bundle(folder, IDS, seed=1, make_live=False)
        store = ObjectStore(ADDRESS / second)
        content = store.read(VECTORS).content
        store.write(VECTORS, content[:-1] + bytes([content[-1] ^ 1]))
        current = (
            ObjectStore(ADDRESS)
            .read("current")
            .content.replace(f'"live": "{first}"'.encode(), f'"live": "{second}"'.encode())
        )
        ObjectStore(ADDRESS).write("current", current)
        wait_until(lambda: "refused" in health(service))
        assert health(service)["bundle"] == first
        assert [line["bundle"] for line in service.events("bundle not pulled")] == ["current", second]
        store.write(VECTORS, content)
        wait_until(lambda: health(service) == {"status": "ready", "bundle": second})


@pytest.mark.slow
def test_a_service_starts_without_a_bundle_and_serves_the_first_one(s3: S3Server) -> None:
    with ServiceProcess(str(ADDRESS)) as service:
        assert httpx.get(f"{service.url}/health/ready", timeout=30).status_code == 503
        published(0)
        service.wait_until_ready()


@pytest.mark.slow
def test_a_service_whose_folder_stays_starts_in_an_outage(s3: S3Server, tmp_path: Path) -> None:
    digest, environment = published(0), {"SERVICE_PULL_INTO": str(tmp_path / "pulled")}
    with ServiceProcess(str(ADDRESS), environment=environment).wait_until_ready() as service:
        assert service.stop() == 0
    s3.stop()
    with ServiceProcess(str(ADDRESS), environment=environment).wait_until_ready() as service:
        assert health(service)["bundle"] == digest
        wait_until(lambda: "refused" in health(service))


@pytest.mark.slow
def test_a_mirror_is_not_written_by_rest(s3: S3Server) -> None:
    published(0)
    with working_copy(ADDRESS) as folder:
        publish_bundle(folder, IDS, seed=1, make_live=False)
    with ServiceProcess(str(ADDRESS)).wait_until_ready() as service, service.client() as client:
        digest = client.get("/v1/bundles").json()["bundles"][0]["bundle"]
        refused = client.post(f"/v1/bundles/{digest}/protection", json={"protected": True})
        assert refused.status_code in (404, 405, 409)


@pytest.mark.slow
def test_a_process_beside_services_pulls_for_them(s3: S3Server, tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    arguments = [sys.executable, "-m", "onward.service", "pull", str(ADDRESS), "--into", str(into), "--every", "0.1"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as puller:
        try:
            first = published(0)
            wait_until(lambda: into.exists() and current_digest(into) == first)
            with ServiceProcess(into).wait_until_ready() as service:
                s3.stop()
                wait_until(lambda: "refused" in health(service))
                s3.start()
                wait_until(lambda: "refused" not in health(service))
                second = published(1)
                wait_until(lambda: health(service)["bundle"] == second)
                assert "another process pulls into it" in command(ADDRESS.__str__(), "--into", into, "--once")[1]
        finally:
            puller.send_signal(signal.SIGTERM)
        assert puller.wait(10) == 0
        assert puller.stderr is not None
        events = [json.loads(line) for line in puller.stderr]
    assert [event["event"] for event in events] == [
        "bundle pulled",
        "bundle not pulled",
        "bundles are pulled again",
        "bundle pulled",
    ]


def test_pull_once_ends_and_says_what_is_there(s3: S3Server, tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    code, line = command(str(ADDRESS), "--into", into, "--once")
    assert (code, "nothing has been published yet" in line) == (2, True)
    digest = published(0)
    assert command(str(ADDRESS), "--into", into, "--once") == (0, digest)
    assert current_digest(into) == digest
    s3.stop()
    code, line = command(str(ADDRESS), "--into", into, "--once")
    assert (code, "the object store does not answer" in line) == (2, True)


@pytest.mark.parametrize(
    ("address", "into", "message"),
    [
        ("ftp://shop/bundles", "bundles", "unknown scheme"),
        ("bundles", "pulled", "is a folder of this machine already"),
        ("s3://shop/bundles", "s3://shop/pulled", "must be a path of this machine"),
    ],
)
def test_what_cannot_be_pulled_is_refused(
    address: str, into: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["pull", address, "--into", into, "--once"])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["SERVICE_BUNDLES", "SERVICE_KEYS_FILE", "SERVICE_AUDIT_LOG", "SERVICE_UDS"])
def test_unknown_schemes_of_settings_are_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVICE_BUNDLES", str(tmp_path))
    monkeypatch.setenv(variable, "ftp://shop/x")
    result = CliRunner().invoke(cli, ["serve"])
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {variable}: ftp://shop/x: unknown scheme")
    assert not list(tmp_path.iterdir())
