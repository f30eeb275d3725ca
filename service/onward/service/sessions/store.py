"""SessionStore: the protocol of a store of sessions, implemented in Redis and in memory."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from onward.service.errors import ServiceError
from onward.service.sessions.events import Event
from onward.service.sessions.session import Session

REMEMBERED_EVENT_IDS = 1_000
REMEMBERED_MARKS = 1_000
"""Items of one session that are remembered as purchased or hidden, whatever their age; the latest ones are kept."""
DIGEST_LENGTH = 32
CACHED_DIGESTS = 4_096


class MergeResult(NamedTuple):
    """The outcome of a merge: the number of events that the target took over, and the target's position as a token."""

    applied: int
    position: str


class SessionAppend(NamedTuple):
    """The arguments of one append: see `SessionStore.append`."""

    session_id: str
    events: Sequence[Event] = ()
    at_least: str | None = None
    keeps_answer: bool = False


class ListedSession(NamedTuple):
    """What a list shows of a session."""

    digest: str
    """Stands for the session, whose id the store does not have."""
    applied: int
    """The number of events that were ever applied."""
    last_event: Event | None
    expires_in_ms: int


class SessionPage(NamedTuple):
    """Some sessions, and the cursor of the next ones; None if these were the last."""

    sessions: list[ListedSession]
    cursor: str | None


class SessionStore(Protocol):
    """Remembers the latest events of each session until its time to live passes without a new event.

    Appends to one session are applied one after another, in the order in which the store receives them. Events with an
    id are idempotent: the latest 1,000 ids of a session are remembered, and duplicates are not applied. Once a call
    returns, its events are stored; if it raises SessionStoreUnavailable, they may be stored or not.
    """

    length: int
    """The number of events that are kept of a session."""

    async def append(
        self, session_id: str, events: Sequence[Event], *, at_least: str | None = None, keeps_answer: bool = False
    ) -> Session:
        """Apply events and return the session as it is then. Without events, only read it.

        Args:
            session_id: the session of the events.
            events: new events, oldest first.
            at_least: a position that the session must have reached; if it has not, nothing is applied and SessionBehind
                is raised.
            keeps_answer: whether an answer of the session will be kept; the session then has the generation of its
                answers, so that the answer is dropped if the session is deleted before it is written.

        Raises SessionStoreUnavailable, SessionBehind.
        """
        ...

    async def append_all(self, appends: Sequence[SessionAppend]) -> list[Session | ServiceError]:
        """Do several appends, in order within each session; return for each the session, or its error."""
        ...

    async def merge(self, source: str, target: str) -> MergeResult:
        """Move all events and marks of one session into another, once, in the order of time; empty the source.

        Events appended to the source during the merge are either moved or stay there. The call is idempotent: repeated
        after SessionStoreUnavailable it continues where it stopped, so that within the time to live no event is applied
        twice or lost.
        """
        ...

    async def read(self, digest: str) -> Session:
        """Return the session of a digest. Raises SessionStoreUnavailable."""
        ...

    async def page(self, cursor: str, limit: int) -> SessionPage:
        """Return about `limit` sessions, in no order; fewer if that takes too long. Raises SessionStoreUnavailable.

        A session that is stored all the while is on at least one page. The first cursor is FIRST_SCAN.
        """
        ...

    async def delete(self, session_id: str) -> None:
        """Delete a session and its answers. Raises SessionStoreUnavailable."""
        ...

    async def erase(self, digest: str) -> None:
        """Delete the session of a digest and its answers. Raises SessionStoreUnavailable."""
        ...

    async def close(self) -> None:
        """Close the store's connections."""
        ...


@lru_cache(CACHED_DIGESTS)
def session_digest(session_id: str) -> str:
    """Return the 32 hexadecimal digits that stand for a session in the store, so that its id cannot be read there."""
    return hashlib.blake2b(session_id.encode(), digest_size=DIGEST_LENGTH // 2).hexdigest()
