"""The endpoints of events and sessions: what is stored, what is answered, and what the listener receives."""

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from onward.service import telemetry
from onward.service.errors import SessionStoreUnavailable
from onward.service.http.problems import add_error_handlers
from onward.service.http.routes import sessions
from onward.service.records.audit_log import AuditLog
from onward.service.sessions import AppliedEvent, Event, EventRules, EventWeights, InMemorySessionStore, Session
from tests.service.http.dispatching import dispatching

numbers = itertools.count()


class RecordingListener:
    """Records the events and deletions that it is notified of."""

    def __init__(self) -> None:
        self.received: list[AppliedEvent] = []
        self.forgotten: list[str] = []

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        self.received.extend(events)

    async def forget(self, session_id: str) -> None:
        self.forgotten.append(session_id)


class PartlyFailingStore(InMemorySessionStore):
    """Fails for sessions whose id begins with `down`."""

    async def append(
        self, session_id: str, events: Sequence[Event], *, at_least: str | None = None, keeps_answer: bool = False
    ) -> Session:
        if session_id.startswith("down"):
            raise SessionStoreUnavailable()
        return await super().append(session_id, events, at_least=at_least, keeps_answer=keeps_answer)


@pytest.fixture
def listener() -> RecordingListener:
    return RecordingListener()


@pytest.fixture
def events(listener: RecordingListener) -> Iterator[TestClient]:
    """An application with only the endpoints of events and sessions, on a store that fails for some sessions."""
    state = {
        "store": PartlyFailingStore(length=50, ttl=timedelta(minutes=1)),
        "listener": listener,
        "recorder": None,  # only for sessions that are erased by key
        "audit": AuditLog(None),
        "event_rules": EventRules(EventWeights.parse("share=2,skip=-1"), timedelta(hours=1)),
    }

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield state

    app = FastAPI(lifespan=lifespan)
    app.include_router(sessions.fast)
    app.include_router(sessions.router)
    add_error_handlers(app)
    with TestClient(dispatching(app, sessions.fast), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def session_id() -> str:
    return f"visitor-{next(numbers)}"


def minutes_ago(minutes: float) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()


def send(client: TestClient, **event: Any) -> dict[str, Any]:
    response = client.post("/v1/events", json=event)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def stored(client: TestClient, session_id: str) -> dict[str, Any]:
    response = client.get(f"/v1/sessions/{session_id}")
    assert response.status_code == 200, response.text
    session: dict[str, Any] = response.json()
    return session


def event_metrics() -> list[bytes]:
    return [line for line in telemetry.render_metrics().splitlines() if line.startswith(b"onward_events")]


class TestOneEvent:
    def test_an_event_is_visible_in_its_session_at_once(self, events: TestClient, session_id: str) -> None:
        at = (datetime.now(UTC) - timedelta(minutes=5)).replace(microsecond=0)
        answer = send(events, session_id=session_id, item_id="item-7", type="cart", timestamp=at.isoformat())
        position = answer.pop("position")
        assert answer == {"applied": 1, "duplicates": 0, "not_stored": 0}
        assert stored(events, session_id) == {
            "session_id": session_id,
            "events": [{"item_id": "item-7", "type": "cart", "timestamp": at.isoformat().replace("+00:00", "Z")}],
            "count": 1,
            "purchased": [],
            "disliked": [],
            "position": position,
        }

    def test_an_event_id_is_applied_once(
        self, events: TestClient, listener: RecordingListener, session_id: str
    ) -> None:
        first, second = (send(events, session_id=session_id, item_id="a", event_id="e") for _ in range(2))
        assert (second["applied"], second["duplicates"]) == (0, 1)
        assert second["position"] == first["position"]
        assert len(listener.received) == 1

    def test_a_session_lists_purchases_and_dislikes(self, events: TestClient, session_id: str) -> None:
        for kind, item in (("view", "a"), ("purchase", "b"), ("dislike", "a"), ("skip", "c"), ("impression", "d")):
            send(events, session_id=session_id, item_id=item, type=kind)
        session = stored(events, session_id)
        assert [event["item_id"] for event in session["events"]] == ["a", "b"]
        assert (session["purchased"], session["disliked"]) == (["b"], ["a", "c"])

    def test_an_event_with_store_false_leaves_no_trace(
        self, events: TestClient, listener: RecordingListener, session_id: str
    ) -> None:
        before = event_metrics()
        answer = send(events, session_id=session_id, item_id="a", event_id="e", store=False)
        assert answer == {"applied": 0, "duplicates": 0, "not_stored": 1}
        assert events.get(f"/v1/sessions/{session_id}").status_code == 404
        assert event_metrics() == before
        assert not listener.received
        assert send(events, session_id=session_id, item_id="a", event_id="e")["applied"] == 1

    def test_an_old_event_is_refused_with_the_maximum_age(self, events: TestClient, session_id: str) -> None:
        event = {"session_id": session_id, "item_id": "a"}
        assert send(events, **event, timestamp=minutes_ago(59))["applied"] == 1
        for store in (True, False):
            response = events.post("/v1/events", json=event | {"timestamp": minutes_ago(61), "store": store})
            assert (response.status_code, response.json()["code"]) == (422, "event_too_old")
            assert "1:00:00" in response.json()["detail"]

    def test_a_failing_store_is_a_503(self, events: TestClient, listener: RecordingListener) -> None:
        response = events.post("/v1/events", json={"session_id": "down", "item_id": "a"})
        assert (response.status_code, response.json()["code"]) == (503, "session_store_unavailable")
        assert not listener.received

    def test_the_listener_receives_every_field_of_an_event(
        self, events: TestClient, listener: RecordingListener, session_id: str
    ) -> None:
        send(events, session_id=session_id, item_id="a")
        send(events, session_id=session_id, item_id="b", type="dislike")
        send(
            events,
            session_id=session_id,
            item_id="c",
            type="share",
            event_id="e",
            recommendation_id="r",
            value=9.5,
        )
        received = listener.received[-1]
        assert received == AppliedEvent(session_id, "c", "share", 2.0, received.timestamp_ms, 9.5, "e", "r", ["a", "c"])
        assert abs(received.timestamp_ms / 1000 - datetime.now(UTC).timestamp()) < 60


class TestManyEvents:
    def test_events_of_several_sessions_keep_their_order(self, events: TestClient, session_id: str) -> None:
        sent = [(f"{session_id}-{number % 3}", f"item-{number}") for number in range(30)]
        body = {"events": [{"session_id": session, "item_id": item, "event_id": item} for session, item in sent]}
        first, second = (events.post("/v1/events", json=body).json() for _ in range(2))
        assert (first["applied"], first["duplicates"]) == (30, 0)
        assert (second["applied"], second["duplicates"]) == (0, 30)
        items = [event["item_id"] for event in stored(events, f"{session_id}-2")["events"]]
        assert items == [item for session, item in sent if session.endswith("-2")]

    def test_each_result_has_the_position_of_its_event(self, events: TestClient, session_id: str) -> None:
        first_session, second_session = f"{session_id}-1", f"{session_id}-2"
        sent = [
            {"session_id": session, "item_id": "a"}
            for session in (first_session, second_session, first_session, first_session)
        ]
        results = events.post("/v1/events", json={"events": sent}).json()["results"]
        assert [result["position"].split("-")[1] for result in results] == ["1", "1", "2", "3"]
        assert results[3]["position"] == stored(events, first_session)["position"]
        assert results[1]["position"] == stored(events, second_session)["position"]

    def test_each_event_is_accepted_or_rejected_alone(
        self, events: TestClient, listener: RecordingListener, session_id: str
    ) -> None:
        event = {"session_id": session_id, "item_id": "a"}
        sent: list[Any] = [
            event | {"event_id": "1"},
            event | {"item_id": "b\nc", "type": "NO"},
            event | {"event_id": "1"},
            event | {"timestamp": minutes_ago(61)},
            event | {"store": False},
            {"session_id": "down", "item_id": "a"},
            7,
            event | {"unknown": 1},
            event | {"item_id": "b"},
        ]
        response = events.post("/v1/events", json={"events": sent})
        answer = response.json()
        assert response.status_code == 207
        statuses = ["applied", "rejected", "duplicate", "rejected", "not_stored", "failed", "rejected", "rejected"]
        assert [result["status"] for result in answer["results"]] == [*statuses, "applied"]
        counts = [answer[name] for name in ("applied", "duplicates", "not_stored", "rejected", "failed")]
        assert counts == [2, 1, 1, 4, 1]
        errors = [result["error"] for result in answer["results"] if "error" in result]
        assert [error["code"] for error in errors] == [
            "invalid_request",
            "event_too_old",
            "session_store_unavailable",
            "invalid_request",
            "invalid_request",
        ]
        places = [[fault["at"] for fault in error.get("errors", [])] for error in errors]
        assert places == [["body.events.1.item_id", "body.events.1.type"], [], [], ["body.events.6"], ["body.events.7"]]
        assert [event.item_id for event in listener.received] == ["a", "b"]

    def test_a_list_of_one_event_is_answered_as_a_list(self, events: TestClient, session_id: str) -> None:
        response = events.post("/v1/events", json={"events": [{"session_id": session_id, "item_id": "a"}]})
        assert (response.status_code, response.json()["results"][0]["status"]) == (200, "applied")

    def test_a_list_of_only_invalid_events_is_answered_with_207(self, events: TestClient) -> None:
        response = events.post("/v1/events", json={"events": [{}, None]})
        assert (response.status_code, response.json()["rejected"]) == (207, 2)

    def test_a_store_that_fails_for_every_event_is_a_503(self, events: TestClient, session_id: str) -> None:
        down = [{"session_id": f"down-{number}", "item_id": "a"} for number in range(3)]
        assert events.post("/v1/events", json={"events": [*down, {}]}).status_code == 503


class TestMerging:
    def test_merged_events_are_ordered_by_time(self, events: TestClient, session_id: str) -> None:
        user = f"{session_id}-user"
        for number, session in enumerate([session_id, user, session_id, user]):
            send(events, session_id=session, item_id=f"i{number}", timestamp=minutes_ago(30 - number))
        response = events.post(f"/v1/sessions/{session_id}:merge", json={"into": user})
        position = stored(events, user)["position"]
        assert (response.status_code, response.json()) == (
            200,
            {"session_id": user, "applied": 2, "position": position},
        )
        assert [event["item_id"] for event in stored(events, user)["events"]] == ["i0", "i1", "i2", "i3"]
        assert events.get(f"/v1/sessions/{session_id}").status_code == 404
        again = events.post(f"/v1/sessions/{session_id}:merge", json={"into": user}).json()
        assert again == {"session_id": user, "applied": 0, "position": position}

    def test_a_session_cannot_be_merged_into_itself(self, events: TestClient, session_id: str) -> None:
        response = events.post(f"/v1/sessions/{session_id}:merge", json={"into": session_id})
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")

    @pytest.mark.parametrize("odd_id", ["a/b", "x:merge", "日本"])
    def test_every_valid_id_can_be_merged(self, events: TestClient, odd_id: str) -> None:
        send(events, session_id=odd_id, item_id="a")
        response = events.post(f"/v1/sessions/{quote(odd_id, safe='')}:merge", json={"into": "user"})
        assert response.json()["applied"] == 1


def test_the_listener_is_notified_of_a_deleted_session(
    events: TestClient, listener: RecordingListener, session_id: str
) -> None:
    send(events, session_id=session_id, item_id="a")
    assert events.delete(f"/v1/sessions/{session_id}").status_code == 204
    assert events.get(f"/v1/sessions/{session_id}").status_code == 404
    assert listener.forgotten == [session_id]
