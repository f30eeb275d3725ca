"""`onward-service bench`, run as a command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onward.service.__main__ import main
from tests.service.bench.load_generator.slow_server import response, slow_server
from tests.service.process import ServiceProcess


def bench(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    program = [sys.executable, "-m", "onward.service", "bench", *arguments]
    return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_starts_a_service_and_reports_its_highest_rate_and_the_replicas_for_a_rate(
    bundles: Path, tmp_path: Path
) -> None:
    arguments = ("--slo", "p90=1ms,p99.9=2s,max=5s", "--rps", "100000", "--seconds", "0.5", "--out", "out", "--json")
    ended = bench("--bundles", str(bundles), *arguments, cwd=tmp_path)
    figures: dict[str, Any] = json.loads(ended.stdout)
    assert figures["slo"] == "p90=1ms,p99.9=2000ms,max=5000ms"
    assert figures["items"] == 50
    assert figures["recall"] == {"k": 20, "against": "exact search", "sessions": 200, "value": 1.0}
    assert figures["trials"][0]["rate_per_s"] == 100
    assert all(line.lstrip()[0].isdigit() for line in ended.stderr.splitlines())
    assert len(ended.stderr.splitlines()) == len(figures["trials"])
    if figures["highest_rate_per_s"] is not None:
        assert figures["replicas"] * 0.7 * figures["highest_rate_per_s"] >= 100_000
    assert ended.returncode == (1 if figures["highest_rate_per_s"] is None else 0)
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == figures
    assert (tmp_path / "out" / "latencies.png").read_bytes().startswith(b"\x89PNG")
    if sys.platform == "linux":
        assert figures["trials"][0]["cpu_us_per_request"] > 0
        assert figures["trials"][0]["rss_mib"] >= figures["trials"][0]["pss_mib"] > 0


@pytest.mark.slow
def test_a_running_service_is_measured_at_its_url(bundles: Path, tmp_path: Path) -> None:
    with ServiceProcess(bundles).wait_until_ready() as service:
        ended = bench(
            *("--bundles", str(bundles), "--url", service.url, "--slo", "p50=0.001ms", "--seconds", "0.5"),
            *("--filter", '{"attribute": "title", "exists": true}'),
            cwd=tmp_path,
        )
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[0] == "No rate that was tried meets p50=0.001ms, so more replicas do not help."
    assert "recall@20     1.000" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--slo", "p90"), "--slo: 'p90' is not an objective"),
        (("--filter", "{"), "--filter: not JSON"),
        (("--filter", "[]"), "--filter: a condition has one of"),
        (("--filter", '{"attribute": "colour", "exists": true}'), "--filter: attribute: no item of the catalog"),
        (("--url", "localhost"), "--url: 'localhost' is not the address"),
        (("--url", "http://127.0.0.1:1"), "the service at http://127.0.0.1:1 is not ready"),
        (("--bundles", "nowhere"), "--bundles: nowhere: "),
        (("--workers", "0"), "Invalid value for '--workers'"),
        (("--redis-url", "http://x"), "the service did not start: REDIS_URL: "),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(
    bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    """The command runs in this process, which saves the imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(sys, "argv", ["onward-service", "bench", "--bundles", str(bundles), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    stdout, stderr = capfd.readouterr()
    assert (ended.value.code, stdout) == (2, "")
    assert stderr.startswith(f"error: {message}")
    assert stderr.count("\n") == 1


def test_a_server_that_is_not_onward_is_refused_in_one_line(bundles: Path, tmp_path: Path) -> None:
    def not_found(_number: int) -> bytes:
        return response(404)

    with slow_server(answer=not_found) as server:
        ended = bench("--bundles", str(bundles), "--url", server.url, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
