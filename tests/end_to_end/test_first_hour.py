"""The commands of the page for the first hour, in an empty folder, with a shorter time for the fit."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.test_demo import answer, curl_lines, needs_curl
from tests.service.process import ServiceProcess

PAGE = Path(__file__).parents[2] / "docs" / "index.md"
BUDGET = "--budget 30s"
COMMANDS = re.findall(r"^onward-.*", PAGE.read_text(), re.MULTILINE)


def run(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    module = program.replace("-", ".")
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@needs_curl
def test_the_commands_lead_from_a_log_to_recommendations(tmp_path: Path) -> None:
    generate, fit, serve, examples = COMMANDS
    run(generate, tmp_path)
    run(re.sub(r"--budget \S+", BUDGET, fit), tmp_path)
    assert (tmp_path / "fit" / "fit.html").exists()
    assert serve == "onward-service serve --bundles bundles"
    with ServiceProcess(tmp_path / "bundles").wait_until_ready() as service:
        calls = curl_lines(run(f"{examples} --url {service.url}", tmp_path))
        assert len(calls) == 9
        for call in calls:
            answer(call)
        with service.client() as client:
            assert client.get("/console", follow_redirects=True).status_code == 200
