import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onward.service.cli import cli


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


SCHEME = "ftp://shop/x"


@pytest.mark.parametrize(
    "arguments",
    [
        ("examples", "--bundles", SCHEME),
        ("examples", "--bundles", ".", "--url", SCHEME),
        ("bench", "--bundles", SCHEME),
        ("bench", "--bundles", ".", "--url", SCHEME),
        ("bench", "--bundles", ".", "--out", SCHEME),
        ("bundles", "list", "--bundles", SCHEME),
        ("bundles", "rollback", "--bundles", ".", "--audit-log", SCHEME),
        ("changes", "--redis-url", SCHEME),
        ("backup", SCHEME, "--redis-url", "redis://127.0.0.1:1"),
        ("restore", "s3://shop/x", "--redis-url", "redis://127.0.0.1:1"),
        ("erase-user", "user-7", "--event-log", SCHEME),
        ("key", "create", "--name", "a", "--scope", "events", "--file", SCHEME),
        ("key", "list", "--file", "s3://shop/keys"),
        ("pull", SCHEME, "--into", "bundles"),
        ("pull", "s3://shop/bundles", "--into", SCHEME),
        ("serve", "--bundles", SCHEME),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_other_schemes_are_refused_wherever_a_path_or_url_is_taken(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onward.service.telemetry.configure_logging", lambda _level: None)
    result = CliRunner().invoke(cli, list(arguments))
    said = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2
    named = ("unknown scheme", "must be a path of this machine", "is not the address of a service", "--redis-url: ")
    assert any(reason in said for reason in named), said
    assert not list(tmp_path.iterdir())


def test_each_new_key_is_different_and_printed_with_its_digest(tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        printed = dict(line.split() for line in run("key", cwd=tmp_path).stdout.splitlines())
        assert printed["digest"] == sha256(printed["key"].encode()).hexdigest()
        assert len(printed["key"]) >= 43  # 256 bits
        keys.add(printed["key"])
    assert len(keys) == 2
