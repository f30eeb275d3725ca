"""AsyncClient: the methods of Client for asyncio."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
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


class AsyncClient:
    """A client that tasks may share. Every call may raise NoAnswerError and ProblemError, both OnwardError."""

    def __init__(
        self, url: str, *, key: str | None = None, deadline_s: float = 5.0, http: httpx.AsyncClient | None = None
    ) -> None:
        """Prepare calls; none is made yet.

        Args:
            url: where the service is, as in https://recommendations.shop.example.
            key: a key of the deployment, if it asks for one.
            deadline_s: seconds for each call with all its retries and pauses.
            http: for proxies, certificates and limits of your own; close it yourself.
        """
        self._url, self._deadline_s = url.rstrip("/"), deadline_s
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = http or httpx.AsyncClient()
        self._owns_http = http is None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def recommend(self, **query: Unpack[RecommendationQuery]) -> Recommendations:
        """Recommend items for a session, for `items` or for a user; `items` are first appended to the session."""
        return await self._send(calls.recommend(query))

    async def recommend_for_many(self, queries: Sequence[RecommendationQuery]) -> RecommendationResults:
        """Answer up to 100 queries, each of which succeeds or fails alone."""
        return await self._send(calls.recommend_for_many(queries))

    async def next_page(self, recommendation_id: str, **options: Unpack[NextQuery]) -> Recommendations:
        """Return the next page of an answer."""
        return await self._send(calls.next_page(recommendation_id, options))

    async def explain(self, recommendation_id: str, *, why_not: str | None = None) -> Explanation:
        """Explain the ranks of an answer's items, and why an item is not in it."""
        return await self._send(calls.explain(recommendation_id, why_not))

    async def similar_items(
        self, item_id: str, *, k: int | None = None, exclude: Sequence[str] = (), timeout_ms: int | None = None
    ) -> ItemList:
        """List the items that are similar to an item."""
        return await self._send(calls.similar_items(item_id, k=k, exclude=[*exclude], timeout_ms=timeout_ms))

    async def popular_items(
        self, *, k: int | None = None, exclude: Sequence[str] = (), timeout_ms: int | None = None
    ) -> ItemList:
        """List popular items."""
        return await self._send(calls.popular_items(k=k, exclude=[*exclude], timeout_ms=timeout_ms))

    async def record_event(self, **event: Unpack[EventBody]) -> EventStored:
        """Record an event, once however often it is sent; without an `event_id` it gets one."""
        return await self._send(calls.record_event(event))

    async def record_events(self, events: Sequence[EventBody]) -> EventsStored:
        """Record up to 1,000 events, each accepted or rejected alone; those without an `event_id` get one."""
        return await self._send(calls.record_events(events))

    def event_queue(
        self, *, batch_size: int = 100, interval_s: float = 1.0, max_waiting: int = 10_000
    ) -> "AsyncEventQueue":
        """Return a queue that sends events in batches from a task: `async with client.event_queue() as events`.

        Args:
            batch_size: events of a request, up to 1,000; as many are sent at once.
            interval_s: seconds after which fewer are sent too.
            max_waiting: events that wait while the service does not answer; with more, the oldest are lost.
        """
        return AsyncEventQueue(self, Outbox(batch_size, max_waiting), interval_s)

    async def show_session(self, session_id: str) -> StoredSession:
        """Show everything that is stored of a session."""
        return await self._send(calls.show_session(session_id))

    async def merge_session(self, session_id: str, *, into: str) -> MergedSession:
        """Move all events of a session into another one, as when a visitor logs in."""
        return await self._send(calls.merge_session(session_id, into))

    async def delete_session(self, session_id: str) -> None:
        """Erase everything that is stored of a session."""
        return await self._send(calls.delete_session(session_id))

    async def erase_user(self, user_id: str) -> None:
        """Erase the sessions and answers of a user."""
        return await self._send(calls.erase_user(user_id))

    async def show_item(self, item_id: str) -> Item:
        """Show an item as it is now."""
        return await self._send(calls.show_item(item_id))

    async def change_item(self, item_id: str, **changes: Unpack[ItemBody]) -> Item:
        """Change an item's attributes or availability, or add a new item."""
        return await self._send(calls.change_item(item_id, changes))

    async def change_items(self, changes: Sequence[ItemEntry]) -> ItemResults:
        """Change or add up to 1,000 items, each stored or rejected alone."""
        return await self._send(calls.change_items(changes))

    async def delete_item(self, item_id: str) -> None:
        """Never show an item again, until a change restores it."""
        return await self._send(calls.delete_item(item_id))

    async def list_scenarios(self) -> StoredScenarios:
        """List all scenarios."""
        return await self._send(calls.list_scenarios())

    async def show_scenario(self, name: str) -> StoredScenario:
        """Show a scenario."""
        return await self._send(calls.show_scenario(name))

    async def store_scenario(
        self, name: str, *, version: int | None = None, **options: Unpack[ScenarioBody]
    ) -> StoredScenario:
        """Store options under a name; with `version` only if that is the stored one (412 otherwise)."""
        return await self._send(calls.store_scenario(name, version, options))

    async def delete_scenario(self, name: str, *, version: int | None = None) -> None:
        """Delete a scenario; with `version` only if that is the stored one (412 otherwise)."""
        return await self._send(calls.delete_scenario(name, version))

    async def show_online_metrics(self, *, window: timedelta = HOUR, by: Sequence[str] = ()) -> OnlineMetricsReport:
        """Report what answers led to, grouped `by` scenario, bundle or variant."""
        return await self._send(calls.show_online_metrics(window.total_seconds(), by))

    async def show_version(self) -> Version:
        """Report the version of the service and of its bundle."""
        return await self._send(calls.show_version())

    async def _send(self, call: Call[Result]) -> Result:
        attempts = Attempts(call, self._deadline_s)
        while (pause_s := attempts.pause_s(outcome := await self._attempt(call, attempts))) is not None:  # noqa: ASYNC110
            await asyncio.sleep(pause_s)  # no task could set an event: time has to pass
        return attempts.result(outcome)

    async def _attempt(self, call: Call[Result], attempts: Attempts[Result]) -> Outcome:
        headers = self._headers if call.if_match is None else {**self._headers, "If-Match": call.if_match}
        try:
            async with asyncio.timeout(attempts.remaining_s):
                response = await self._http.request(
                    call.method, self._url + call.path, params=call.query, json=call.body, headers=headers, timeout=None
                )
            return Answer(response.status_code, response.content, response.headers.get("Retry-After"))
        except httpx.TransportError as error:
            return error
        except TimeoutError:
            return httpx.ReadTimeout("the answer did not arrive in full before the deadline")


class AsyncEventQueue:
    """Events that a task sends in batches, and sends again until the service takes them."""

    def __init__(self, client: AsyncClient, outbox: Outbox, interval_s: float) -> None:
        self._client, self._outbox, self._interval_s = client, outbox, interval_s
        self._sending, self._wake, self._closed = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="onward-events")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def add(self, **event: Unpack[EventBody]) -> str:
        """Let an event wait for the next batch; return its id. Does not wait for the service."""
        event_id = self._outbox.add(event)
        if len(self._outbox) >= self._outbox.batch_size:
            self._wake.set()
        return event_id

    async def flush(self) -> int:
        """Send what waits; return how many events could not be sent and wait on."""
        async with self._sending:
            while await self._send_batch():
                pass
            return len(self._outbox)

    async def close(self) -> None:
        """Send what waits, once more, and end the task; what cannot be sent is lost, and it is logged."""
        if not self._closed.is_set():
            self._closed.set()
            self._wake.set()
            if self._task is not None:
                await self._task
            await self.flush()
            self._outbox.close()

    async def _run(self) -> None:
        while not self._closed.is_set():
            await _wait(self._wake, self._interval_s)
            self._wake.clear()
            if not self._closed.is_set() and await self.flush():
                await _wait(self._closed, self._interval_s)  # however many more come meanwhile

    async def _send_batch(self) -> bool:
        """Send a batch; return whether there is another one to send."""
        if not (batch := self._outbox.take()):
            return False
        try:
            answer = await self._client.record_events(batch)
        except OnwardError as error:
            self._outbox.settle_failure(batch, error)
            return False
        self._outbox.settle(batch, answer)
        return bool(self._outbox) and not answer["failed"]


async def _wait(event: asyncio.Event, longest_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await event.wait()
