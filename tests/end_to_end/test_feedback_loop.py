"""The feedback loop: the service's event log trains the next encoder, which is no worse than the first."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import tomlkit

from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.synthetic import generate
from onward.training.evaluation.evaluation import evaluate_bundle
from onward.training.export.export import export
from onward.training.recipe import RECIPES, Recipe
from onward.training.trainer import train
from tests.service.process import ServiceProcess, wait_until

EVENTS = 12_000
TRAINED, SERVED = 0.6, 0.85
"""Shares of the period: sessions that end before the first train the first encoder, those up to the second are sent to
the service, and the rest is the test set."""
EVENTS_PER_CALL = 1_000


@dataclass(frozen=True)
class EventPeriods:
    """The events of a shop in three periods."""

    before: pl.DataFrame
    served: pl.DataFrame
    later: pl.DataFrame


@pytest.fixture(scope="module")
def shop() -> EventPeriods:
    events = generate(EVENTS, seed=1).events
    ended = pl.col("timestamp").max().over("session_id")
    first, last = events["timestamp"].min(), events["timestamp"].max()
    assert isinstance(first, int)
    assert isinstance(last, int)
    share = events.select((ended - first) / (last - first)).to_series()
    return EventPeriods(
        events.filter(share < TRAINED),
        events.filter((share >= TRAINED) & (share < SERVED)),
        events.filter(share >= SERVED),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shop: EventPeriods) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    shop.before.write_parquet(folder / "before.parquet")
    shop.later.write_parquet(folder / "later.parquet")
    (folder / "log").mkdir()
    return folder


@pytest.fixture(scope="module")
def recall_before(folder: Path) -> float:
    """recall@20 of the first encoder, which is published in `bundles`."""
    return train_and_evaluate(folder, "first", [folder / "before.parquet"], folder / "bundles")


@pytest.fixture(scope="module")
def client(folder: Path, recall_before: float) -> Iterator[httpx.Client]:
    """A client of a service with an event log; the service is stopped after the tests of this module."""
    environment = {"SERVICE_EVENT_LOG": str(folder / "log"), "SERVICE_MAX_EVENT_AGE": "P3650D"}
    with ServiceProcess(folder / "bundles", environment=environment) as process:
        with process.wait_until_ready().client() as client:
            yield client
        process.stop()


def train_and_evaluate(folder: Path, name: str, events: list[Path], bundles: Path) -> float:
    """Prepare, train and export; return recall@20 on the last period."""
    preparation = Preparation(split=SplitKind.GIVEN, min_support=2, min_length=2)
    prepare(list(map(str, events)), folder / name, preparation, PolarsEngine, test=[str(folder / "later.parquet")])
    assert train(small_recipe(), folder / name, folder / f"{name}-run", device_name="cpu")
    export([folder / f"{name}-run"], bundles)
    recall: float = evaluate_bundle(bundles, folder / name, "test")["recall@20"]
    return recall


def small_recipe() -> Recipe:
    recipe = tomlkit.parse((RECIPES / "srgnn.toml").read_text())
    for table, changes in {
        "encoder": {"dimension": 32, "max_length": 12},
        "training": {"batch_size": 64, "epochs": 3, "refit": False},
    }.items():
        recipe[table].update(changes)
    return Recipe.parse(tomlkit.dumps(recipe), "srgnn.toml")


def event_body(event: dict[str, Any]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
    return {
        "session_id": str(event["session_id"]),
        "item_id": event["item_id"],
        "type": event["type"],
        "timestamp": moment.isoformat(),
        "event_id": f"{event['session_id']}-{event['timestamp']}-{event['item_id']}",
    }


def send(client: httpx.Client, events: pl.DataFrame) -> None:
    for start in range(0, len(events), EVENTS_PER_CALL):
        body = {
            "events": [event_body(event) for event in events[start : start + EVENTS_PER_CALL].iter_rows(named=True)]
        }
        response = client.post("/v1/events", json=body)
        assert response.status_code == 200, response.text


def test_an_event_is_attributed_to_the_answer_that_it_names(client: httpx.Client) -> None:
    answer = client.post("/v1/recommendations", json={"session_id": "buyer", "items": ["item-3"], "k": 5}).json()
    shown = answer["items"][0]["id"]
    for kind, value in (("view", None), ("purchase", 12.5)):
        event = {"session_id": "buyer", "item_id": shown, "type": kind, "value": value}
        event["recommendation_id"] = answer["recommendation_id"]
        body = {name: value for name, value in event.items() if value is not None}
        assert client.post("/v1/events", json=body).status_code == 200

    def outcomes() -> list[dict[str, Any]]:
        report = client.get("/v1/metrics/online", params={"window": "PT1H", "by": "bundle"}).json()
        groups: list[dict[str, Any]] = report["outcomes"]
        return groups

    wait_until(lambda: any(outcome["purchases"] for outcome in outcomes()))
    (outcome,) = outcomes()
    assert outcome["bundle"] == answer["bundle"]
    assert (outcome["answers"], outcome["impressions"], outcome["clicks"], outcome["purchases"]) == (1, 5, 1, 1)
    assert outcome["values"] == {"purchase": 12.5}
    assert (outcome["click_through_rate"], outcome["conversion_rate"]) == (0.2, 1.0)


def test_popular_items_follow_current_events(client: httpx.Client) -> None:
    unpopular = client.get("/v1/items:popular", params={"k": 100}).json()["items"][-1]["id"]
    for number in range(300):
        event = {"session_id": f"crowd-{number}", "item_id": unpopular, "type": "purchase"}
        assert client.post("/v1/events", json=event).status_code == 200
    wait_until(lambda: client.get("/v1/items:popular", params={"k": 1}).json()["items"][0]["id"] == unpopular)


@pytest.mark.slow
def test_an_encoder_trained_with_the_event_log_is_no_worse(
    client: httpx.Client, shop: EventPeriods, folder: Path, recall_before: float
) -> None:
    send(client, shop.served)
    send(client, shop.served)  # a retry: no event is applied twice
    expected = {(str(row["session_id"]), row["item_id"], row["timestamp"]) for row in shop.served.iter_rows(named=True)}
    sessions = {session for session, _, _ in expected}

    def logged() -> list[tuple[str, str, int]]:
        texts = [file.read_text() for file in (folder / "log").glob("events-*.jsonl")]
        complete = [text[: text.rfind("\n") + 1] for text in texts]  # the last line may still be being written
        lines = [line for text in complete for line in text.splitlines()]
        events = [(event["session_id"], event["item_id"], event["timestamp_ms"]) for event in map(json.loads, lines)]
        return [event for event in events if event[0] in sessions]

    wait_until(lambda: len(logged()) >= len(expected))
    assert len(logged()) == len(expected)
    assert set(logged()) == expected

    events = [folder / "before.parquet", folder / "log"]
    assert train_and_evaluate(folder, "second", events, folder / "new-bundles") >= recall_before
