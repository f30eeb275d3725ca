"""Jobs by REST: started, listed, shown, cancelled; a worker does to a read-only folder what callers asked for."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from onward.bundle import current_digest
from onward.bundle.releases import list_releases
from onward.training.jobs.commands_of_jobs import Workplace
from onward.training.jobs.queue import JobQueue
from onward.training.jobs.worker import Worker
from tests.bundles import publish_bundle
from tests.service.process import wait_until
from tests.service.shop import ITEMS, get, opened, problem

OFTEN: dict[str, Any] = {"reload_interval": timedelta(seconds=0.02)}


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    for seed in (1, 2):
        publish_bundle(tmp_path / "bundles", ITEMS, seed=seed)
    return tmp_path / "bundles"


@pytest.fixture
def queue(valkey: str) -> Iterator[JobQueue]:
    queue = JobQueue.connect(valkey)
    for key in queue.redis.keys("onward:{jobs}:*"):
        queue.redis.delete(key)
    yield queue
    queue.redis.close()


@pytest.fixture
def client(bundles: Path, valkey: str, queue: JobQueue, tmp_path: Path) -> Iterator[TestClient]:
    assert queue.claim("nobody") is None
    with opened(bundles, valkey, audit_log=tmp_path / "audit.jsonl", **OFTEN) as client:
        yield client


def started(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/jobs", json=body)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    return job


def test_a_job_is_started_followed_and_cancelled(client: TestClient, queue: JobQueue) -> None:
    job = started(client, kind="fit", budget="2h", reason="new season")
    assert (job["state"], job["options"], job["by"]) == ("waiting", {"budget": "2h"}, "a caller without a key")
    claimed = queue.claim("worker-1")
    assert claimed is not None
    assert queue.report(claimed, "training", ["measuring the floor", "training"]) == "go on"
    shown = get(client, f"/v1/jobs/{job['id']}")
    assert (shown["state"], shown["step"], shown["worker"], shown["tries"]) == ("running", "training", "worker-1", 1)
    assert shown["log"] == ["measuring the floor", "training"]
    path = f"/v1/jobs/{job['id']}:cancel"
    assert client.post(path).json()["cancelling"]
    assert queue.report(claimed, "training") == "cancel"
    queue.finish(claimed, "cancelled")
    assert get(client, f"/v1/jobs/{job['id']}")["state"] == "cancelled"
    assert problem(client.post(path)) == (409, "job_finished")
    changes = [change["what"] for change in get(client, "/v1/audit")["changes"]]
    assert changes == ["job cancelled", "job started"]


def test_jobs_are_listed_page_by_page_the_newest_first(client: TestClient) -> None:
    jobs = [started(client, kind="rebuild", staged=True)["id"] for _ in range(3)]
    page = get(client, "/v1/jobs", limit=2)
    assert len(page["jobs"]) == 2
    rest = get(client, "/v1/jobs", limit=2, cursor=page["next_cursor"])
    assert "next_cursor" not in rest
    assert {job["id"] for job in [*page["jobs"], *rest["jobs"]]} == set(jobs)


@pytest.mark.parametrize(
    "body", [{"kind": "fit", "staged": True}, {"kind": "rebuild", "budget": "1h"}, {"kind": "remove"}, {}]
)
def test_what_is_no_job_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    assert problem(client.post("/v1/jobs", json=body)) == (422, "invalid_request")
    assert problem(client.get("/v1/jobs/none")) == (404, "job_not_found")
    assert problem(client.post("/v1/jobs/none:cancel")) == (404, "job_not_found")


def test_without_a_store_there_are_no_jobs(bundles: Path) -> None:
    with opened(bundles) as client:
        assert problem(client.post("/v1/jobs", json={"kind": "rebuild"})) == (404, "jobs_off")
        assert problem(client.get("/v1/jobs")) == (404, "jobs_off")


def test_a_worker_carries_out_what_a_read_only_service_was_asked_for(
    client: TestClient, queue: JobQueue, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onward.service.live.releases.os.access", lambda *_: False)
    live, retired = [release.digest for release in list_releases(bundles)]
    staged = publish_bundle(bundles, ITEMS, seed=3, make_live=False)
    assert client.post("/v1/bundles:rollback", json={"reason": "no cups"}).status_code == 200
    assert get(client, "/v1/version")["bundle"] == retired
    assert client.post(f"/v1/bundles/{staged}:remove", json={}).status_code == 202
    assert current_digest(bundles) == live
    worker = Worker(queue, Workplace(bundles, tmp_path / "work"), on_line=lambda line: None)
    while worker.run_one():
        pass
    assert current_digest(bundles) == retired
    states = {release.digest: release.state for release in list_releases(bundles)}
    assert states == {retired: "live", live: "retired", staged: "removed"}
    events = get(client, f"/v1/bundles/{live}")["events"]
    assert (events[-1]["what"], events[-1]["reason"]) == ("rolled back", "no cups")
    wait_until(lambda: get(client, "/v1/version")["bundle"] == retired)
    assert [job["state"] for job in get(client, "/v1/jobs")["jobs"]] == ["done", "done"]
