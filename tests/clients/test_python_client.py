"""The Python client, sync and async: against the running service, and against a server that fails as scripted."""

import asyncio
import inspect
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, cast

import httpx
import pytest

from onward_client import AsyncClient, Client, NoAnswerError, ProblemError, calls
from onward_client.attempts import Answer, Attempts
from onward_client.schemas import EventBody, RecommendationQuery
from tests.clients.scripted_server import CLOSED, Reply, problem, scripted
from tests.service.process import wait_until

pytestmark = pytest.mark.clients

EMPTY = Reply(200, {"items": [], "count": 0})
QUERY: RecommendationQuery = {"session_id": "a", "k": 1}


class Awaited:
    """An AsyncClient whose methods wait for their result, so that tests of both clients are the same."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._runner.run(method(*arguments, **options))

    def __enter__(self) -> "Awaited":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


Kind = Callable[..., Client]
BOTH = pytest.mark.parametrize("kind", [Client, cast(Kind, Awaited)], ids=["sync", "async"])


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, service_url: str) -> Iterator[Client]:
    with request.param(service_url + "/") as client:
        yield client


def visitor(client: Client) -> str:
    """An id of a session that no other test uses."""
    return f"visitor-{id(client)}"


def test_a_visitor_views_gets_recommendations_and_buys(client: Client) -> None:
    session = visitor(client)
    answer = client.recommend(session_id=session, items=["item-1", "item-5"], k=3, exclude_seen=True)
    assert answer["count"] == len(answer["items"]) == 3
    bought = answer["items"][0]["id"]
    stored = client.record_event(
        session_id=session,
        item_id=bought,
        type="purchase",
        value=9.5,
        recommendation_id=answer["recommendation_id"],
    )
    assert stored["applied"] == 1
    more = client.next_page(answer["recommendation_id"], k=2)
    assert not {item["id"] for item in more["items"]} & {item["id"] for item in answer["items"]}
    explanation = client.explain(answer["recommendation_id"], why_not="item-1")
    assert explanation["session"] == ["item-1", "item-5"]
    assert (why_not := explanation.get("why_not"))
    assert why_not["reason"] == "seen"
    shown = client.show_session(session)
    assert [event["item_id"] for event in shown["events"]] == ["item-1", "item-5", bought]
    assert shown["purchased"] == [bought]
    assert client.merge_session(session, into=f"user of {session}")["applied"] == 3
    client.delete_session(f"user of {session}")
    client.erase_user("nobody")
    with pytest.raises(ProblemError) as refused:
        client.show_session(f"user of {session}")
    assert (refused.value.status, refused.value.code) == (404, "session_not_found")
    assert refused.value.request_id


def test_several_queries_and_events_succeed_or_fail_alone(client: Client) -> None:
    session = visitor(client)
    answers = client.recommend_for_many([{"items": ["item-2"], "k": 1}, {"k": 1}])
    assert [result["status"] for result in answers["results"]] == [200, 422]
    events: list[EventBody] = [
        {"session_id": session, "item_id": "item-2", "event_id": "e-1"},
        {"session_id": session, "item_id": "item-2", "event_id": "e-1"},
        {"session_id": session, "item_id": ""},
    ]
    stored = client.record_events(events)
    assert [result["status"] for result in stored["results"]] == ["applied", "duplicate", "rejected"]


def test_lists_of_items_and_reports(client: Client) -> None:
    similar = client.similar_items("item-7", k=2, exclude=["item-8"])
    assert similar["count"] == 2
    first, second = (item["id"] for item in client.popular_items(k=2)["items"])
    assert [item["id"] for item in client.popular_items(k=1, exclude=[first])["items"]] == [second]
    report = client.show_online_metrics(window=timedelta(minutes=5), by=["scenario", "variant"])
    assert report["resolution"] == "minute"
    assert client.show_version().get("items") == 60


def test_items_with_any_id_are_changed_and_deleted(client: Client) -> None:
    item_id = f"a/b c?ü {id(client)}"
    assert client.change_item(item_id, attributes={"price": 3.5}, similar_to=["item-1"])["recommendable"]
    results = client.change_items([{"id": item_id, "available": False}, {"id": "", "available": True}])
    assert [result["status"] for result in results["results"]] == ["stored", "rejected"]
    assert client.show_item(item_id).get("not_recommendable") == "unavailable"
    client.delete_item(item_id)
    with pytest.raises(ProblemError, match="404 item_not_found"):
        client.show_item(item_id)


def test_scenarios_are_stored_by_version_and_not_overridden(client: Client) -> None:
    name = f"page-{id(client)}"
    stored = client.store_scenario(name, k=2, filter={"attribute": "price", "range": {"max": 20}})
    assert (stored["version"], stored["options"].get("k")) == (1, 2)
    assert client.recommend(items=["item-1"], scenario=name)["count"] == 2
    assert client.store_scenario(name, version=1, k=3)["version"] == 2
    with pytest.raises(ProblemError, match="412 precondition_failed"):
        client.store_scenario(name, version=1, k=4)
    assert client.show_scenario(name)["options"] == {"k": 3}
    assert name in [scenario["name"] for scenario in client.list_scenarios()["scenarios"]]
    client.delete_scenario(name, version=2)


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, lambda member: inspect.isfunction(member))
        return {name: [*inspect.signature(method).parameters] for name, method in found if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)


@BOTH
def test_a_wrong_key_is_refused_at_once(kind: Kind) -> None:
    with (
        scripted(problem(403, "wrong_key")) as server,
        kind(server.url, key="k") as client,
        pytest.raises(ProblemError, match="403"),
    ):
        client.recommend(**QUERY)
    assert len(server.asked) == 1


@BOTH
@pytest.mark.parametrize(
    "failure",
    [
        problem(503, "overloaded", Retry_After="0"),
        problem(429, "too_many_requests", Retry_After="0"),
        problem(503, "not_ready"),
        Reply(502, "bad gateway"),
        CLOSED,
    ],
)
def test_what_may_pass_is_tried_again(kind: Kind, failure: Reply) -> None:
    with scripted(failure, failure, EMPTY) as server, kind(server.url, deadline_s=30) as client:
        assert client.recommend(**QUERY)["count"] == 0
    assert server.asked == [QUERY] * 3


@BOTH
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (CLOSED, NoAnswerError),
        (Reply(502, "bad gateway"), ProblemError),
        (problem(500, "internal_error"), ProblemError),
    ],
)
def test_what_would_be_done_twice_is_not_tried_again(kind: Kind, failure: Reply, error: type[Exception]) -> None:
    with scripted(failure, EMPTY) as server, kind(server.url) as client, pytest.raises(error):
        client.recommend(session_id="a", items=["item-1"])
    assert len(server.asked) == 1


@BOTH
def test_an_event_is_sent_again_under_the_same_id(kind: Kind) -> None:
    stored = Reply(200, {"applied": 1, "duplicates": 0, "not_stored": 0})
    with (
        scripted(CLOSED, problem(503, "session_store_unavailable"), stored) as server,
        kind(server.url, deadline_s=30) as client,
    ):
        client.record_event(session_id="a", item_id="b")
    assert len(server.asked) == 3
    assert len({event["event_id"] for event in server.asked}) == 1


@BOTH
def test_a_call_ends_at_its_deadline(kind: Kind) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        kind(url_of(silent), deadline_s=0.2) as client,
        pytest.raises(NoAnswerError),
    ):
        client.recommend(**QUERY)
    with (
        scripted(problem(503, "overloaded", Retry_After="60")) as server,
        kind(server.url, deadline_s=0.2) as client,
        pytest.raises(ProblemError, match="overloaded"),
    ):
        client.recommend(**QUERY)
    assert len(server.asked) == 1


@BOTH
def test_nobody_listens(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = url_of(closed)
    with kind(url, deadline_s=0.2) as client, pytest.raises(NoAnswerError):
        client.recommend(**QUERY)


def url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_pauses_grow_and_are_as_long_as_the_service_asks() -> None:
    attempts = Attempts(calls.recommend(QUERY), deadline_s=3_600)
    document = b'{"status": 429, "code": "too_many_requests", "detail": ""}'
    pauses_s = [attempts.pause_s(httpx.ConnectError("refused")) for _ in range(200)]
    assert max(pause_s for pause_s in pauses_s[:3] if pause_s is not None) < 0.4
    assert 2 < max(pause_s for pause_s in pauses_s if pause_s is not None) < 5
    assert 7 <= (attempts.pause_s(Answer(429, document, "7")) or 0) < 12
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    assert 50 < (attempts.pause_s(Answer(429, document, in_a_minute)) or 0) < 66
    assert attempts.pause_s(Answer(429, document, "3601")) is None
    assert (attempts.pause_s(Answer(429, document, "soon")) or 0) < 5


@contextmanager
def queue_of(kind: Kind, url: str, **options: Any) -> Iterator[Any]:
    """A queue of either kind, of which `add`, `flush` and `close` are called alike."""
    if kind is Client:
        with Client(url, deadline_s=1) as sync_client, sync_client.event_queue(**options) as events:
            yield events
        return
    with asyncio.Runner() as runner:
        client = AsyncClient(url, deadline_s=1)
        queue = client.event_queue(**options)

        class Awaited:
            add = staticmethod(queue.add)

            @staticmethod
            def flush() -> int:
                return runner.run(queue.flush())

        runner.run(queue.__aenter__())
        yield Awaited
        runner.run(queue.close())
        runner.run(client.close())


@BOTH
def test_a_queue_sends_events_in_batches(kind: Kind, service_url: str) -> None:
    session = f"queue-{kind.__name__}"
    with queue_of(kind, service_url, batch_size=4, interval_s=3_600) as events:
        for number in range(10):
            assert events.add(session_id=session, item_id=f"item-{number + 1}", type="view")
        assert events.flush() == 0
        events.add(session_id=session, item_id="item-11")
    with Client(service_url) as client:
        stored = client.show_session(session)["events"]
    assert [event["item_id"] for event in stored] == [f"item-{number}" for number in range(1, 12)]


def test_a_queue_sends_by_itself(service_url: str) -> None:
    with Client(service_url) as client, client.event_queue(interval_s=0.01) as events:
        events.add(session_id="by-itself", item_id="item-1")
        wait_until(lambda: _exists(client, "by-itself"))


def _exists(client: Client, session: str) -> bool:
    try:
        return client.show_session(session)["count"] == 1
    except ProblemError:
        return False


def stored(body: dict[str, Any], *failed: int) -> Reply:
    """The answer that stores all events but those at some places."""
    statuses = ["failed" if place in failed else "applied" for place in range(len(body["events"]))]
    counts = {"applied": len(statuses) - len(failed), "duplicates": 0, "not_stored": 0, "rejected": 0}
    results = [{"status": status} for status in statuses]
    return Reply(207 if failed else 200, {**counts, "failed": len(failed), "results": results})


@BOTH
def test_a_queue_sends_again_what_was_not_confirmed(kind: Kind) -> None:
    with (
        scripted(problem(403, "expired_key"), lambda body: stored(body, 1), stored) as server,
        queue_of(kind, server.url, batch_size=10, interval_s=3_600) as events,
    ):
        ids = [events.add(session_id="a", item_id=item) for item in ("x", "y", "z")]
        assert events.flush() == 3
        assert events.flush() == 1
        assert events.flush() == 0
    sent = [[event["event_id"] for event in body["events"]] for body in server.asked]
    assert sent == [ids, ids, [ids[1]]]
    assert all(event["timestamp"] for body in server.asked for event in body["events"])


def test_a_queue_is_bounded_and_says_what_it_loses(caplog: pytest.LogCaptureFixture) -> None:
    with (
        scripted(problem(422, "invalid_request"), problem(500, "internal_error")) as server,
        Client(server.url) as client,
        client.event_queue(interval_s=3_600, max_waiting=2) as events,
    ):
        for item in ("x", "y", "z"):
            events.add(session_id="a", item_id=item)
        events.flush()
        assert [event["item_id"] for event in server.asked[-1]["events"]] == ["y", "z"]
        events.add(session_id="a", item_id="w")
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "1 events lost",
        "2 events lost",
        "1 events wait",
        "1 events lost",
    ]
