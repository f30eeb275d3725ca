"""RedisSessionStore: sessions shared by all workers and replicas."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from importlib.resources import files
from secrets import token_hex
from typing import Any, NamedTuple, Self, overload

from redis.exceptions import RedisError

from onward.service import telemetry
from onward.service.errors import ServiceError, SessionBehind, SessionStoreUnavailable
from onward.service.redis_client import (
    UNDECODABLE,
    Argument,
    Command,
    RedisClient,
    ScanPage,
    Script,
    connect,
    execute_or_raise,
)
from onward.service.sessions.events import Event
from onward.service.sessions.session import GENERATION_BYTES, NO_GENERATION, START, Position, Session
from onward.service.sessions.store import (
    DIGEST_LENGTH,
    REMEMBERED_EVENT_IDS,
    REMEMBERED_MARKS,
    ListedSession,
    MergeResult,
    SessionAppend,
    SessionPage,
    session_digest,
)

SESSIONS_PER_PIPELINE = 100  # more appends are split into several pipelines, so that other calls come between them

NO_ITEMS: frozenset[str] = frozenset()
ANY_POSITION = str(START)
EVENTS, IDS, STATE, ANSWERS = "events", "ids", "state", "served"
LISTED_ANSWERS = "answers"
"""The answers that version 0.1 kept."""
EVENTS_ASIDE, STATE_ASIDE, MOVES = "events-aside", "state-aside", "moves"
SUFFIXES = (EVENTS, IDS, STATE, ANSWERS, LISTED_ANSWERS, EVENTS_ASIDE, STATE_ASIDE, MOVES)
KEY_SUFFIXES = (*SUFFIXES, *(f"{suffix}-broken" for suffix in SUFFIXES))
"""All keys of a session, those that were set aside because they could not be read included."""
MAX_SCANS = 50
"""Round trips that a page of sessions takes at most; each looks at as many keys as the page may have sessions."""
MAX_TIME_MS = 253_402_300_799_999
"""The end of the year 9999."""
MAX_COUNT = 10**15 - 1
_GENERATION = re.compile(rb"[0-9a-f]{0,32}")

_READ: Sequence[Argument] = ("", ANY_POSITION, 0)
"""Arguments of an append without events."""
_ScriptCall = tuple[Sequence[str], Sequence[Argument]]
"""Keys and arguments of a script."""


class RedisSessionStore:
    """Each session has a few keys in one hash slot; an append is one call of a server-side script, one round trip."""

    def __init__(
        self,
        redis: RedisClient,
        *,
        length: int,
        ttl: timedelta,
        answer_ttl: timedelta = timedelta(minutes=30),
        prefix: str = "onward:session:",
    ) -> None:
        self._redis = redis
        self.length = length
        self._ttl_ms = int(ttl / timedelta(milliseconds=1))
        self._prefix = prefix
        limits = {
            "MAX_EVENTS": length,
            "TTL_MS": self._ttl_ms,
            "MAX_IDS": REMEMBERED_EVENT_IDS,
            "MAX_MARKS": REMEMBERED_MARKS,
            "ANSWERS_TTL_MS": int(answer_ttl / timedelta(milliseconds=1)),
        }
        self._append_script = _script(redis, "append.lua", **limits)
        self._merge_take = _script(redis, "merge_take.lua")
        self._merge_apply = _script(redis, "merge_apply.lua")
        self._merge_clear = _script(redis, "merge_clear.lua")

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        length: int,
        ttl: timedelta,
        timeout: timedelta,
        answer_ttl: timedelta = timedelta(minutes=30),
        prefix: str = "onward:session:",
    ) -> Self:
        """Return a store at a URL, which connects lazily. No call is retried, and none takes longer than `timeout`."""
        return cls(connect(url, timeout), length=length, ttl=ttl, answer_ttl=answer_ttl, prefix=prefix)

    async def append(
        self, session_id: str, events: Sequence[Event], *, at_least: str | None = None, keeps_answer: bool = False
    ) -> Session:
        """Apply events to one session; see `append_all`."""
        (session,) = await self.append_all([SessionAppend(session_id, events, at_least, keeps_answer)])
        if isinstance(session, ServiceError):
            raise session
        return session

    async def append_all(self, appends: Sequence[SessionAppend]) -> list[Session | ServiceError]:
        """Do several appends, in one round trip for each 100. Each append is atomic; together they are not."""
        generation = token_hex(GENERATION_BYTES)  # shared: it only has to differ from earlier ones of the same session
        calls = [self._call(append, generation) for append in appends]
        sessions: list[Session | ServiceError] = []
        for first in range(0, len(calls), SESSIONS_PER_PIPELINE):
            chunk = slice(first, first + SESSIONS_PER_PIPELINE)
            sessions += await self._append_chunk(appends[chunk], calls[chunk])
        return sessions

    async def merge(self, source: str, target: str) -> MergeResult:
        """Rename the source's keys aside, merge them into the target, delete them: three idempotent round trips."""
        source_digest, target_digest, applied = session_digest(source), session_digest(target), 0
        name = token_hex(GENERATION_BYTES)
        with self._measured():
            while (move := await self._put_aside(source_digest, target_digest, name)) is not None:
                moved = await self._apply_move(move)
                applied += moved if move.target == target_digest else 0
                await self._merge_clear(self._keys(source_digest, EVENTS_ASIDE, STATE_ASIDE), [move.name])
                if move.name == name:  # else it was a move that an earlier call left unfinished; go on with our own
                    break
        return MergeResult(applied, (await self.append(target, ())).position)

    async def read(self, digest: str) -> Session:
        """Run the script of an append, without events; see `SessionStore`."""
        with self._measured():
            (reply,) = await self._append_script.run_all([(self._keys(digest, EVENTS, IDS, STATE, ANSWERS), _READ)])
            if isinstance(reply, Exception):
                raise reply
            return _session(reply, 0)

    async def page(self, cursor: str, limit: int) -> SessionPage:
        """Scan for the states of sessions, then read them, in one round trip; see `SessionStore`."""
        found, page = set[str](), ScanPage([], cursor)
        with self._measured():
            for _ in range(MAX_SCANS):
                if page.cursor is None or len(found) >= limit:
                    break
                page = await self._redis.scan(page.cursor, f"{self._prefix}{{*}}:{STATE}", limit)
                found.update(filter(None, map(self._digest_of, page.keys)))
            return SessionPage(await self._listed(sorted(found)), page.cursor)

    async def _listed(self, digests: Sequence[str]) -> list[ListedSession]:
        commands: list[Command] = []
        for digest in digests:
            events, state = self._keys(digest, EVENTS, STATE)
            commands += (("LRANGE", events, -1, -1), ("HGET", state, "count"), ("PTTL", state))
        replies = await self._redis.execute(commands)
        return [
            listed
            for place, digest in enumerate(digests)
            if (listed := _listed_session(digest, *replies[3 * place : 3 * place + 3])) is not None
        ]

    def _digest_of(self, key: bytes) -> str | None:
        """Return the digest of a session, given the key of its state."""
        digest = key.decode(errors="replace").removeprefix(f"{self._prefix}{{").removesuffix(f"}}:{STATE}")
        return digest if len(digest) == DIGEST_LENGTH else None

    async def delete(self, session_id: str) -> None:
        """Delete all keys of the session."""
        await self.erase(session_digest(session_id))

    async def erase(self, digest: str) -> None:
        """Delete all keys of the session."""
        with self._measured():
            await execute_or_raise(self._redis, ("DEL", *self._keys(digest, *KEY_SUFFIXES)))

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    async def _append_chunk(
        self, appends: Sequence[SessionAppend], calls: Sequence[_ScriptCall]
    ) -> list[Session | ServiceError]:
        """Run the script for each append as one pipeline."""
        started_s = time.perf_counter()
        try:
            replies = await self._append_script.run_all(calls)
        except Exception as error:
            return [self._unavailable(error)] * len(calls)
        telemetry.store_answered(time.perf_counter() - started_s)
        return list(map(self._session_or_error, appends, replies))

    def _session_or_error(self, append: SessionAppend, reply: Any) -> Session | ServiceError:
        """Return the session after an append, or why the append was refused."""
        if isinstance(reply, Exception):
            return self._unavailable(reply)
        try:
            outcomes, was_set_aside, generation, count, *_ = reply
            if was_set_aside:
                telemetry.session_set_aside(session_digest(append.session_id))
            if outcomes is None:
                position = Position(generation.decode() or NO_GENERATION, count)
                return SessionBehind(may_catch_up=position.may_reach(Position.parse(append.at_least or "")))
            return _session(reply, len(append.events))
        except Exception as error:
            return self._unavailable(error)

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """Report the duration or failure of the calls in this block; turn a failure into SessionStoreUnavailable."""
        started_s = time.perf_counter()
        try:
            yield
        except Exception as error:
            raise self._unavailable(error) from error
        telemetry.store_answered(time.perf_counter() - started_s)

    def _unavailable(self, error: Exception) -> SessionStoreUnavailable:
        """Report a call that failed, or whose reply is not one to it; return the error for the caller."""
        if not isinstance(error, RedisError | OSError):
            self._redis.drop(UNDECODABLE)
        telemetry.store_failed(error)
        return SessionStoreUnavailable("The session store did not answer in time, or refused the call.")

    async def _put_aside(self, source: str, target: str, name: str) -> "_Move | None":
        keys = self._keys(source, EVENTS, IDS, STATE, EVENTS_ASIDE, STATE_ASIDE)
        state, events, event_ids = await self._merge_take(keys, [self._ttl_ms, name, target])
        return _Move.parse(state, events, event_ids) if state else None

    async def _apply_move(self, move: "_Move") -> int:
        arguments: list[Argument] = [
            self.length,
            self._ttl_ms,
            REMEMBERED_EVENT_IDS,
            REMEMBERED_MARKS,
            token_hex(GENERATION_BYTES),
            move.name,
            move.steps,
        ]
        for values in (move.events, move.marks, move.event_ids):
            arguments += (len(values), *values)
        keys = self._keys(move.target, EVENTS, IDS, STATE, MOVES)
        applied: int = await self._merge_apply(keys, arguments)
        return applied

    def _keys(self, digest: str, *suffixes: str) -> list[str]:
        return [f"{self._prefix}{{{digest}}}:{suffix}" for suffix in suffixes]

    def _call(self, append: SessionAppend, generation: str) -> _ScriptCall:
        """Return the script's keys and arguments for an append; `generation` is that of a session that begins."""
        arguments: list[Argument] = [
            generation,
            ANY_POSITION if append.at_least is None else append.at_least,
            int(append.keeps_answer),
        ]
        for event in append.events:
            arguments += (event.effect, event.event_id or "", event.timestamp_ms, event.type, event.item_id)
        return self._keys(session_digest(append.session_id), EVENTS, IDS, STATE, ANSWERS), arguments


class StoredEvents(Sequence[Event]):
    """The events of a session as Redis stores them, made into events lazily: most requests need only the item ids."""

    def __init__(
        self, times_ms: Sequence[str], types: Sequence[str], item_ids: Sequence[str], foreign: int = 0
    ) -> None:
        """Take the fields of all events as text, and the number of entries that were left out as malformed."""
        self._times_ms = times_ms
        self._types = types
        self.item_ids = item_ids
        self.foreign = foreign

    @classmethod
    def parse(cls, entries: bytes) -> Self:
        """Parse one line for each event: its time in ms, type and item. Malformed lines are left out and counted.

        Only the item may hold spaces.
        """
        if not entries:
            return cls([], [], [])
        lines = entries.count(b"\n") + 1
        try:
            fields = entries.replace(b"\n", b" ").decode().split(" ")
        except UnicodeDecodeError:
            fields = []
        # The fast path splits all lines at once; it is valid only if every line has three fields.
        times_ms = fields[::3]
        if len(fields) == 3 * lines and "" not in times_ms and "".join(times_ms).isdecimal():
            return cls(times_ms, fields[1::3], fields[2::3])
        events = [event for entry in entries.split(b"\n") if (event := _split_entry(entry)) is not None]
        return cls(
            [time_ms for time_ms, _, _ in events],
            [kind for _, kind, _ in events],
            [item_id for _, _, item_id in events],
            foreign=lines - len(events),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._events[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # unhashable, as a list is

    @cached_property
    def _events(self) -> list[Event]:
        return list(map(Event, self.item_ids, self._types, map(_time_ms, self._times_ms)))


def _time_ms(digits: str) -> int:
    return min(int(digits[: len(str(MAX_TIME_MS)) + 1]), MAX_TIME_MS)


def _split_entry(entry: bytes) -> list[str] | None:
    """Return the time, type and item of an event; None if the entry is malformed."""
    try:
        fields = entry.decode().split(" ", 2)
    except UnicodeDecodeError:
        return None
    return fields if len(fields) == 3 and fields[0].isdecimal() else None


class _Move(NamedTuple):
    """A session that was put aside on its way to another one, as the store holds it."""

    name: str
    target: str
    steps: int
    """The number of events that were applied to the source, by which the target's position advances."""
    events: list[bytes]
    marks: list[bytes]
    event_ids: list[bytes]

    @classmethod
    def parse(cls, state: Sequence[bytes], events: list[bytes], event_ids: list[bytes]) -> Self:
        fields = dict(zip(state[::2], state[1::2], strict=True))
        marks = [part for field, time_ms in fields.items() if field[:2] in (b"h:", b"p:") for part in (field, time_ms)]
        count = fields.get(b"count", b"")
        steps = int(count) if count.isdigit() else len(events)
        return cls(fields[b"move"].decode(), fields[b"target"].decode(), steps, events, marks, event_ids)


def _script(redis: RedisClient, name: str, **constants: int) -> Script:
    """Read a script and prepend a line that defines its constants."""
    definitions = f"local {', '.join(constants)} = {', '.join(map(str, constants.values()))}\n" if constants else ""
    return Script(redis, definitions + files("onward.service.sessions").joinpath(name).read_text(encoding="utf-8"))


def _session(reply: Any, events_sent: int) -> Session:
    """Parse the reply of append.lua; malformed entries are left out and counted as foreign data.

    Raises an exception of any class if the reply is not one to so many events.
    """
    outcomes, _, generation, count, marks, entries, answer_generation = reply
    if len(outcomes) != events_sent or not _GENERATION.fullmatch(generation) or not 0 <= count <= MAX_COUNT:
        raise ValueError("the reply is not one to this call")
    events = StoredEvents.parse(entries)
    if events.foreign:
        telemetry.foreign_data_found("session", events.foreign)
    purchased, hidden = _parse_marks(marks) if marks else (NO_ITEMS, NO_ITEMS)
    return Session(
        events,
        [item_id for item_id in events.item_ids if item_id not in hidden] if hidden else events.item_ids,
        purchased=purchased,
        hidden=hidden,
        position=f"{generation.decode() or NO_GENERATION}-{count}",
        outcomes=[outcome == ord("1") for outcome in outcomes],
        answer_generation=answer_generation.decode(errors="replace") or None,
    )


def _listed_session(digest: str, events: Any, count: Any, expires_in_ms: Any) -> ListedSession | None:
    """Return what a list shows of a session; None if it ended meanwhile, or its node did not answer."""
    if not isinstance(count, bytes) or not count.isdigit() or not isinstance(expires_in_ms, int) or expires_in_ms < 0:
        return None
    last = StoredEvents.parse(events[0]) if isinstance(events, list) and events else ()
    return ListedSession(digest, int(count), last[-1] if last else None, expires_in_ms)


def _parse_marks(marks: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """Return the purchased and the hidden items."""
    marked = marks.decode(errors="replace").split("\n")
    purchased, hidden = (frozenset(mark[2:] for mark in marked if mark.startswith(kind)) for kind in ("p:", "h:"))
    return purchased, hidden
