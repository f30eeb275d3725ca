"""`onward-service key`: make, list and revoke keys."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from onward.service.cli import cli


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, ["key", *arguments], env=environment)


def test_a_key_is_printed_once_and_its_record_has_the_digest_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    options = ["--name", "shop", "--scope", "events", "--scope", "recommend", "--tenant", "acme", "--expires", "90d"]
    created = run("create", *options, "--file", str(file))
    assert (created.exit_code, created.stderr) == (0, "")
    secret = created.stdout.strip()
    record = json.loads(file.read_text())
    assert record.pop("expires").endswith("Z")
    assert record == {
        "name": "shop",
        "digest": sha256(secret.encode()).hexdigest(),
        "scopes": ["recommend", "events"],
        "tenant": "acme",
    }
    assert secret not in file.read_text()


def test_keys_are_listed_and_revoked(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.jsonl")
    run("create", "--name", "shop", "--scope", "recommend", "--scope", "events", SERVICE_KEYS_FILE=file)
    run(
        "create",
        "--name",
        "old",
        "--scope",
        "admin",
        "--tenant",
        "a",
        "--expires",
        "2020-01-01",
        SERVICE_KEYS_FILE=file,
    )
    assert run("list", SERVICE_KEYS_FILE=file).stdout.splitlines() == [
        "shop  -  recommend,events  never expires",
        "old  a  admin  expired 2020-01-01 00:00 UTC",
    ]
    assert run("revoke", "shop", SERVICE_KEYS_FILE=file).exit_code == 0
    assert run("list", SERVICE_KEYS_FILE=file).stdout.startswith("old ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create", "--name", "shop", "--scope", "everything"], "error: --scope: "),
        (["create", "--name", "the shop", "--scope", "admin"], "error: --name: "),
        (["create", "--name", "shop", "--scope", "admin", "--tenant", "Acme"], "error: --tenant: "),
        (["create", "--name", "shop", "--scope", "admin", "--expires", "soon"], "error: --expires: write days"),
        (["revoke", "nobody"], "has no key of the name nobody"),
        (["list"], "No such file"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(tmp_path: Path, arguments: list[str], reason: str) -> None:
    result = run(*arguments, "--file", str(tmp_path / "keys.jsonl"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
