"""AnswerIds: the ids of answers, which show only those who know a secret whose session an answer is of.

An id has 54 hexadecimal digits: the digest of the session, masked; a nonce; the number of the day whose secret masks
it; and the number of the page. The mask is the keyed hash of the nonce, so it differs for each answer. See decision 29.
"""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from onward.service.records.answer_stores import AnswerKey
from onward.service.records.answers import NONCE_DIGITS, OWNER_DIGITS, PAGE_DIGITS, nonce_of, owner_of
from onward.service.records.outage_log import OutageLog
from onward.service.redis_client import RedisClient, execute_or_raise, store_call
from onward.service.sessions import session_digest

DAY = timedelta(days=1)
FOLLOW_INTERVAL = timedelta(minutes=1)
DAY_DIGITS = 4
SECRET_BYTES = 32
CACHED_OWNERS = 4_096
MAX_CLOCK_DAYS = 1
"""By so much the clocks of two workers may differ, rounded up."""

_DAYS = 16**DAY_DIGITS
_DAY_PLACE = slice(-PAGE_DIGITS - DAY_DIGITS, -PAGE_DIGITS)
_MASKED_ID = re.compile(rf"[0-9a-f]{{{OWNER_DIGITS + NONCE_DIGITS + DAY_DIGITS + PAGE_DIGITS}}}")
_PLAIN_ID = re.compile(rf"[0-9a-f]{{{OWNER_DIGITS + NONCE_DIGITS + PAGE_DIGITS}}}")
"""An id of earlier builds of 0.2, which has neither a mask nor a day."""


class Secrets(Protocol):
    """Keeps a secret for each day."""

    async def offer(self, day: int, secret: bytes) -> bytes:
        """Keep a secret if there is none of the day; return that of the day. Raises SessionStoreUnavailable."""
        ...

    async def get(self, day: int) -> bytes | None:
        """Return the secret of a day, None if there is none. Raises SessionStoreUnavailable."""
        ...


class RedisSecrets:
    """Shared by all workers and replicas: a key for each day, which expires when no answer of the day is kept."""

    def __init__(self, redis: RedisClient, *, answer_ttl: timedelta, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._ttl_ms = int((answer_ttl + (1 + MAX_CLOCK_DAYS) * DAY) / timedelta(milliseconds=1))

    async def offer(self, day: int, secret: bytes) -> bytes:
        """Set the key unless it exists, and read it, in one round trip; replace anything else that it holds."""
        key = self._key(day)
        async with store_call(self._redis):
            _, kept = await self._redis.execute([("SET", key, secret, "NX", "PX", self._ttl_ms), ("GET", key)])
            if _is_secret(kept):
                return kept  # type: ignore[no-any-return]
            await execute_or_raise(self._redis, ("SET", key, secret, "PX", self._ttl_ms))
        return secret

    async def get(self, day: int) -> bytes | None:
        """Read the key; see `Secrets`."""
        async with store_call(self._redis):
            (kept,) = await execute_or_raise(self._redis, ("GET", self._key(day)))
        return kept if _is_secret(kept) else None

    def _key(self, day: int) -> str:
        return f"{self._prefix}answer-secret:{day}"


class AnswerIds:
    """Makes ids of answers by the secret of the day, and finds the answers that ids name.

    A request needs no round trip for it: `follow`, which is to be called each minute, shares the secret of the day.
    Until the store has answered for the first time, and without a store, it is a secret of this process.
    """

    def __init__(
        self, kept: Secrets | None = None, *, answer_ttl: timedelta, clock: Callable[[], float] = time.time
    ) -> None:
        self._kept = kept
        self._clock = clock
        self._max_age_days = -(-answer_ttl // DAY) + MAX_CLOCK_DAYS
        self._secrets: dict[int, bytes] = {}
        """Those that the workers share, by day."""
        self._outages = OutageLog("answer secrets")
        self._use(self._today(), secrets.token_bytes(SECRET_BYTES))
        if kept is None:
            self._secrets[self._day] = self._secret

    async def follow(self) -> None:
        """Make the secret of a new day, or take the one that the workers share. A failure is logged, not raised.

        The secret that this process uses is offered each time: a store that lost it, as in a failover, has it again.
        """
        today = self._today()
        secret = self._secret if self._day == today else secrets.token_bytes(SECRET_BYTES)
        with self._outages.writing(0):
            self._use(today, secret if self._kept is None else await self._kept.offer(today, secret))
            self._secrets[today] = self._secret

    def new(self, session_ids: Sequence[str | None]) -> list[str]:
        """Return an id for each session; for None, of an answer that no session has."""
        nonces = secrets.token_hex(len(session_ids) * NONCE_DIGITS // 2)
        ids = []
        for number, session_id in enumerate(session_ids):
            nonce = nonces[number * NONCE_DIGITS : (number + 1) * NONCE_DIGITS]
            owner = secrets.randbits(4 * OWNER_DIGITS) if session_id is None else _owner_number(session_id)
            ids.append(f"{owner ^ _mask(nonce, self._secret):0{OWNER_DIGITS}x}{nonce}{self._day_text}00")
        return ids

    async def key_of(self, answer_id: str) -> AnswerKey | None:
        """Return the key of the answer that an id names; None if the id has another form, or its secret is gone.

        Raises SessionStoreUnavailable, if the secret of its day was not needed before.
        """
        if _PLAIN_ID.fullmatch(answer_id):
            return AnswerKey(owner_of(answer_id), nonce_of(answer_id))
        if not _MASKED_ID.fullmatch(answer_id):
            return None
        secret = await self._secret_of(int(answer_id[_DAY_PLACE], 16))
        return None if secret is None else _unmasked(answer_id, secret)

    def id_of(self, key: AnswerKey, made_ms: int) -> str:
        """Return an id of an answer that was made at a time: its own, if the secret of that day is known here."""
        day = int(made_ms // (1000 * DAY.total_seconds()))
        if day not in self._secrets:
            day = self._day
        nonce = key.nonce.hex()
        owner = int(key.owner, 16) ^ _mask(nonce, self._secrets.get(day, self._secret))
        return f"{owner:0{OWNER_DIGITS}x}{nonce}{day % _DAYS:0{DAY_DIGITS}x}00"

    def own_key_of(self, answer_id: str) -> AnswerKey:
        """Return the key of an answer whose id this process has just made, maybe on the day before."""
        day = self._latest_day(int(answer_id[_DAY_PLACE], 16))
        return _unmasked(answer_id, self._secrets.get(day, self._secret))

    async def _secret_of(self, day_number: int) -> bytes | None:
        """Return the secret of a day, given the last digits of its number; None for a day long past."""
        day = self._latest_day(day_number)
        too_old = self._today() - day > self._max_age_days
        if day in self._secrets or self._kept is None or too_old:
            return self._secrets.get(day)
        if (secret := await self._kept.get(day)) is not None:
            self._secrets[day] = secret
        return secret

    def _use(self, day: int, secret: bytes) -> None:
        """Mask new ids by a secret, and forget those that are too old for any answer."""
        self._day, self._secret, self._day_text = day, secret, f"{day % _DAYS:0{DAY_DIGITS}x}"
        self._secrets = {known: kept for known, kept in self._secrets.items() if day - known <= self._max_age_days}

    def _latest_day(self, day_number: int) -> int:
        """Return the latest possible day whose number ends with these digits."""
        newest = self._today() + MAX_CLOCK_DAYS
        day: int = newest - (newest - day_number) % _DAYS
        return day

    def _today(self) -> int:
        return int(self._clock() // DAY.total_seconds())


def _is_secret(kept: object) -> bool:
    return isinstance(kept, bytes) and len(kept) == SECRET_BYTES


@lru_cache(CACHED_OWNERS)
def _owner_number(session_id: str) -> int:
    return int(session_digest(session_id), 16)


def _mask(nonce: str, secret: bytes) -> int:
    """Return the number that masks an owner, and unmasks it, by XOR."""
    return int.from_bytes(blake2b(nonce.encode(), key=secret, digest_size=OWNER_DIGITS // 2).digest())


def _unmasked(answer_id: str, secret: bytes) -> AnswerKey:
    nonce = answer_id[OWNER_DIGITS : OWNER_DIGITS + NONCE_DIGITS]
    owner = int(owner_of(answer_id), 16) ^ _mask(nonce, secret)
    return AnswerKey(f"{owner:0{OWNER_DIGITS}x}", bytes.fromhex(nonce))
