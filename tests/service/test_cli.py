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
def test_a_usage_error_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    completed = run(*arguments, cwd=tmp_path)
    assert (completed.returncode, completed.stdout) == (2, "")
    assert completed.stderr.startswith("error: ")
    assert completed.stderr.count("\n") == 1


def test_each_new_key_is_different_and_printed_with_its_digest(tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        printed = dict(line.split() for line in run("key", cwd=tmp_path).stdout.splitlines())
        assert printed["digest"] == sha256(printed["key"].encode()).hexdigest()
        assert len(printed["key"]) >= 43  # 256 bits
        keys.add(printed["key"])
    assert len(keys) == 2
