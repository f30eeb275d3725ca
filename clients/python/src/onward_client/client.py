"""Client: calls the service and waits for its answers. AsyncClient has the same methods for asyncio."""

import threading
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self, Unpack

import httpx

from onward_client import calls
from onward_client.attempts import Answer, Attempts, Outcome
from onward_client.calls import Call, Result
from onward_client.errors import OnwardError
from onward_client.outbox import Outbox
from onward_client.schemas import (
    EventBody,
    EventsStored,
    EventStored,
    Explanation,
    Item,
    ItemBody,
    ItemEntry,
    ItemList,
    ItemResults,
    MergedSession,
    NextQuery,
    OnlineMetricsReport,
    RecommendationQuery,
    RecommendationResults,
    Recommendations,
    ScenarioBody,
    StoredScenario,
    StoredScenarios,
    StoredSession,
    Version,
)

HOUR = timedelta(hours=1)


class Client:
    """A client that threads may share. Every call may raise NoAnswerError and ProblemError, both OnwardError."""

    def __init__(
        self, url: str, *, key: str | None = None, deadline_s: float = 5.0, http: httpx.Client | None = None
    ) -> None:
        """Prepare calls; none is made yet.

        Args:
            url: where the service is, as in https://recommendations.shop.example.
            key: a key of the deployment, if it asks for one.
            deadline_s: seconds for each call with all its retries and pauses; checked whenever something arrives.
            http: for proxies, certificates and limits of your own; close it yourself.
        """
        self._url, self._deadline_s = url.rstrip("/"), deadline_s
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = http or httpx.Client()
        self._owns_http = http is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self._http.close()

    def recommend(self, **query: Unpack[RecommendationQuery]) -> Recommendations:
        """Recommend items for a session, for `items` or for a user; `items` are first appended to the session."""
        return self._send(calls.recommend(query))

    def recommend_for_many(self, queries: Sequence[RecommendationQuery]) -> RecommendationResults:
        """Answer up to 100 queries, each of which succeeds or fails alone."""
        return self._send(calls.recommend_for_many(queries))

    def next_page(self, recommendation_id: str, **options: Unpack[NextQuery]) -> Recommendations:
        """Return the next page of an answer."""
        return self._send(calls.next_page(recommendation_id, options))

    def explain(self, recommendation_id: str, *, why_not: str | None = None) -> Explanation:
        """Explain the ranks of an answer's items, and why an item is not in it."""
        return self._send(calls.explain(recommendation_id, why_not))

    def similar_items(
        self, item_id: str, *, k: int | None = None, exclude: Sequence[str] = (), timeout_ms: int | None = None
    ) -> ItemList:
        """List the items that are similar to an item."""
        return self._send(calls.similar_items(item_id, k=k, exclude=[*exclude], timeout_ms=timeout_ms))

    def popular_items(
        self, *, k: int | None = None, exclude: Sequence[str] = (), timeout_ms: int | None = None
    ) -> ItemList:
        """List popular items."""
        return self._send(calls.popular_items(k=k, exclude=[*exclude], timeout_ms=timeout_ms))

    def record_event(self, **event: Unpack[EventBody]) -> EventStored:
        """Record an event, once however often it is sent; without an `event_id` it gets one."""
        return self._send(calls.record_event(event))

    def record_events(self, events: Sequence[EventBody]) -> EventsStored:
        """Record up to 1,000 events, each accepted or rejected alone; those without an `event_id` get one."""
        return self._send(calls.record_events(events))

    def event_queue(self, *, batch_size: int = 100, interval_s: float = 1.0, max_waiting: int = 10_000) -> "EventQueue":
        """Return a queue that sends events in batches from a thread: `with client.event_queue() as events`.

        Args:
            batch_size: events of a request, up to 1,000; as many are sent at once.
            interval_s: seconds after which fewer are sent too.
            max_waiting: events that wait while the service does not answer; with more, the oldest are lost.
        """
        return EventQueue(self, Outbox(batch_size, max_waiting), interval_s)

    def show_session(self, session_id: str) -> StoredSession:
        """Show everything that is stored of a session."""
        return self._send(calls.show_session(session_id))

    def merge_session(self, session_id: str, *, into: str) -> MergedSession:
        """Move all events of a session into another one, as when a visitor logs in."""
        return self._send(calls.merge_session(session_id, into))

    def delete_session(self, session_id: str) -> None:
        """Erase everything that is stored of a session."""
        return self._send(calls.delete_session(session_id))

    def erase_user(self, user_id: str) -> None:
        """Erase the sessions and answers of a user."""
        return self._send(calls.erase_user(user_id))

    def show_item(self, item_id: str) -> Item:
        """Show an item as it is now."""
        return self._send(calls.show_item(item_id))

    def change_item(self, item_id: str, **changes: Unpack[ItemBody]) -> Item:
        """Change an item's attributes or availability, or add a new item."""
        return self._send(calls.change_item(item_id, changes))

    def change_items(self, changes: Sequence[ItemEntry]) -> ItemResults:
        """Change or add up to 1,000 items, each stored or rejected alone."""
        return self._send(calls.change_items(changes))

    def delete_item(self, item_id: str) -> None:
        """Never show an item again, until a change restores it."""
        return self._send(calls.delete_item(item_id))

    def list_scenarios(self) -> StoredScenarios:
        """List all scenarios."""
        return self._send(calls.list_scenarios())

    def show_scenario(self, name: str) -> StoredScenario:
        """Show a scenario."""
        return self._send(calls.show_scenario(name))

    def store_scenario(
        self, name: str, *, version: int | None = None, **options: Unpack[ScenarioBody]
    ) -> StoredScenario:
        """Store options under a name; with `version` only if that is the stored one (412 otherwise)."""
        return self._send(calls.store_scenario(name, version, options))

    def delete_scenario(self, name: str, *, version: int | None = None) -> None:
        """Delete a scenario; with `version` only if that is the stored one (412 otherwise)."""
        return self._send(calls.delete_scenario(name, version))

    def show_online_metrics(self, *, window: timedelta = HOUR, by: Sequence[str] = ()) -> OnlineMetricsReport:
        """Report what answers led to, grouped `by` scenario, bundle or variant."""
        return self._send(calls.show_online_metrics(window.total_seconds(), by))

    def show_version(self) -> Version:
        """Report the version of the service and of its bundle."""
        return self._send(calls.show_version())

    def _send(self, call: Call[Result]) -> Result:
        attempts = Attempts(call, self._deadline_s)
        while (pause_s := attempts.pause_s(outcome := self._attempt(call, attempts))) is not None:
            time.sleep(pause_s)
        return attempts.result(outcome)

    def _attempt(self, call: Call[Result], attempts: Attempts[Result]) -> Outcome:
        headers = self._headers if call.if_match is None else {**self._headers, "If-Match": call.if_match}
        try:
            with self._http.stream(
                call.method,
                self._url + call.path,
                params=call.query,
                json=call.body,
                headers=headers,
                timeout=attempts.remaining_s,
            ) as response:
                content = b"".join(_within(attempts, response.iter_bytes()))
                return Answer(response.status_code, content, response.headers.get("Retry-After"))
        except httpx.TransportError as error:
            return error


class EventQueue:
    """Events that a thread sends in batches, and sends again until the service takes them."""

    def __init__(self, client: Client, outbox: Outbox, interval_s: float) -> None:
        self._client, self._outbox, self._interval_s = client, outbox, interval_s
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="onward-events", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, **event: Unpack[EventBody]) -> str:
        """Let an event wait for the next batch; return its id. Does not wait for the service."""
        with self._lock:
            event_id = self._outbox.add(event)
            if len(self._outbox) >= self._outbox.batch_size:
                self._wake.set()
        return event_id

    def flush(self) -> int:
        """Send what waits; return how many events could not be sent and wait on."""
        with self._sending:
            while self._send_batch():
                pass
            return len(self._outbox)

    def close(self) -> None:
        """Send what waits, once more, and end the thread; what cannot be sent is lost, and it is logged."""
        if not self._closed.is_set():
            self._closed.set()
            self._wake.set()
            self._thread.join()
            self.flush()
            self._outbox.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._interval_s)
            self._wake.clear()
            if not self._closed.is_set() and self.flush():
                self._closed.wait(self._interval_s)  # however many more come meanwhile

    def _send_batch(self) -> bool:
        """Send a batch; return whether there is another one to send."""
        with self._lock:
            batch = self._outbox.take()
        if not batch:
            return False
        try:
            answer = self._client.record_events(batch)
        except OnwardError as error:
            with self._lock:
                self._outbox.settle_failure(batch, error)
            return False
        with self._lock:
            self._outbox.settle(batch, answer)
            return bool(self._outbox) and not answer["failed"]


def _within(attempts: Attempts[Result], chunks: Iterable[bytes]) -> Iterable[bytes]:
    """Yield what arrives. Raises httpx.ReadTimeout after the deadline."""
    for chunk in chunks:
        if attempts.is_over:
            raise httpx.ReadTimeout("the answer did not arrive in full before the deadline")
        yield chunk
