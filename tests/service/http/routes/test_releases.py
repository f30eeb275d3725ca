"""Releases by REST: every replica follows, two people at once are told, and everything is in the audit log."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from onward.bundle import activate, current_digest
from onward.bundle.releases import DEFAULT_RETENTION, list_releases
from tests.bundles import publish_bundle
from tests.service.http.test_scopes import keyed, line
from tests.service.process import wait_until
from tests.service.shop import ITEMS, get, opened, problem

OFTEN: dict[str, Any] = {"reload_interval": timedelta(seconds=0.02)}
DAY = "2026-11-22T09:30:00Z"


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    return tmp_path / "bundles"


@pytest.fixture
def digests(bundles: Path) -> list[str]:
    """A retired bundle, the live one, and a staged one."""
    return [publish_bundle(bundles, ITEMS, seed=seed, make_live=seed < 2) for seed in range(3)]


@pytest.fixture
def client(bundles: Path, digests: list[str], tmp_path: Path) -> Iterator[TestClient]:
    assert len(digests) == 3
    with opened(bundles, audit_log=tmp_path / "audit.jsonl", **OFTEN) as client:
        yield client


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service may not write to the folder of bundles, as in compose."""
    monkeypatch.setattr("onward.service.live.releases.os.access", lambda *_: False)


def served(client: TestClient) -> Any:
    return get(client, "/v1/version")["bundle"]


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_bundle_that_is_not_live_answers_without_storing_anything(client: TestClient, digests: list[str]) -> None:
    _, live, staged = digests
    query = {"session_id": "visitor", "items": ITEMS[:2], "k": 5}
    answer = post(client, f"/v1/bundles/{staged}/recommendations", **query)
    assert (answer["bundle"], answer["count"], served(client)) == (staged, 5, live)
    assert answer["explanation"]["session"] == ITEMS[:2]
    assert answer["items"] != post(client, f"/v1/bundles/{live}/recommendations", **query)["items"]
    assert problem(client.get("/v1/sessions/visitor")) == (404, "session_not_found")
    assert problem(client.post(f"/v1/bundles/{'0' * 64}/recommendations", json=query)) == (404, "bundle_not_found")


def test_bundles_are_listed_shown_activated_and_rolled_back(client: TestClient, digests: list[str]) -> None:
    retired, live, staged = digests
    listed = get(client, "/v1/bundles")["bundles"]
    assert [(of["bundle"], of["state"]) for of in listed] == [(live, "live"), (staged, "staged"), (retired, "retired")]
    assert (listed[0]["model"], listed[0]["items"], listed[0]["gate_passed"]) == ("mean", len(ITEMS), None)
    refused = client.post(f"/v1/bundles/{staged}:activate", json={"reason": "sale"})
    assert problem(refused) == (409, "gate_not_passed")
    forced = post(client, f"/v1/bundles/{staged[:12]}:activate", force=True, reason="sale")
    assert (forced["state"], forced["overridden"]) == ("live", "it has not been through the gate")
    assert served(client) == staged
    assert post(client, "/v1/bundles:rollback", reason="no cups")["bundle"] == live
    assert served(client) == live
    events = get(client, f"/v1/bundles/{staged}")["events"]
    assert [(of["what"], of.get("reason")) for of in events][-2:] == [("activated", "sale"), ("rolled back", "no cups")]
    version = get(client, "/v1/version")
    assert version["activated"] > DAY
    metrics = client.get("/metrics").text
    assert f'onward_bundle_info{{bundle="{live}",model="mean"}} 1.0' in metrics
    for name in ("created", "activated"):
        assert f"\nonward_bundle_{name}_timestamp_seconds 1." in metrics
    assert metrics.count("onward_bundle_info{") == 1


def test_a_bundle_is_protected_and_removed(client: TestClient, bundles: Path, digests: list[str]) -> None:
    retired, live, staged = digests
    assert post(client, f"/v1/bundles/{staged}:protect", reason="of the sale")["protected"]
    for digest in (staged, live, retired):  # protected, live, live of late
        assert problem(client.post(f"/v1/bundles/{digest}:remove", json={})) == (409, "release_refused")
    assert not post(client, f"/v1/bundles/{staged}:protect", protected=False)["protected"]
    assert post(client, f"/v1/bundles/{staged}:remove", reason="never used")["state"] == "removed"
    assert not (bundles / staged).exists()
    assert problem(client.post(f"/v1/bundles/{staged}:activate", json={})) == (409, "release_refused")
    assert problem(client.get(f"/v1/bundles/{'0' * 64}")) == (404, "bundle_not_found")


def test_who_changed_what_is_read_page_by_page(client: TestClient, digests: list[str], tmp_path: Path) -> None:
    for reason in "abc":
        post(client, f"/v1/bundles/{digests[2]}:protect", reason=reason)
    page = get(client, "/v1/audit", limit=2)
    assert [(of["what"], of["after"]["reason"]) for of in page["changes"]] == [
        ("bundle protected", "c"),
        ("bundle protected", "b"),
    ]
    rest = get(client, "/v1/audit", limit=2, cursor=page["next_cursor"])
    assert [of["after"]["reason"] for of in rest["changes"]] == ["a"]
    assert "next_cursor" not in rest
    with (tmp_path / "audit.jsonl").open("a") as log:
        log.write("half a li")
    assert len(get(client, "/v1/audit")["changes"]) == 3
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.1")
    post(client, f"/v1/bundles/{digests[2]}:protect", protected=False)
    response = client.get("/v1/audit", params={"cursor": page["next_cursor"]})
    assert problem(response) == (422, "invalid_request")


def test_a_deployment_without_an_audit_log_says_so(bundles: Path, digests: list[str]) -> None:
    with opened(bundles) as client:
        assert problem(client.get("/v1/audit")) == (404, "audit_log_off")
        assert served(client) == digests[1]


def test_of_two_people_at_once_the_second_is_refused(client: TestClient, digests: list[str]) -> None:
    tag = client.get("/v1/bundles").headers["ETag"]
    path = f"/v1/bundles/{digests[0]}:activate"
    first = client.post(path, json={}, headers={"If-Match": tag})
    assert first.status_code == 200
    for request in (path, "/v1/bundles:rollback", f"/v1/bundles/{digests[0]}:protect"):
        second = client.post(request, json={}, headers={"If-Match": tag})
        assert problem(second) == (412, "precondition_failed")
    assert client.post("/v1/bundles:rollback", json={}, headers={"If-Match": first.headers["ETag"]}).is_success


@pytest.mark.usefixtures("read_only")
def test_replicas_follow_the_store_where_the_folder_is_read_only(
    bundles: Path, digests: list[str], valkey: str, redis: Any
) -> None:
    retired, live, staged = digests
    with opened(bundles, valkey, **OFTEN) as one, opened(bundles, valkey, **OFTEN) as other:
        assert post(one, f"/v1/bundles/{retired}:activate", reason="better")["state"] == "live"
        assert served(one) == retired
        wait_until(lambda: served(other) == retired)
        assert current_digest(bundles) == live
        states = {of["bundle"]: of["state"] for of in get(other, "/v1/bundles")["bundles"]}
        assert states == {live: "retired", retired: "live", staged: "staged"}
        assert problem(other.post(f"/v1/bundles/{live}:remove", json={}))[0] == 409
        assert post(other, "/v1/bundles:rollback")["bundle"] == live
        wait_until(lambda: served(one) == served(other) == live)
        post(one, f"/v1/bundles/{retired}:activate")
        activate(bundles, live)  # somebody with the folder comes later
        wait_until(lambda: served(one) == served(other) == live)
    with opened(bundles, valkey, **OFTEN) as later:
        assert served(later) == live


@pytest.mark.usefixtures("read_only")
def test_a_replica_without_the_bundle_serves_on_and_says_so(bundles: Path, digests: list[str], valkey: str) -> None:
    other = bundles.with_name("other")
    with opened(bundles, valkey, **OFTEN) as one:
        activate(bundles, digests[0])
        activate(bundles, digests[1])
        shutil.copytree(bundles, other, symlinks=True)
        shutil.rmtree(other / digests[0])
        with opened(other, valkey, **OFTEN) as lacking:
            post(one, f"/v1/bundles/{digests[0]}:activate")
            wait_until(lambda: "refused" in get(lacking, "/health/ready"))
            assert served(lacking) == digests[1]
            assert "not in this folder" in get(lacking, "/health/ready")["refused"]["reason"]


def test_a_damaged_bundle_is_not_made_live(client: TestClient, bundles: Path, digests: list[str]) -> None:
    ids = bundles / digests[0] / "ids.txt"
    ids.chmod(0o600)
    ids.write_text("")
    response = client.post(f"/v1/bundles/{digests[0]}:activate", json={})
    assert problem(response) == (409, "release_refused")
    assert "ids.txt" in response.json()["detail"]
    assert served(client) == digests[1]


def test_a_key_of_a_tenant_changes_nothing_of_the_deployment(bundles: Path, digests: list[str], tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text("\n".join([line("boss", "admin"), line("tenant", "admin", tenant="shop-a")]))
    with opened(bundles, keys_file=file) as client:
        for path in ("/v1/bundles", "/v1/audit"):
            assert problem(client.get(path, headers=keyed("tenant"))) == (403, "missing_scope")
        path = f"/v1/bundles/{digests[0]}:activate"
        assert problem(client.post(path, json={}, headers=keyed("tenant"))) == (403, "missing_scope")
        assert client.post(path, json={}, headers=keyed("boss")).is_success
    (release,) = [of for of in list_releases(bundles) if of.state == "live"]
    assert release.record.events[-1].by == "boss"
    assert release.last_live is not None
    assert DEFAULT_RETENTION.keep == 5


def test_force_needs_a_reason(client: TestClient, digests: list[str]) -> None:
    response = client.post(f"/v1/bundles/{digests[2]}:activate", json={"force": True})
    assert problem(response) == (422, "invalid_request")
