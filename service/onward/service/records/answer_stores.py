"""Stores of answers: in Redis, beside the session that they were made for, or in memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from secrets import token_hex
from typing import Any, NamedTuple, Protocol

from redis.exceptions import RedisError

from onward.service.errors import SessionStoreUnavailable
from onward.service.records.answers import MAX_ANSWERS, MAX_CLAIMS, NONCE_DIGITS
from onward.service.records.outage_log import RecordsRefused
from onward.service.redis_client import Argument, RedisClient, Script, execute_or_raise, store_call
from onward.service.sessions import GENERATION_BYTES


class AnswerKey(NamedTuple):
    """Names an answer, with all its pages."""

    owner: str
    """Digest of its session."""
    nonce: bytes


class AnswerWrite(NamedTuple):
    """An answer to keep."""

    key: AnswerKey
    generation: str
    """The generation of the session's answers when it was made; empty for an answer without a session."""
    page: bytes


class StoredPages(NamedTuple):
    """The pages of an answer, one after another."""

    number: int
    content: bytes


class AnswerStore(Protocol):
    """Keeps the latest `MAX_ANSWERS` answers of each session as bytes, each with all its pages and its claims.

    The answers of a session have a generation, a random text. It begins when an append to the session asks for it, and
    ends when the answers are deleted: an answer that was made before, but is written after, is dropped. The answers of
    a session are also forgotten once `ttl` has passed since the last one was written.
    """

    async def write(self, writes: Sequence[AnswerWrite]) -> None:
        """Keep answers. Raises SessionStoreUnavailable, or RecordsRefused if only some were refused."""
        ...

    async def read(self, keys: Sequence[AnswerKey]) -> list[StoredPages | SessionStoreUnavailable | None]:
        """Return the pages of each answer, None if it is not kept, or the error of reading it.

        Raises SessionStoreUnavailable if none can be read.
        """
        ...

    async def latest(self, owner: str, count: int) -> list[tuple[AnswerKey, StoredPages]]:
        """Return the latest answers of a session, the newest first. Raises SessionStoreUnavailable."""
        ...

    async def add_page(self, key: AnswerKey, expected_pages: int, page: bytes) -> bool:
        """Add a page to an answer that has `expected_pages`; return whether it was added.

        Raises SessionStoreUnavailable.
        """
        ...

    async def claim(self, claims: Sequence[tuple[AnswerKey, str]]) -> list[bool]:
        """Return for each text whether it is new among the first `MAX_CLAIMS` of its answer.

        Raises SessionStoreUnavailable.
        """
        ...

    async def forget(self, owner: str) -> None:
        """Delete the answers of a session. Raises SessionStoreUnavailable."""
        ...


class RedisAnswerStore:
    """Shared by all workers and replicas: a hash of answers for each session, in the hash slot of the session's keys.

    The script that appends to the session returns the generation of the answers, and begins it.
    """

    def __init__(self, redis: RedisClient, *, ttl: timedelta, prefix: str = "onward:session:") -> None:
        self._redis = redis
        self._prefix = prefix
        ttl_ms = int(ttl / timedelta(milliseconds=1))
        self._write = _script(
            redis, "answer_write.lua", MAX_ANSWERS=MAX_ANSWERS, NONCE=NONCE_DIGITS // 2, TTL_MS=ttl_ms
        )
        self._add_page = _script(redis, "answer_add_page.lua", TTL_MS=ttl_ms)
        self._claim = _script(redis, "answer_claim.lua", MAX_CLAIMS=MAX_CLAIMS)

    async def write(self, writes: Sequence[AnswerWrite]) -> None:
        """Run a script for each answer, in one round trip; see `AnswerStore`."""
        calls: list[tuple[list[str], list[Argument]]] = [
            ([self._key(key.owner)], [generation, key.nonce + page]) for key, generation, page in writes
        ]
        async with store_call(self._redis):
            replies = await self._write.run_all(calls)
        if refusals := [reply for reply in replies if isinstance(reply, RedisError)]:
            raise RecordsRefused(len(refusals)) from refusals[0]

    async def read(self, keys: Sequence[AnswerKey]) -> list[StoredPages | SessionStoreUnavailable | None]:
        """Read each answer by itself, in one round trip; see `AnswerStore`."""
        async with store_call(self._redis):
            replies = await self._redis.execute([("HGET", self._key(key.owner), key.nonce) for key in keys])
            return list(map(_stored_pages, replies))

    async def latest(self, owner: str, count: int) -> list[tuple[AnswerKey, StoredPages]]:
        """Read the order of the answers, then the answers, in two round trips; see `AnswerStore`."""
        async with store_call(self._redis):
            (order,) = await execute_or_raise(self._redis, ("HGET", self._key(owner), "order"))
            nonces = _nonces(order or b"")[::-1][:count]
            if not nonces:
                return []
            (replies,) = await execute_or_raise(self._redis, ("HMGET", self._key(owner), *nonces))
            stored = zip(nonces, map(_stored_pages, replies), strict=True)
            return [(AnswerKey(owner, nonce), pages) for nonce, pages in stored if isinstance(pages, StoredPages)]

    async def add_page(self, key: AnswerKey, expected_pages: int, page: bytes) -> bool:
        """Compare and add by one run of a script; see `AnswerStore`."""
        async with store_call(self._redis):
            return bool(await self._add_page([self._key(key.owner)], [key.nonce, expected_pages, page]))

    async def claim(self, claims: Sequence[tuple[AnswerKey, str]]) -> list[bool]:
        """Run a script for each claim, in one round trip; a claim that is refused by an error counts as not new."""
        calls: list[tuple[list[str], list[Argument]]] = [
            ([self._key(key.owner)], [key.nonce, claim]) for key, claim in claims
        ]
        async with store_call(self._redis):
            replies = await self._claim.run_all(calls)
        return [reply == 1 for reply in replies]

    async def forget(self, owner: str) -> None:
        """Delete the hash of the session, and the list that version 0.1 may have made."""
        async with store_call(self._redis):
            for reply in await self._redis.execute([("DEL", self._key(owner), f"{self._prefix}{{{owner}}}:answers")]):
                if isinstance(reply, RedisError):
                    raise reply

    def _key(self, owner: str) -> str:
        return f"{self._prefix}{{{owner}}}:served"


def _nonces(order: bytes) -> list[bytes]:
    """Return the nonces of a session's answers, the oldest first; before them stands the generation."""
    size = NONCE_DIGITS // 2
    return [order[place : place + size] for place in range(2 * GENERATION_BYTES, len(order), size)]


def _stored_pages(reply: Any) -> StoredPages | SessionStoreUnavailable | None:
    if isinstance(reply, RedisError):
        return SessionStoreUnavailable("The store refused to read an answer.")
    if not reply:
        return None
    if not isinstance(reply, bytes):
        raise TypeError("an answer is a text")
    return StoredPages(reply[0], reply[1:])


def _script(redis: RedisClient, name: str, **constants: int) -> Script:
    """Read a script and prepend a line that defines its constants."""
    definitions = f"local {', '.join(constants)} = {', '.join(map(str, constants.values()))}\n"
    return Script(redis, definitions + files("onward.service.records").joinpath(name).read_text(encoding="utf-8"))


@dataclass(slots=True)
class _StoredAnswer:
    """An answer of InMemoryAnswerStore, and the claims of events."""

    pages: StoredPages
    claims: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _SessionAnswers:
    """The answers of a session, oldest first."""

    generation: str
    expires_s: float = 0.0
    answers: OrderedDict[bytes, _StoredAnswer] = field(default_factory=OrderedDict)


class InMemoryAnswerStore:
    """The answer store of tests and of a service with one process."""

    def __init__(self, *, ttl: timedelta, clock: Callable[[], float] = time.time) -> None:
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._sessions: OrderedDict[str, _SessionAnswers] = OrderedDict()

    def generation(self, owner: str) -> str:
        """Return the generation of a session's answers; it begins if there is none."""
        return self._session(owner, token_hex(GENERATION_BYTES)).generation

    async def write(self, writes: Sequence[AnswerWrite]) -> None:
        """Keep answers; see `AnswerStore`."""
        for (owner, nonce), generation, page in writes:
            if generation and (owner not in self._sessions or self._sessions[owner].generation != generation):
                continue
            answers = self._session(owner, generation).answers
            answers[nonce] = _StoredAnswer(StoredPages(1, page))
            if len(answers) > MAX_ANSWERS:
                answers.popitem(last=False)

    async def read(self, keys: Sequence[AnswerKey]) -> list[StoredPages | SessionStoreUnavailable | None]:
        """Look up each answer; see `AnswerStore`."""
        stored = map(self._find, keys)
        return [None if answer is None else answer.pages for answer in stored]

    async def latest(self, owner: str, count: int) -> list[tuple[AnswerKey, StoredPages]]:
        """Look up the answers of the session; see `AnswerStore`."""
        session = self._sessions.get(owner)
        answers = [] if session is None else list(session.answers.items())[::-1][:count]
        return [(AnswerKey(owner, nonce), stored.pages) for nonce, stored in answers]

    async def add_page(self, key: AnswerKey, expected_pages: int, page: bytes) -> bool:
        """Compare and add; see `AnswerStore`."""
        stored = self._find(key)
        if stored is None or stored.pages.number != expected_pages:
            return False
        stored.pages = StoredPages(expected_pages + 1, stored.pages.content + page)
        self._session(key.owner, "")
        return True

    async def claim(self, claims: Sequence[tuple[AnswerKey, str]]) -> list[bool]:
        """Make one claim after another; see `AnswerStore`."""
        return [self._is_new_claim(key, claim) for key, claim in claims]

    async def forget(self, owner: str) -> None:
        """Delete the answers of the session."""
        self._sessions.pop(owner, None)

    def _find(self, key: AnswerKey) -> _StoredAnswer | None:
        session = self._sessions.get(key.owner)
        return None if session is None else session.answers.get(key.nonce)

    def _session(self, owner: str, new_generation: str) -> _SessionAnswers:
        """Return the answers of a session and let them live on; the dict is ordered by expiry."""
        now_s = self._clock()
        while self._sessions and next(iter(self._sessions.values())).expires_s < now_s:
            self._sessions.popitem(last=False)
        session = self._sessions.setdefault(owner, _SessionAnswers(new_generation))
        session.expires_s = now_s + self._ttl_s
        self._sessions.move_to_end(owner)
        return session

    def _is_new_claim(self, key: AnswerKey, claim: str) -> bool:
        stored = self._find(key)
        if stored is None or claim in stored.claims or len(stored.claims) >= MAX_CLAIMS:
            return False
        stored.claims.add(claim)
        return True
