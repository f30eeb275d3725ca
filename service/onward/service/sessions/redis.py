"""RedisSessionStore: sessions shared by every worker and replica."""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Any, NamedTuple, Self

from redis.exceptions import RedisError

from onward.service import telemetry
from onward.service.errors import ServiceError, SessionBehind, SessionStoreUnavailable
from onward.service.redis_client import Argument, RedisCalls, Script, ask, connect
from onward.service.sessions.events import Event
from onward.service.sessions.session import NOWHERE, UNBORN, Position, Session
from onward.service.sessions.store import (
    DIGEST_LENGTH,
    REMEMBERED_ANSWERS,
    REMEMBERED_EVENT_IDS,
    REMEMBERED_MARKS,
    Append,
    Merged,
    new_birth,
    new_births,
    session_digest,
)
from onward.service.sessions.stored_events import StoredEvents

SESSIONS_PER_CALL = 100  # of more, each hundred is a call of its own, so that others come between
PAUSE_S = 0.005

NOTHING: frozenset[str] = frozenset()
ANYWHERE = str(NOWHERE)
EVENTS, IDS, STATE, ANSWERS = "events", "ids", "state", "answers"
EVENTS_ASIDE, STATE_ASIDE, MOVES = "events-aside", "state-aside", "moves"
PARTS = (EVENTS, IDS, STATE, ANSWERS, EVENTS_ASIDE, STATE_ASIDE, MOVES)

_Call = tuple[Sequence[str], Sequence[Argument]]
"""Keys and arguments of a script."""


class RedisSessionStore:
    """A few keys of one slot for each session, and one server-side script, so one round trip for each request."""

    def __init__(
        self,
        redis: RedisCalls,
        *,
        length: int,
        ttl: timedelta,
        timeout: timedelta,
        answer_ttl: timedelta = timedelta(minutes=30),
        prefix: str = "onward:session:",
    ) -> None:
        self._redis = redis
        self._length = length
        self._ttl_ms = int(ttl / timedelta(milliseconds=1))
        self._timeout_s = timeout.total_seconds()
        self._prefix = prefix
        limits = {
            "MAX_EVENTS": length,
            "TTL_MS": self._ttl_ms,
            "MAX_IDS": REMEMBERED_EVENT_IDS,
            "MAX_MARKS": REMEMBERED_MARKS,
            "MAX_ANSWERS": REMEMBERED_ANSWERS,
            "ANSWERS_TTL_MS": int(answer_ttl / timedelta(milliseconds=1)),
        }
        self._apply = _script(redis, "session.lua", **limits)
        self._take = _script(redis, "take.lua")
        self._arrive = _script(redis, "arrive.lua")
        self._clear = _script(redis, "clear.lua")

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        length: int,
        ttl: timedelta,
        timeout: timedelta,
        answer_ttl: timedelta = timedelta(minutes=30),
    ) -> Self:
        """Name the server; nothing is sent before the first call. No call is retried and none waits past `timeout`."""
        return cls(connect(url, timeout), length=length, ttl=ttl, timeout=timeout, answer_ttl=answer_ttl)

    async def append(
        self, session_id: str, events: Sequence[Event], *, at_least: str | None = None, answer_id: str | None = None
    ) -> Session:
        """As one of several."""
        (found,) = await self.append_all([Append(session_id, events, at_least, answer_id)])
        if isinstance(found, ServiceError):
            raise found
        return found

    async def append_all(self, appends: Sequence[Append]) -> list[Session | ServiceError]:
        """One round trip for each hundred sessions; not one transaction."""
        births = new_births(len(appends))
        calls = [self._call(one, birth) for one, birth in zip(appends, births, strict=True)]
        sessions: list[Session | ServiceError] = []
        for first in range(0, len(calls), SESSIONS_PER_CALL):
            together = slice(first, first + SESSIONS_PER_CALL)
            sessions += await self._appended(appends[together], calls[together])
        return sessions

    async def merge(self, source: str, target: str) -> Merged:
        """Put aside, let arrive, clear: three round trips, of which each can be repeated."""
        from_digest, to_digest, name, applied = session_digest(source), session_digest(target), new_birth(), 0
        with _Told():
            while (move := await self._put_aside(from_digest, to_digest, name)) is not None:
                arrived = await self._let_arrive(move)
                applied += arrived if move.target == to_digest else 0
                await self._clear(self._keys(from_digest, EVENTS_ASIDE, STATE_ASIDE), [move.name])
                if move.name == name:  # what another call left behind came first, and what comes now stays
                    break
        return Merged(applied, (await self.append(target, ())).position)

    async def delete(self, session_id: str) -> None:
        """Delete every key of the session."""
        with _Told():
            await ask(self._redis, ("DEL", *self._keys(session_digest(session_id), *PARTS)))

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    async def _appended(self, appends: Sequence[Append], calls: Sequence[_Call]) -> list[Session | ServiceError]:
        """Make calls in one go, and those again that were behind."""
        try:
            with _Told():
                answers = await self._apply.all(calls)
        except SessionStoreUnavailable as error:
            return [error] * len(calls)
        missed = [place for place, answer in enumerate(answers) if isinstance(answer, Exception) or _is_behind(answer)]
        again = await asyncio.gather(*(self._again(appends[at], calls[at], answers[at]) for at in missed))
        made_up = dict(zip(missed, again, strict=True))
        return [made_up[place] if place in made_up else _session(answer) for place, answer in enumerate(answers)]

    async def _again(self, one: Append, call: _Call, answer: Any) -> Session | ServiceError:
        """What becomes of a call that the store refused, or of which the session was behind."""
        try:
            with _Told():
                if isinstance(answer, Exception):
                    raise answer
                return _session(await self._caught_up(*call, answer, one.at_least))
        except ServiceError as error:
            return error

    async def _caught_up(
        self, keys: Sequence[str], arguments: Sequence[Argument], answer: Any, at_least: str | None
    ) -> Any:
        """Wait while the session is behind, for half of the store's time at most. Raises SessionBehind."""
        deadline_s = time.perf_counter() + self._timeout_s / 2
        async with asyncio.timeout(self._timeout_s):
            while _is_behind(answer):
                if time.perf_counter() > deadline_s or not _may_catch_up(answer, at_least):
                    raise SessionBehind("The session is not at the position that was asked for, or ended since.")
                await asyncio.sleep(PAUSE_S)
                answer = await self._apply(keys, arguments)
        return answer

    async def _put_aside(self, source: str, target: str, name: str) -> "_Move | None":
        keys = self._keys(source, EVENTS, IDS, STATE, EVENTS_ASIDE, STATE_ASIDE)
        state, events, event_ids = await self._take(keys, [self._ttl_ms, name, target])
        return _Move.of(state, events, event_ids) if state else None

    async def _let_arrive(self, move: "_Move") -> int:
        arguments: list[Argument] = [
            self._length,
            self._ttl_ms,
            REMEMBERED_EVENT_IDS,
            REMEMBERED_MARKS,
            new_birth(),
            move.name,
            move.steps,
        ]
        for values in (move.events, move.marks, move.event_ids):
            arguments += (len(values), *values)
        keys = self._keys(move.target, EVENTS, IDS, STATE, MOVES)
        applied: int = await self._arrive(keys, arguments)
        return applied

    def _keys(self, digest: str, *parts: str) -> list[str]:
        return [f"{self._prefix}{{{digest}}}:{part}" for part in parts]

    def _call(self, append: Append, birth: str) -> _Call:
        """Keys and arguments of the script that applies events; `birth` names the life that may begin."""
        arguments: list[Argument] = [
            birth,
            ANYWHERE if append.at_least is None else append.at_least,
            append.answer_id[DIGEST_LENGTH:] if append.answer_id else "",
        ]
        for event in append.events:
            arguments += (event.effect, event.event_id or "", event.timestamp_ms, event.type, event.item_id)
        return self._keys(session_digest(append.session_id), EVENTS, IDS, STATE, ANSWERS), arguments


class _Move(NamedTuple):
    """What was put aside of a session, and where it goes, as the store wrote it."""

    name: str
    target: str
    steps: int
    events: list[bytes]
    marks: list[bytes]
    event_ids: list[bytes]

    @classmethod
    def of(cls, state: Sequence[bytes], events: list[bytes], event_ids: list[bytes]) -> Self:
        fields = dict(zip(state[::2], state[1::2], strict=True))
        marks = [part for field, time_ms in fields.items() if field[:2] in (b"h:", b"p:") for part in (field, time_ms)]
        steps = int(fields.get(b"count", len(events)))
        return cls(fields[b"move"].decode(), fields[b"target"].decode(), steps, events, marks, event_ids)


class _Told:
    """Tells the metrics how the call in its block went; turns what it failed with into SessionStoreUnavailable."""

    def __enter__(self) -> None:
        self._started_s = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            telemetry.store_answered(time.perf_counter() - self._started_s)
        elif isinstance(error, RedisError | OSError):
            telemetry.store_failed(error)
            raise SessionStoreUnavailable("The session store did not answer as it should in time.") from error


def _script(redis: RedisCalls, name: str, **constants: int) -> Script:
    """Read a script, with a line before it that sets what is the same in every call."""
    set_constants = f"local {', '.join(constants)} = {', '.join(map(str, constants.values()))}\n" if constants else ""
    return Script(redis, set_constants + files("onward.service.sessions").joinpath(name).read_text(encoding="utf-8"))


def _is_behind(answer: Any) -> bool:
    outcomes: bytes | None = answer[0]
    return outcomes is None


def _may_catch_up(answer: Any, at_least: str | None) -> bool:
    birth: bytes = answer[2]
    return birth.decode() == Position.parse(at_least or "").birth


def _session(answer: Any) -> Session:
    """Read the script's answer; entries that are no events of ours are left out and counted."""
    outcomes, foreign, birth, count, marks, entries = answer
    events = StoredEvents.parse(entries)
    if foreign := foreign + events.foreign:
        telemetry.foreign_data_met(foreign)
    purchased, hidden = _marked(marks) if marks else (NOTHING, NOTHING)
    return Session(
        events,
        [item_id for item_id in events.item_ids if item_id not in hidden] if hidden else events.item_ids,
        purchased=purchased,
        hidden=hidden,
        at=Position(birth.decode(errors="replace") or UNBORN, count),
        outcomes=[outcome == ord("1") for outcome in outcomes],
    )


def _marked(marks: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """Read which items are purchased and which are hidden."""
    marked = marks.decode(errors="replace").split("\n")
    purchased, hidden = (frozenset(mark[2:] for mark in marked if mark.startswith(kind)) for kind in ("p:", "h:"))
    return purchased, hidden
