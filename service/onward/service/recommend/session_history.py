"""SessionHistory: what a session did and every kept answer that it got, computed again if its bundle is there."""

import asyncio
from collections.abc import Sequence
from typing import Literal, NamedTuple

from onward.bundle import Bundle, RetrievedItems
from onward.service.errors import RecommendationGone, SessionNotFound
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.replay import is_computed, is_same, repeated_query
from onward.service.records.answers import Answer
from onward.service.records.recorder import Recorder
from onward.service.sessions import Session, SessionStore

ReplayStatus = Literal["same", "changed", "bundle_removed", "not_repeatable"]


class Replay(NamedTuple):
    """An answer computed again, with the live catalog as it is now."""

    status: ReplayStatus
    items: RetrievedItems | None = None
    """What the answer would be now, if it can be computed and differs."""


class PastAnswer(NamedTuple):
    """The pages of a kept answer, and its replay if that was asked for."""

    pages: Sequence[Answer]
    replay: Replay | None


class SessionHistory(NamedTuple):
    """A session, and its answers, the newest first."""

    session: Session
    answers: Sequence[PastAnswer]


class SessionHistories:
    """Reads the histories of sessions."""

    def __init__(self, live: LiveBundle, store: SessionStore, recorder: Recorder) -> None:
        self._live = live
        self._store = store
        self._recorder = recorder

    async def of(self, digest: str, *, answers: int, replays: bool) -> SessionHistory:
        """Return the session of a digest, and its latest answers. Raises SessionNotFound, SessionStoreUnavailable.

        Args:
            digest: that of the session's id.
            answers: the most answers to return.
            replays: whether to compute the first page of each again, by the bundle that gave it.
        """
        session = await self._store.read(digest)
        log = self._recorder.answers
        await self._recorder.flush_answers()
        kept = [] if log is None else await log.of_session(digest, answers)
        if session.is_new and not kept:
            raise SessionNotFound("Nothing is stored for this session.")
        return SessionHistory(session, [PastAnswer(pages, await self._replay(pages[0], replays)) for pages in kept])

    async def _replay(self, answer: Answer, wanted: bool) -> Replay | None:
        if not wanted:
            return None
        bundle = await self._live.of(answer.bundle)
        return Replay("bundle_removed") if bundle is None else await asyncio.to_thread(replay, bundle, answer)


def replay(bundle: Bundle, answer: Answer) -> Replay:
    """Compute an answer again by the bundle that gave it. What was popular at the time is not known any more."""
    try:
        query = repeated_query(answer)
    except RecommendationGone:
        return Replay("not_repeatable")
    if not is_computed(answer):
        return Replay("not_repeatable")
    items = bundle.retrieve(query.session, query.options, user_id=query.user_id).items
    return Replay("same") if is_same(items, answer.items) else Replay("changed", items)
