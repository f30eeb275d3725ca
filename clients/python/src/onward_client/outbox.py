"""Outbox: events that wait to be sent in batches; the same for sync and async queues."""

import logging
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime

from onward_client.calls import with_id
from onward_client.errors import NoAnswerError, OnwardError, ProblemError
from onward_client.schemas import EventBody, EventsStored

logger = logging.getLogger("onward_client")

MAX_BATCH = 1_000
"""Events that the service takes at once."""
MAY_PASS = (401, 403, 429, 500, 502, 503, 504)
"""Statuses of refusals that do not lie in the events."""


class Outbox:
    """Events in the order in which they happened; when there are too many, the oldest are lost, and it is logged."""

    def __init__(self, batch_size: int, max_waiting: int) -> None:
        if not 1 <= batch_size <= MAX_BATCH:
            raise ValueError(f"batch_size is 1 to {MAX_BATCH}")
        self.batch_size = batch_size
        self._max_waiting = max_waiting
        self._events: deque[EventBody] = deque()

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: EventBody) -> str:
        """Let an event wait, with the present time and an id unless it has them; return the id."""
        dated: EventBody = event if event.get("timestamp") else {**event, "timestamp": datetime.now(UTC).isoformat()}
        named = with_id(dated)
        self._events.append(named)
        self._bound()
        return str(named.get("event_id"))

    def take(self) -> list[EventBody]:
        """Take the oldest events, as many as fit into a batch."""
        return [self._events.popleft() for _ in range(min(self.batch_size, len(self._events)))]

    def settle(self, batch: Sequence[EventBody], answer: EventsStored) -> None:
        """Let the events wait again that the store did not confirm; log those that the service rejected."""
        results = answer["results"]
        self._put_back([event for event, result in zip(batch, results, strict=True) if result["status"] == "failed"])
        for event, result in zip(batch, results, strict=True):
            if result["status"] == "rejected":
                error = result.get("error")
                logger.warning("event %s rejected: %s", event.get("event_id"), error["detail"] if error else "")

    def settle_failure(self, batch: Sequence[EventBody], error: OnwardError) -> None:
        """Let the events of a batch wait again, unless the service will never take them."""
        if isinstance(error, NoAnswerError) or (isinstance(error, ProblemError) and error.status in MAY_PASS):
            logger.warning("%d events wait: %s", len(batch), error)
            self._put_back(batch)
        else:
            logger.error("%d events lost: %s", len(batch), error)

    def close(self) -> None:
        """Log what was not sent."""
        if self._events:
            logger.error("%d events lost: the queue was closed before they could be sent", len(self._events))

    def _put_back(self, events: Sequence[EventBody]) -> None:
        self._events.extendleft(reversed(events))
        self._bound()

    def _bound(self) -> None:
        if (lost := len(self._events) - self._max_waiting) > 0:
            for _ in range(lost):
                self._events.popleft()
            logger.error("%d events lost: more than %d wait", lost, self._max_waiting)
