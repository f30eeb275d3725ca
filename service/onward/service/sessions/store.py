"""SessionStore: what each visitor did last, in Redis or in memory."""

import hashlib
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from onward.service.errors import ServiceError
from onward.service.sessions.events import Event
from onward.service.sessions.session import Session

REMEMBERED_EVENT_IDS = 1_000
REMEMBERED_MARKS = 1_000
"""Items of one session that are remembered as purchased or hidden, however long ago; the newest by their time."""
REMEMBERED_ANSWERS = 40
"""Entries of a session's list of answers: the place that is reserved for an answer, and the answer itself."""
DIGEST_LENGTH = 32
DIGESTS_KEPT = 4_096
BIRTH_DIGITS = 12


class Merged(NamedTuple):
    """What a merge did to the session that it was made into: events it took over, and where that left it."""

    applied: int
    position: str


class Append(NamedTuple):
    """What is to be applied to a session: see `SessionStore.append`."""

    session_id: str
    events: Sequence[Event] = ()
    at_least: str | None = None
    answer_id: str | None = None


class SessionStore(Protocol):
    """Remembers a session's last events until its time to live passes without a new one.

    Appends to one session are applied one after another, in the order the store takes them. An event with an id is
    applied once: the last 1,000 ids of a session are remembered. What a call returned is stored; a call that raises
    SessionStoreUnavailable may have been applied all the same.
    """

    async def append(
        self, session_id: str, events: Sequence[Event], *, at_least: str | None = None, answer_id: str | None = None
    ) -> Session:
        """Apply events, none to read alone, and return the whole session.

        Args:
            session_id: whose events they are.
            events: what is new, oldest first.
            at_least: the position that the session must have reached; where it has not, after a short wait, nothing
                is applied and SessionBehind raised.
            answer_id: an answer for which a place is kept in the session's list of answers, as `answer_key` names it.

        Raises SessionStoreUnavailable, SessionBehind.
        """
        ...

    async def append_all(self, appends: Sequence[Append]) -> list[Session | ServiceError]:
        """Do what `append` does for each, those of one session in order; what one raises stands in its place.

        One that is behind its position may be applied after others of its session.
        """
        ...

    async def merge(self, source: str, target: str) -> Merged:
        """Move all that a session has into another one, once, by the order of time; then the source is empty.

        What is appended to the source meanwhile is moved, or stays there. After SessionStoreUnavailable the same
        call goes on where it ended; what was on its way counts neither twice nor as lost within the time to live.
        """
        ...

    async def delete(self, session_id: str) -> None:
        """Forget all about a session, its answers too. Raises SessionStoreUnavailable."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@lru_cache(DIGESTS_KEPT)
def session_digest(session_id: str) -> str:
    """Return what stands for a session in the store, where no id is to be read: 32 hexadecimal digits."""
    return hashlib.blake2b(session_id.encode(), digest_size=DIGEST_LENGTH // 2).hexdigest()


def new_births(count: int) -> list[str]:
    """Return names of sessions' new lives."""
    names = secrets.token_hex(count * BIRTH_DIGITS // 2)
    return [names[start : start + BIRTH_DIGITS] for start in range(0, len(names), BIRTH_DIGITS)]


def new_birth() -> str:
    """Return the name of a session's new life."""
    return new_births(1)[0]
