import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-m", "onward.service", *arguments]
    return subprocess.run(program, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--no-such-option"),
        ("serve", "--port", "many"),
        ("serve", "--bundles"),
        ("serve", "one-too-many"),
        ("no-such-command",),
        ("examples",),
        ("examples", "--bundles", "nowhere"),
    ],
)
def test_a_fault_of_usage_is_one_line_and_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = run(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def test_a_new_key_comes_with_its_digest_and_differs_each_time(tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        printed = dict(line.split() for line in run("key", cwd=tmp_path).stdout.splitlines())
        assert printed["digest"] == sha256(printed["key"].encode()).hexdigest()
        assert len(printed["key"]) >= 43  # 256 bits
        keys.add(printed["key"])
    assert len(keys) == 2
