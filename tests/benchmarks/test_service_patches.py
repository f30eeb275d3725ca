"""The patch points of the service exist, and what they disable is disabled."""

from pathlib import Path

from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from pydantic import SecretStr

from onward.service import telemetry
from onward.service.app import create_app
from onward.service.settings import IN_MEMORY, Settings
from tests.benchmarks import service_patches
from tests.benchmarks.service_patches import NO_REQUEST_ID, PatchPoint, without_telemetry


def requests_counted() -> float:
    telemetry.count_answers()
    samples = (sample for metric in REGISTRY.collect() for sample in metric.samples)
    return sum(sample.value for sample in samples if sample.name == "onward_requests_total")


def test_every_patch_point_exists() -> None:
    points = [value for value in vars(service_patches).values() if isinstance(value, PatchPoint)]
    for point in (*points, *service_patches.TELEMETRY, *service_patches.ENCODE):
        assert callable(getattr(point.owner, point.name)), point


def test_a_request_without_telemetry_is_not_counted_and_gets_no_generated_id(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(bundles=tmp_path, redis_url=SecretStr(IN_MEMORY)))) as client:
        before = requests_counted()
        counted = client.get("/health/live")
        assert requests_counted() == before + 1
        with without_telemetry():
            uncounted = client.get("/health/live")
        assert requests_counted() == before + 1
    assert counted.headers["x-request-id"] != uncounted.headers["x-request-id"] == NO_REQUEST_ID
