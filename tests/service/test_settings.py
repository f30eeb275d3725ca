"""Settings from the environment: a misspelt name never goes unnoticed, nor stops a deployment that set none."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from onward.service.cli import cli
from onward.service.settings import (
    SecretFileError,
    Settings,
    UnknownSetting,
    foreign_variables,
    secrets_from_files,
)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SERVICE_API_KEY", "SERVICE_API_KEYS"),
        ("SERVICE_RATELIMIT", "SERVICE_RATE_LIMIT"),
        ("SERVICE_WORKER", "SERVICE_WORKERS"),
        ("SERVICE_Workers", "SERVICE_"),
        ("SERVICE_", "SERVICE_"),
        ("SERVICE_REDIS_URL", "SERVICE_"),
    ],
)
def test_an_unknown_setting_stops_the_start_and_the_nearest_is_named(name: str, nearest: str) -> None:
    with pytest.raises(UnknownSetting, match=f"{name}: there is no such setting; the nearest is {nearest}"):
        foreign_variables({name: "secret"})


def test_what_orchestrators_and_registries_set_is_ignored() -> None:
    foreign = {
        "SERVICE_PORT": "tcp://10.0.0.1:8000",
        "SERVICE_SERVICE_HOST": "10.0.0.1",
        "SERVICE_SERVICE_PORT": "8000",
        "SERVICE_SERVICE_PORT_HTTP": "8000",
        "SERVICE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "SERVICE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "SERVICE_PORT_8000_TCP_PROTO": "tcp",
        "SERVICE_NAME": "onward",
        "SERVICE_TAGS": "a,b",
        "SERVICE_8000_NAME": "onward",
        "SERVICE_8000_CHECK_HTTP": "/health/live",
    }
    assert foreign_variables(foreign) == sorted(foreign)


def test_settings_and_other_variables_are_not_foreign() -> None:
    settings = {f"SERVICE_{name.upper()}": "1" for name in Settings.model_fields if name != "redis_url"}
    assert foreign_variables(settings | {"REDIS_URL": "", "PATH": "", "MYSERVICE_X": ""}) == []


def test_names_can_be_ignored() -> None:
    assert foreign_variables({"SERVICE_IGNORE": "SERVICE_A, SERVICE_B", "SERVICE_A": "", "SERVICE_B": ""}) == [
        "SERVICE_A",
        "SERVICE_B",
    ]


def test_the_command_refuses_an_unknown_setting_without_its_value(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["serve", "--bundles", str(tmp_path)], env={"SERVICE_API_KEY": "a-secret"})
    assert result.exit_code == 2
    assert "SERVICE_API_KEY: there is no such setting; the nearest is SERVICE_API_KEYS" in result.stderr
    assert "a-secret" not in result.output


class TestSecretsFromFiles:
    def test_a_secret_is_the_text_of_its_file(self, tmp_path: Path) -> None:
        (tmp_path / "url").write_text("redis://:secret@127.0.0.1\n")
        environment = {"A_FILE": str(tmp_path / "url"), "A": "", "B": "kept", "C_FILE": "of another program"}
        assert secrets_from_files(environment, ["A", "B"]) == {"A": "redis://:secret@127.0.0.1"}

    def test_a_secret_that_is_given_twice_is_refused(self) -> None:
        with pytest.raises(SecretFileError, match="A and A_FILE are both given: unset one of them"):
            secrets_from_files({"A_FILE": "/run/a", "A": "x"}, ["A"])

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SecretFileError, match=r"A_FILE: No such file or directory: .*none"):
            secrets_from_files({"A_FILE": str(tmp_path / "none")}, ["A"])
        (tmp_path / "bytes").write_bytes(b"\xff")
        with pytest.raises(SecretFileError, match=r"A_FILE: not UTF-8: .*bytes"):
            secrets_from_files({"A_FILE": str(tmp_path / "bytes")}, ["A"])

    @pytest.mark.parametrize("command", [["serve", "--bundles", "."], ["clear", "items", "--yes"], ["changes"]])
    def test_every_command_reads_them(self, tmp_path: Path, command: list[str]) -> None:
        (tmp_path / "url").write_text("http://a-secret")
        result = CliRunner().invoke(cli, command, env={"REDIS_URL_FILE": str(tmp_path / "url"), "REDIS_URL": None})
        assert result.exit_code == 2
        assert "must begin with one of" in result.stderr
        assert "a-secret" not in result.output
