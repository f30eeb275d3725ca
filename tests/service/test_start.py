"""The service takes requests once it can answer them, or can say why it cannot."""

import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from onward.bundle import Bundle
from onward.service import app as app_module
from tests.service.shop import ITEMS, opened_at_once, publish_shop


@pytest.fixture
def slow_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published bundle that takes half a second to load."""
    publish_shop(tmp_path)
    load = Bundle.load

    def slow_load(*arguments: Any, **options: Any) -> Bundle:
        time.sleep(0.5)
        return load(*arguments, **options)

    monkeypatch.setattr(Bundle, "load", slow_load)
    return tmp_path


def test_no_request_comes_before_the_first_bundle_serves(slow_shop: Path) -> None:
    with opened_at_once(slow_shop) as client:
        assert client.post("/v1/recommendations", json={"items": ITEMS[:1]}).status_code == 200


def test_a_bundle_that_takes_too_long_is_not_waited_for(slow_shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MAX_START_S", 0.05)
    with opened_at_once(slow_shop) as client:
        assert reason(client) == "The bundle has not been loaded yet."


def test_without_a_bundle_it_starts_and_says_so(tmp_path: Path) -> None:
    with opened_at_once(tmp_path) as client:
        assert reason(client).startswith("No bundle has been published")


def reason(client: TestClient) -> str:
    response = client.get("/health/ready")
    assert response.status_code == 503
    return str(response.json()["detail"])
