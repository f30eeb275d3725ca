"""What the benchmark of stages leaves out, to measure it."""

from pathlib import Path

from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from pydantic import SecretStr

from onward.service import telemetry
from onward.service.app import create_app
from onward.service.settings import IN_MEMORY, Settings
from tests.benchmarks.stages import untold


def counted() -> float:
    telemetry.count_answers()
    samples = (sample for metric in REGISTRY.collect() for sample in metric.samples)
    return sum(sample.value for sample in samples if sample.name == "onward_requests_total")


def test_what_is_untold_is_not_counted_and_has_no_id_of_its_own(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(bundles=tmp_path, redis_url=SecretStr(IN_MEMORY)))) as client:
        before = counted()
        told = client.get("/health/live")
        assert counted() == before + 1
        with untold():
            left_untold = client.get("/health/live")
        assert counted() == before + 1
    assert told.headers["x-request-id"] != left_untold.headers["x-request-id"] == "untold"
