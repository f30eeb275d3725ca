"""`onward-service bundles`: the life of a bundle on the command line, each change in the audit log."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onward.bundle import current_digest
from onward.service.cli import cli
from tests.bundles import item_ids, publish_bundle

IDS = item_ids("a", 10)


@pytest.fixture
def audit_log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERVICE_BUNDLES", str(tmp_path / "bundles"))
    monkeypatch.setenv("SERVICE_AUDIT_LOG", str(tmp_path / "audit.jsonl"))
    return tmp_path / "bundles"


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["bundles", *arguments])
    return result.exit_code, result.output.strip()


def test_a_bundle_is_listed_activated_rolled_back_protected_and_removed(bundles: Path, audit_log: Path) -> None:
    first = publish_bundle(bundles, IDS)
    second = publish_bundle(bundles, IDS, seed=1, make_live=False)
    code, refusal = command("activate", second[:8])
    assert (code, "has not been through the gate" in refusal) == (2, True)
    assert command("activate", second[:8], "--force") == (2, "error: --force: say why with --reason")
    assert command("activate", second[:8], "--force", "--reason", "sale") == (0, second)
    listed = command("list")[1].splitlines()
    assert [line.split()[:2] for line in listed] == [[second[:12], "live"], [first[:12], "retired"]]
    assert listed[0].endswith("forced: it has not been through the gate")
    assert command("rollback", "--reason", "wrong items") == (0, first)
    assert current_digest(bundles) == first
    assert command("protect", second) == (0, second)
    code, refusal = command("remove", second, "--keep-recent", "0s")
    assert (code, "is protected: end that first" in refusal) == (2, True)
    assert command("protect", second, "--end") == (0, second)
    assert command("remove", second, "--keep-recent", "0s", "--reason", "old") == (0, second)
    shown = json.loads(command("show", second[:8])[1])
    assert shown["state"] == "removed"
    assert [event["what"] for event in shown["events"]][-2:] == ["unprotected", "removed"]
    assert json.loads(command("list", "--json")[1])["count"] == 2
    lines = [json.loads(line) for line in audit_log.read_text().splitlines()]
    assert [line["what"].removeprefix("bundle ") for line in lines] == [
        "activated",
        "rolled back",
        "protected",
        "unprotected",
        "removed",
    ]
    assert lines[0]["before"] == {"live": first}
    assert lines[0]["after"]["reason"] == "sale"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("activate", "ff"), "no such bundle"),
        (("rollback",), "no bundle to roll back to"),
        (("rollback", "--keep-recent", "soon"), "--keep-recent 'soon': write a number"),
        (("show", ""), "several bundles begin so"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(bundles: Path, arguments: tuple[str, ...], message: str) -> None:
    publish_bundle(bundles, IDS, make_live=False)
    publish_bundle(bundles, IDS, seed=1)
    code, refusal = command(*arguments)
    assert code == 2
    assert message in refusal
    assert len(refusal.splitlines()) == 1
