"""The loop closes: what the service logs makes the next encoder, and that is no worse for it."""

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
"""Shares of the time: the first encoder learns up to one, the service is told up to the other, the rest is test."""
EVENTS_A_CALL = 1_000


@dataclass(frozen=True)
class Shop:
    """The events of a shop by when they came."""

    before: pl.DataFrame
    served: pl.DataFrame
    later: pl.DataFrame


@pytest.fixture(scope="module")
def shop() -> Shop:
    events = generate(EVENTS, seed=1).events
    ended = pl.col("timestamp").max().over("session_id")
    first, last = events["timestamp"].min(), events["timestamp"].max()
    assert isinstance(first, int)
    assert isinstance(last, int)
    share = events.select((ended - first) / (last - first)).to_series()
    return Shop(
        events.filter(share < TRAINED),
        events.filter((share >= TRAINED) & (share < SERVED)),
        events.filter(share >= SERVED),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    shop.before.write_parquet(folder / "before.parquet")
    shop.later.write_parquet(folder / "later.parquet")
    (folder / "log").mkdir()
    return folder


@pytest.fixture(scope="module")
def recall_before(folder: Path) -> float:
    """Of the encoder that serves, in `bundles`."""
    return recall_of_new(folder, "first", [folder / "before.parquet"], folder / "bundles")


@pytest.fixture(scope="module")
def client(folder: Path, recall_before: float) -> Iterator[httpx.Client]:
    """Of a service that keeps a log; it is stopped, and the log whole, when its tests are done."""
    environment = {"SERVICE_EVENT_LOG": str(folder / "log"), "SERVICE_MAX_EVENT_AGE": "P3650D"}
    with ServiceProcess(folder / "bundles", environment=environment) as process:
        with process.wait_until_ready().client() as client:
            yield client
        process.stop()


def recall_of_new(folder: Path, name: str, events: list[Path], bundles: Path) -> float:
    """Prepare, train, export, and ask about what came later."""
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


def sent(event: dict[str, Any]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
    return {
        "session_id": str(event["session_id"]),
        "item_id": event["item_id"],
        "type": event["type"],
        "timestamp": moment.isoformat(),
        "event_id": f"{event['session_id']}-{event['timestamp']}-{event['item_id']}",
    }


def tell(client: httpx.Client, events: pl.DataFrame) -> None:
    for start in range(0, len(events), EVENTS_A_CALL):
        body = {"events": [sent(event) for event in events[start : start + EVENTS_A_CALL].iter_rows(named=True)]}
        response = client.post("/v1/events", json=body)
        assert response.status_code == 200, response.text


def test_an_event_that_names_its_answer_is_counted_for_it(client: httpx.Client) -> None:
    answer = client.post("/v1/recommendations", json={"session_id": "buyer", "items": ["item-3"], "k": 5}).json()
    shown = answer["items"][0]["id"]
    for kind, value in (("view", None), ("purchase", 12.5)):
        event = {"session_id": "buyer", "item_id": shown, "type": kind, "value": value}
        told = {**event, "recommendation_id": answer["recommendation_id"]}
        told = {name: given for name, given in told.items() if given is not None}
        assert client.post("/v1/events", json=told).status_code == 200

    def outcomes() -> list[dict[str, Any]]:
        report = client.get("/v1/metrics/online", params={"window": "PT1H", "by": "bundle"}).json()
        found: list[dict[str, Any]] = report["outcomes"]
        return found

    wait_until(lambda: any(outcome["purchases"] for outcome in outcomes()))
    (outcome,) = outcomes()
    assert outcome["bundle"] == answer["bundle"]
    assert (outcome["answers"], outcome["impressions"], outcome["clicks"], outcome["purchases"]) == (1, 5, 1, 1)
    assert outcome["values"] == {"purchase": 12.5}
    assert (outcome["click_through_rate"], outcome["conversion_rate"]) == (0.2, 1.0)


def test_what_visitors_do_now_is_popular_now(client: httpx.Client) -> None:
    unpopular = client.get("/v1/items:popular", params={"k": 100}).json()["items"][-1]["id"]
    for number in range(300):
        event = {"session_id": f"crowd-{number}", "item_id": unpopular, "type": "purchase"}
        assert client.post("/v1/events", json=event).status_code == 200
    wait_until(lambda: client.get("/v1/items:popular", params={"k": 1}).json()["items"][0]["id"] == unpopular)


def test_an_encoder_that_learns_from_the_log_too_is_no_worse(
    client: httpx.Client, shop: Shop, folder: Path, recall_before: float
) -> None:
    tell(client, shop.served)
    tell(client, shop.served)  # once more, as a caller does that heard nothing: no event counts twice
    wanted = {(str(row["session_id"]), row["item_id"], row["timestamp"]) for row in shop.served.iter_rows(named=True)}
    sessions = {session for session, _, _ in wanted}

    def logged() -> list[tuple[str, str, int]]:
        texts = [file.read_text() for file in (folder / "log").glob("events-*.jsonl")]
        lines = [
            line for text in texts for line in text[: text.rfind("\n") + 1].splitlines()
        ]  # the last may be in work
        events = [(event["session_id"], event["item_id"], event["timestamp_ms"]) for event in map(json.loads, lines)]
        return [event for event in events if event[0] in sessions]

    wait_until(lambda: len(logged()) >= len(wanted))
    assert len(logged()) == len(wanted)
    assert set(logged()) == wanted

    events = [folder / "before.parquet", folder / "log"]
    assert recall_of_new(folder, "second", events, folder / "new-bundles") >= recall_before
