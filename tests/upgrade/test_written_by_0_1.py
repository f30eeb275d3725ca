"""What version 0.1 wrote is read: a bundle, a dataset, a training run, and all that a service kept in its store.

`written_by_0_1.tar.xz` holds a tiny shop: the bundle, the dataset and the run that 0.1 made of it, and in `store.json`
the keys that a service of 0.1 left in Redis, with its own answers about them.
"""

import json
import shutil
import tarfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from starlette.testclient import TestClient

from onward.bundle import Bundle, Options, SessionView
from onward.service.app import create_app
from onward.service.server.embedded_store import find_servers, run_server
from onward.service.settings import Settings
from onward.training.data.dataset import Dataset
from onward.training.evaluation.evaluation import evaluate_bundle
from onward.training.export.export import export
from onward.training.recipe import Recipe
from onward.training.trainer import train
from tests.service.process import wait_until

ARCHIVE = Path(__file__).with_name("written_by_0_1.tar.xz")
FOREVER = timedelta(days=36_500)
HOUR_KEY = "onward:{metrics}:hour:"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive."""
    folder = tmp_path_factory.mktemp("written-by-0-1")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    run = json.loads((folder / "run" / "run.json").read_text())
    (folder / "run" / "run.json").write_text(json.dumps(run | {"data": str(folder / "dataset")}))
    return folder


@pytest.fixture(scope="module")
def recorded(shop: Path) -> dict[str, Any]:
    """What the service of 0.1 answered, by the name of the call."""
    return dict(json.loads((shop / "store.json").read_text())["answers"])


@pytest.fixture(scope="module")
def client(shop: Path) -> Iterator[TestClient]:
    """A service on the store of 0.1."""
    with run_server(find_servers()[0]) as url:
        with Redis.from_url(url) as redis:
            _restore(redis, json.loads((shop / "store.json").read_text())["keys"])
        settings = Settings(
            bundles=shop / "bundles",
            redis_url=SecretStr(url),
            answer_ttl=FOREVER,
            session_ttl=FOREVER,
            store_timeout=timedelta(seconds=1),
        )
        with TestClient(create_app(settings), raise_server_exceptions=False) as client:
            wait_until(lambda: client.get("/health/ready").status_code == 200)
            wait_until(lambda: client.get("/v1/scenarios/home").status_code == 200)
            wait_until(lambda: client.get("/v1/items/new-item").status_code == 200)
            yield client


def _restore(redis: "Redis", keys: dict[str, Any]) -> None:
    """Write the keys; the counters of the hour become this hour's, since a window reaches back a month at most."""
    for stored_key, content in keys.items():
        key = f"{HOUR_KEY}{int(time.time() // 3600)}" if stored_key.startswith(HOUR_KEY) else stored_key
        value = content["value"]
        if content["type"] == "list":
            redis.rpush(key, *value)
        elif content["type"] == "hash":
            redis.hset(key, mapping=value)
        elif content["type"] == "zset":
            redis.zadd(key, dict(value))


def test_a_bundle_loads_verified_and_answers_its_probes(shop: Path) -> None:
    bundle = Bundle.load(shop / "bundles" / "current")
    probe = bundle.manifest.probes[0]
    retrieval = bundle.retrieve(SessionView(probe.items), Options(len(probe.top)))
    assert list(retrieval.items.item_ids) == [item.item_id for item in probe.top]


def test_a_dataset_opens_and_measures_the_bundle(shop: Path) -> None:
    assert Dataset.open(shop / "dataset").info.items == 101
    assert evaluate_bundle(shop / "bundles", shop / "dataset", "test")["examples"] == 123


def test_a_dataset_without_digests_says_once_that_it_cannot_be_checked(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = Path(shutil.copytree(shop / "dataset", tmp_path / "dataset"))
    assert len(Dataset.open(moved).sessions("test")) > 0
    Dataset.open(moved)
    assert [record.getMessage() for record in caplog.records] == [
        f"warning: {moved}: its files cannot be checked for changes, since version 0.1, which prepared it, wrote no "
        "digests; prepare the dataset again for that"
    ]


def test_a_dataset_of_0_1_is_trained_on(shop: Path, tmp_path: Path) -> None:
    recipe = Recipe.parse((shop / "run" / "recipe.toml").read_text(), "recipe.toml")
    assert train(recipe, shop / "dataset", tmp_path / "run", device_name="cpu", epochs=1)
    export([tmp_path / "run"], tmp_path / "bundles")
    manifest = Bundle.load(tmp_path / "bundles" / "current").manifest
    assert manifest.data_fingerprint == Dataset.open(shop / "dataset").info.fingerprint


def test_a_run_is_exported_to_the_same_interests(shop: Path, tmp_path: Path) -> None:
    export([shop / "run"], tmp_path)
    before, after = Bundle.load(shop / "bundles" / "current"), Bundle.load(tmp_path / "current")
    assert [probe.items for probe in after.manifest.probes] == [probe.items for probe in before.manifest.probes]
    assert after.manifest.probes[0].interests[0] == pytest.approx(before.manifest.probes[0].interests[0], abs=1e-5)


def test_a_session_is_read_and_has_come_to_its_position(client: TestClient, recorded: dict[str, Any]) -> None:
    assert client.get("/v1/sessions/visitor-1").json() == recorded["session"]
    position = recorded["event"]["position"]
    answer = client.get("/v1/sessions/visitor-1/recommendations", params={"position": position})
    assert answer.status_code == 200
    disliked = recorded["session"]["disliked"]
    assert not {item["id"] for item in answer.json()["items"]} & set(disliked)


def test_an_event_id_is_still_a_duplicate(client: TestClient, recorded: dict[str, Any]) -> None:
    event = {"session_id": "visitor-1", "item_id": recorded["session"]["purchased"][0], "event_id": "e-1"}
    assert client.post("/v1/events", json=event).json()["duplicates"] == 1


def test_an_answer_is_continued_and_explained(client: TestClient, recorded: dict[str, Any]) -> None:
    answer = recorded["answer"]["recommendation_id"]
    page = client.post(f"/v1/recommendations/{answer}/next", json={})
    assert page.status_code == 200
    shown = {item["id"] for name in ("answer", "page") for item in recorded[name]["items"]}
    assert not shown & {item["id"] for item in page.json()["items"]}
    explanation = client.get(f"/v1/recommendations/{answer}/explanation").json()
    assert [item["id"] for item in explanation["items"]] == [item["id"] for item in recorded["answer"]["items"]]


def test_the_live_catalog_and_the_scenarios_are_in_force(client: TestClient, shop: Path) -> None:
    ids = (shop / "bundles" / "current" / "ids.txt").read_text().splitlines()
    assert client.get("/v1/items/new-item").json()["vector"]["neighbours"] == [ids[0]]
    assert client.get(f"/v1/items/{ids[7]}").json()["available"] is False
    assert client.get(f"/v1/items/{ids[8]}").status_code == 404
    scenario = client.get("/v1/scenarios/home").json()
    assert (scenario["version"], scenario["options"]) == (1, {"k": 3, "exclude_seen": "purchased"})


def test_counters_and_popularity_are_summed_up(client: TestClient, recorded: dict[str, Any]) -> None:
    metrics = client.get("/v1/metrics/online", params={"window": "P1D"}).json()
    (before,), (after,) = recorded["metrics"]["outcomes"], metrics["outcomes"]
    assert after["answers"] >= before["answers"]
    assert (after["clicks"], after["values"]) == (before["clicks"], before["values"])
    assert client.get("/v1/items:popular").status_code == 200
