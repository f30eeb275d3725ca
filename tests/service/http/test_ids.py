"""Every id comes back unchanged, whatever it holds: from paths, bodies, stores, answers and the event log."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from onward.service.settings import IN_MEMORY
from tests.ids import DOTS, ids
from tests.service.conftest import ITEMS
from tests.service.shop import UNHURRIED, get, opened, recommend, send


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module", params=["memory", "redis"])
def client(request: pytest.FixtureRequest, bundles: Path, valkey: str, log: Path) -> Iterator[TestClient]:
    url = IN_MEMORY if request.param == "memory" else valkey
    with opened(bundles, url, event_log=log, **UNHURRIED) as client:
        yield client


def path(*segments: str) -> str:
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(ids.filter(lambda text: text not in DOTS), min_size=5, max_size=5, unique=True))
def test_every_id_comes_back_unchanged(client: TestClient, names: list[str]) -> None:
    session, target, item, unknown, event_id = names
    client.delete(path("sessions", session))
    client.delete(path("sessions", target))
    live = client.patch(path("items", item), json={"available": True, "similar_to": [ITEMS[0]]})
    assert (live.status_code, live.json()["id"]) == (200, item)
    assert get(client, path("items", item))["id"] == item

    assert send(client, session, item, "purchase", event_id=event_id)["applied"] == 1
    assert send(client, session, item, "purchase", event_id=event_id)["duplicates"] == 1
    assert send(client, session, unknown, "dislike")["applied"] == 1
    stored = get(client, path("sessions", session))
    assert [event["item_id"] for event in stored["events"]] == [item]
    assert (stored["session_id"], stored["purchased"], stored["disliked"]) == (session, [item], [unknown])

    pin = [{"id": item, "position": 1}]
    answer = recommend(client, session_id=session, items=[unknown, ITEMS[1]], user_id=event_id, pin=pin, k=3)
    assert (answer["session_id"], answer["items"][0]["id"]) == (session, item)
    assert set(answer["unknown_item_ids"]) == {unknown} - set(ITEMS)
    answer_path = f"/v1/recommendations/{answer['recommendation_id']}"
    explanation = get(client, f"{answer_path}/explanation", why_not=unknown)
    assert explanation["session"] == [item, unknown, ITEMS[1]]
    assert explanation["why_not"]["id"] == unknown
    page = client.post(f"{answer_path}/next", json={}).json()
    assert item not in [shown["id"] for shown in page["items"]]

    merged = client.post(f"{path('sessions', session)}:merge", json={"into": target}).json()
    assert merged["session_id"] == target
    assert [event["item_id"] for event in get(client, path("sessions", target))["events"]] == [item, unknown, ITEMS[1]]
    assert client.delete(path("items", item)).status_code == 204


def test_the_event_log_holds_ids_as_they_were_sent(bundles: Path, tmp_path: Path) -> None:
    names = ["SKU 123", "\U0001f468\u200d\U0001f469", "a,b;\"c'", "\u0645\u06cc\u200c\u062e", "\u3000"]
    with opened(bundles, event_log=tmp_path) as client:
        for name in names:
            send(client, name, name, event_id=name)
    lines = [
        line for file in tmp_path.glob("events-*") for line in file.read_text(encoding="utf-8").split("\n") if line
    ]
    logged: list[dict[str, Any]] = list(map(json.loads, lines))
    assert [(line["session_id"], line["item_id"], line["event_id"]) for line in logged] == [
        (name,) * 3 for name in names
    ]


@pytest.mark.parametrize(
    ("item_id", "fault"),
    [
        ("a%07", "an id may not have U+0007, a control character"),
        ("a%E2%80%A8", "an id may not have U+2028, a line separator"),
        ("a%EF%BF%BD", "an id may not have U+FFFD, which stands for bytes that were not UTF-8"),
        ("e%CC%81", "an id may not have U+0301 where Unicode normalization (NFC) would change it"),
        ("x" * 129, "an id has 1 to 128 characters"),
    ],
)
def test_a_text_that_is_not_an_id_is_refused_with_its_fault(client: TestClient, item_id: str, fault: str) -> None:
    problem = client.get(f"/v1/items/{item_id}").json()
    assert problem["errors"] == [{"at": "path.item_id", "message": fault}]
