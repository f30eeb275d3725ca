"""`onward-service bundles`: the life of a bundle on the command line, each change in the audit log."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onward.bundle import current_digest
from onward.bundle.remote_bundles import working_copy
from onward.bundle.storage import place_of
from onward.service.cli import cli
from tests.bundles import item_ids, publish_bundle
from tests.s3_server import BUCKET, s3_server

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


def test_bundles_at_an_address_are_changed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"s3://{BUCKET}/bundles"
    monkeypatch.setenv("SERVICE_BUNDLES", address)
    monkeypatch.setenv("SERVICE_AUDIT_LOG", str(tmp_path / "audit.jsonl"))
    with s3_server(monkeypatch) as server:
        with working_copy(place_of(address)) as folder:
            first = publish_bundle(folder, IDS)
            second = publish_bundle(folder, IDS, seed=1, make_live=False)
        assert command("activate", second, "--force", "--reason", "sale") == (0, second)
        assert [line.split()[1] for line in command("list")[1].splitlines()] == ["live", "retired"]
        assert command("rollback") == (0, first)
        assert command("protect", second) == (0, second)
        assert command("remove", second) == (2, f"error: {address}: {second[:12]}: is protected: end that first")
        assert json.loads(command("show", second)[1])["events"][-1]["what"] == "protected"
        server.refusal = "ExpiredToken"
        refused = f"error: {address}: current: the object store says ExpiredToken (400 Bad Request)"
        assert command("list") == (2, refused)
    whats = [json.loads(line)["what"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert whats == ["bundle activated", "bundle rolled back", "bundle protected"]


def test_unknown_schemes_and_addresses_of_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_BUNDLES", "ftp://shop/bundles")
    code, refusal = command("list")
    assert (code, refusal.startswith("error: --bundles: ftp://shop/bundles: unknown scheme")) == (2, True)
    code, refusal = command("list", "--bundles", "memory://shop/bundles")
    assert (code, "is in the memory of one process" in refusal) == (2, True)
