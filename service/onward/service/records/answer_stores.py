"""Stores of answers: in Redis, beside the session that they were made for, or in memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from itertools import chain, islice

from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

from onward.service import telemetry
from onward.service.records.answers import NONCE_DIGITS, Answer, AnswerOrigin, AttributionClaim, nonce_of, owner_of
from onward.service.records.outage_log import RecordsRefused
from onward.service.redis_client import Argument, Command, RedisClient, Script, execute_or_raise, redis_call

MAX_ANSWERS = 20
"""Answers of one session that are kept in memory, each with all its pages."""

_ANSWER = TypeAdapter(Answer)


class RedisAnswerStore:
    """Shared by all workers and replicas: a list of answers for each session, in the hash slot of the session's keys.

    The script that appends to the session reserves a place in the list for each answer. So an answer that is written
    after its session was deleted finds no place and is dropped.
    """

    def __init__(
        self,
        redis: RedisClient,
        *,
        ttl: timedelta,
        clock: Callable[[], float] = time.time,
        prefix: str = "onward:session:",
    ) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl / timedelta(milliseconds=1))
        self._clock = clock
        self._prefix = prefix
        self._add_page = Script(redis, _script("answer_add_page.lua"))
        self._attribute = Script(redis, _script("answer_attribute.lua"))

    def prepare_write(self, answer: Answer, *, reserved: bool) -> tuple[Command, ...]:
        """Return the commands that store an answer: at its reserved place, or in a list of its own that expires."""
        key, entry = self._key(answer.id), _entry(answer)
        if reserved:
            return (("LINSERT", key, "AFTER", nonce_of(answer.id), entry),)
        return ("RPUSH", key, entry), ("PEXPIRE", key, self._ttl_ms)

    async def write(self, answers: Sequence[tuple[Command, ...]]) -> None:
        """Store answers in one round trip; see `AnswerStore`."""
        async with redis_call():
            replies = iter(await self._redis.execute([*chain.from_iterable(answers)]))
        refusals: list[RedisError] = []
        for commands in answers:
            errors = [reply for reply in islice(replies, len(commands)) if isinstance(reply, RedisError)]
            refusals += errors[:1]
        if refusals:
            raise RecordsRefused(len(refusals)) from refusals[0]

    async def pages(self, answer_id: str) -> list[Answer] | None:
        """Read the whole list of the session; see `AnswerStore`."""
        async with redis_call():
            (entries,) = await execute_or_raise(self._redis, ("LRANGE", self._key(answer_id), 0, -1))
        nonce = nonce_of(answer_id).encode()
        root = next((_root(entry) for entry in entries if _root(entry) and entry.startswith(nonce)), None)
        if root is None:
            return None if not entries or nonce in entries else []
        return self._unexpired([_answer(entry) for entry in entries if _root(entry) == root])

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """Compare and add by one run of a script; see `AnswerStore`."""
        arguments: list[Argument] = [nonce_of(root_id), expected_pages, _entry(answer), self._ttl_ms]
        async with redis_call():
            return bool(await self._add_page([self._key(root_id)], arguments))

    async def attribute(self, claims: Sequence[AttributionClaim]) -> list[AnswerOrigin | None]:
        """Run a script for each claim, in one round trip; see `AnswerStore`."""
        earliest_ms = int(self._clock() * 1000) - self._ttl_ms
        calls: list[tuple[list[str], list[Argument]]] = [
            ([self._key(claim.answer_id)], [nonce_of(claim.answer_id), claim.item_id, claim.type, earliest_ms])
            for claim in claims
        ]
        async with redis_call():
            replies = await self._attribute.run_all(calls)  # an error reply to one claim does not fail the others
        return [
            AnswerOrigin(*(text.decode() for text in reply)) if isinstance(reply, list) and reply else None
            for reply in replies
        ]

    async def forget(self, owner: str) -> None:
        """Delete the list of the session."""
        async with redis_call():
            await execute_or_raise(self._redis, ("DEL", self._key(owner)))

    def _key(self, answer_id: str) -> str:
        return f"{self._prefix}{{{owner_of(answer_id)}}}:answers"

    def _unexpired(self, pages: list[Answer | None]) -> list[Answer]:
        """Return the readable pages; none if the first page has expired or is malformed."""
        earliest_ms = self._clock() * 1000 - self._ttl_ms
        readable = [page for page in pages if page is not None]
        if not readable or readable[0].root_id is not None or readable[0].made_ms < earliest_ms:
            return []
        return readable


def _entry(answer: Answer) -> bytes:
    nonces = nonce_of(answer.id) + nonce_of(answer.root_id or answer.id)
    return nonces.encode() + answer.json()


def _root(entry: bytes) -> bytes:
    """Return the nonce of the first page of an entry; empty if the entry is a reserved place."""
    return entry[NONCE_DIGITS : 2 * NONCE_DIGITS]


def _answer(entry: bytes) -> Answer | None:
    try:
        return _ANSWER.validate_json(entry[2 * NONCE_DIGITS :].partition(b"\n")[0])
    except ValidationError:
        telemetry.foreign_data_found(1)
        return None


def _script(name: str) -> str:
    return files("onward.service.records").joinpath(name).read_text(encoding="utf-8")


@dataclass(slots=True)
class _StoredAnswer:
    """An answer of InMemoryAnswerStore, and the events that were attributed to it."""

    answer: Answer
    claims: set[AttributionClaim] = field(default_factory=set)


class InMemoryAnswerStore:
    """The answer store of tests and of a service with one process: a dict of answers for each session."""

    def __init__(self, *, ttl: timedelta, clock: Callable[[], float] = time.time) -> None:
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._owners: OrderedDict[str, OrderedDict[str, _StoredAnswer]] = OrderedDict()

    def prepare_write(self, answer: Answer, *, reserved: bool) -> Answer:
        """Return the answer itself, since in memory no place needs to be reserved."""
        return answer

    async def write(self, answers: Sequence[Answer]) -> None:
        """Keep the latest 20 answers of each session; see `AnswerStore`."""
        for answer in answers:
            self._keep(answer)

    async def pages(self, answer_id: str) -> list[Answer] | None:
        """Look up an answer and its pages; see `AnswerStore`."""
        answers = self._unexpired(answer_id)
        if answer_id not in answers:
            return None
        root_id = answers[answer_id].answer.root_id or answer_id
        if root_id not in answers:
            return []
        return [stored.answer for stored in answers.values() if root_id in (stored.answer.id, stored.answer.root_id)]

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """Compare the number of pages and add one; see `AnswerStore`."""
        pages = await self.pages(root_id)
        if not pages or len(pages) != expected_pages:
            return False
        self._keep(answer)
        return True

    async def attribute(self, claims: Sequence[AttributionClaim]) -> list[AnswerOrigin | None]:
        """Attribute the claims one after another; see `AnswerStore`."""
        return [self._attribute(claim) for claim in claims]

    async def forget(self, owner: str) -> None:
        """Delete the answers of the session."""
        self._owners.pop(owner, None)

    def _keep(self, answer: Answer) -> None:
        self._evict_expired()
        answers = self._unexpired(answer.id)
        answers[answer.id] = _StoredAnswer(answer)
        root_ids = [answer_id for answer_id, stored in answers.items() if stored.answer.root_id is None]
        for root_id in root_ids[:-MAX_ANSWERS]:
            pages = [answer_id for answer_id, page in answers.items() if root_id in (answer_id, page.answer.root_id)]
            for answer_id in pages:
                del answers[answer_id]
        self._owners[owner_of(answer.id)] = answers
        self._owners.move_to_end(owner_of(answer.id))  # the dict is ordered by expiry

    def _unexpired(self, answer_id: str) -> "OrderedDict[str, _StoredAnswer]":
        """Return all answers of the session of an answer."""
        earliest_ms = (self._clock() - self._ttl_s) * 1000
        answers = self._owners.get(owner_of(answer_id), OrderedDict())
        return OrderedDict(
            (stored_id, stored) for stored_id, stored in answers.items() if stored.answer.made_ms >= earliest_ms
        )

    def _evict_expired(self) -> None:
        earliest_ms = (self._clock() - self._ttl_s) * 1000
        while self._owners:
            newest = next(reversed(next(iter(self._owners.values())).values()))
            if newest.answer.made_ms >= earliest_ms:
                break
            self._owners.popitem(last=False)

    def _attribute(self, claim: AttributionClaim) -> AnswerOrigin | None:
        stored = self._unexpired(claim.answer_id).get(claim.answer_id)
        if stored is None or claim.item_id not in stored.answer.items.item_ids or claim in stored.claims:
            return None
        stored.claims.add(claim)
        return AnswerOrigin.of(stored.answer)
