"""Where answers are kept: in Redis, beside the session that they were given to, or in memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from itertools import chain

from pydantic import TypeAdapter, ValidationError

from onward.service import telemetry
from onward.service.records.answers import NONCE_DIGITS, Answer, Claim, Origin, nonce_of, owner_of
from onward.service.redis_client import Argument, Command, RedisCalls, Script, ask, redis_call

KEPT_ANSWERS = 20
"""Of one session, in memory, each with its pages."""

_ANSWER = TypeAdapter(Answer)


class RedisAnswerStore:
    """Shared by every worker and replica: a list for each session, in its slot, in which the session's own script has
    reserved a place for each answer. So what comes after its session was deleted is dropped.
    """

    def __init__(
        self,
        redis: RedisCalls,
        *,
        ttl: timedelta,
        clock: Callable[[], float] = time.time,
        prefix: str = "onward:session:",
    ) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl / timedelta(milliseconds=1))
        self._clock = clock
        self._prefix = prefix
        self._next = Script(redis, _script("answer_next.lua"))
        self._claim = Script(redis, _script("answer_claim.lua"))

    def packed(self, answer: Answer, *, reserved: bool) -> tuple[Command, ...]:
        """One command for an answer whose place is reserved, two for another."""
        key, entry = self._key(answer.id), _entry(answer)
        if reserved:
            return (("LINSERT", key, "AFTER", nonce_of(answer.id), entry),)
        return ("RPUSH", key, entry), ("PEXPIRE", key, self._ttl_ms)

    async def write(self, answers: Sequence[tuple[Command, ...]]) -> None:
        """One round trip."""
        async with redis_call():
            await ask(self._redis, *chain.from_iterable(answers))

    async def pages(self, answer_id: str) -> list[Answer] | None:
        """One command that reads the session's whole list."""
        async with redis_call():
            (entries,) = await ask(self._redis, ("LRANGE", self._key(answer_id), 0, -1))
        nonce = nonce_of(answer_id).encode()
        root = next((_root(entry) for entry in entries if _root(entry) and entry.startswith(nonce)), None)
        if root is None:
            return None if not entries or nonce in entries else []
        return self._kept([_answer(entry) for entry in entries if _root(entry) == root])

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """One run of a script."""
        arguments: list[Argument] = [nonce_of(root_id), expected_pages, _entry(answer), self._ttl_ms]
        async with redis_call():
            return bool(await self._next([self._key(root_id)], arguments))

    async def attribute(self, claims: Sequence[Claim]) -> list[Origin | None]:
        """One round trip, of a script for each."""
        earliest_ms = int(self._clock() * 1000) - self._ttl_ms
        calls: list[tuple[list[str], list[Argument]]] = [
            ([self._key(claim.answer_id)], [nonce_of(claim.answer_id), claim.item_id, claim.type, earliest_ms])
            for claim in claims
        ]
        async with redis_call():
            found = await self._claim.all(calls)  # one list that holds foreign data spoils no other
        return [
            Origin(*(text.decode() for text in texts)) if isinstance(texts, list) and texts else None for texts in found
        ]

    async def forget(self, owner: str) -> None:
        """Delete the session's list."""
        async with redis_call():
            await ask(self._redis, ("DEL", self._key(owner)))

    def _key(self, answer_id: str) -> str:
        return f"{self._prefix}{{{owner_of(answer_id)}}}:answers"

    def _kept(self, pages: list[Answer | None]) -> list[Answer]:
        """All pages, unless the first one is too old or not to be read."""
        earliest_ms = self._clock() * 1000 - self._ttl_ms
        kept = [page for page in pages if page is not None]
        return kept if kept and kept[0].root_id is None and kept[0].made_ms >= earliest_ms else []


def _entry(answer: Answer) -> bytes:
    nonces = nonce_of(answer.id) + nonce_of(answer.root_id or answer.id)
    return nonces.encode() + answer.json()


def _root(entry: bytes) -> bytes:
    """Return the nonce of the first page, empty for a place that is only reserved."""
    return entry[NONCE_DIGITS : 2 * NONCE_DIGITS]


def _answer(entry: bytes) -> Answer | None:
    try:
        return _ANSWER.validate_json(entry[2 * NONCE_DIGITS :].partition(b"\n")[0])
    except ValidationError:
        telemetry.foreign_data_met(1)
        return None


def _script(name: str) -> str:
    return files("onward.service.records").joinpath(name).read_text(encoding="utf-8")


@dataclass(slots=True)
class _Kept:
    """One answer of InMemoryAnswerStore."""

    answer: Answer
    claims: set[Claim] = field(default_factory=set)


class InMemoryAnswerStore:
    """For tests and a service of one process: the same promise, in a dict; whoever forgets a session tells it."""

    def __init__(self, *, ttl: timedelta, clock: Callable[[], float] = time.time) -> None:
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._owners: OrderedDict[str, OrderedDict[str, _Kept]] = OrderedDict()

    def packed(self, answer: Answer, *, reserved: bool) -> Answer:
        """As it is; there is always a place for it."""
        return answer

    async def write(self, answers: Sequence[Answer]) -> None:
        """Keep them in this process, the last 20 of each session."""
        for answer in answers:
            self._keep(answer)

    async def pages(self, answer_id: str) -> list[Answer] | None:
        """Look them up."""
        kept = self._kept(answer_id)
        if answer_id not in kept:
            return None
        root_id = kept[answer_id].answer.root_id or answer_id
        if root_id not in kept:
            return []
        return [one.answer for one in kept.values() if root_id in (one.answer.id, one.answer.root_id)]

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """Compare and keep."""
        pages = await self.pages(root_id)
        if not pages or len(pages) != expected_pages:
            return False
        self._keep(answer)
        return True

    async def attribute(self, claims: Sequence[Claim]) -> list[Origin | None]:
        """One after another."""
        return [self._attribute(claim) for claim in claims]

    async def forget(self, owner: str) -> None:
        """Drop them."""
        self._owners.pop(owner, None)

    def _keep(self, answer: Answer) -> None:
        self._forget_expired()
        kept = self._kept(answer.id)
        kept[answer.id] = _Kept(answer)
        firsts = [name for name, one in kept.items() if one.answer.root_id is None]
        for first in firsts[:-KEPT_ANSWERS]:
            for name in [name for name, one in kept.items() if first in (name, one.answer.root_id)]:
                del kept[name]
        self._owners[owner_of(answer.id)] = kept
        self._owners.move_to_end(owner_of(answer.id))  # the order of the dict is the order of expiry

    def _kept(self, answer_id: str) -> "OrderedDict[str, _Kept]":
        earliest_ms = (self._clock() - self._ttl_s) * 1000
        kept = self._owners.get(owner_of(answer_id), OrderedDict())
        return OrderedDict((name, one) for name, one in kept.items() if one.answer.made_ms >= earliest_ms)

    def _forget_expired(self) -> None:
        earliest_ms = (self._clock() - self._ttl_s) * 1000
        while self._owners:
            newest = next(reversed(next(iter(self._owners.values())).values()))
            if newest.answer.made_ms >= earliest_ms:
                break
            self._owners.popitem(last=False)

    def _attribute(self, claim: Claim) -> Origin | None:
        kept = self._kept(claim.answer_id).get(claim.answer_id)
        shown = kept is not None and claim.item_id in kept.answer.items.item_ids
        if kept is None or not shown or claim in kept.claims:
            return None
        kept.claims.add(claim)
        return Origin.of(kept.answer)
