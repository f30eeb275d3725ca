"""AnswerLists: answers as version 0.1 keeps them in Redis, read and continued until they expire.

Their ids have no page number, so they are shorter than today's.
"""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.resources import files

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from onward.service import telemetry
from onward.service.records.answers import OWNER_DIGITS, Answer, AnswerOrigin, AttributionClaim, owner_of
from onward.service.redis_client import Argument, RedisClient, Script, execute_or_raise, store_call

NONCE_DIGITS = 16

_ANSWER = TypeAdapter(Answer)
_LISTED_ID = re.compile(rf"[0-9a-f]{{{OWNER_DIGITS + NONCE_DIGITS}}}")
_OPTIONAL = (
    "session_items",
    "purchased",
    "hidden",
    "user_id",
    "options",
    "changes_version",
    "scenario",
    "scenario_version",
    "variant",
    "root_id",
)


class AnswerLists:
    """A list of answers for each session, in JSON; new ones are only added as pages of an answer in the list.

    Services of 0.1 read and continue the same answers meanwhile.
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
        self._add_page = Script(redis, _script("answer_list_add_page.lua"))
        self._attribute = Script(redis, _script("answer_list_attribute.lua"))

    async def pages(self, answer_id: str) -> list[Answer] | None:
        """Return all pages of an answer; see `AnswerLog.pages`. None means that the answer may still be written."""
        async with store_call(self._redis):
            (entries,) = await execute_or_raise(self._redis, ("LRANGE", self._key(answer_id), 0, -1))
            nonce = _nonce_of(answer_id).encode()
            root = next((_root(entry) for entry in entries if _root(entry) and entry.startswith(nonce)), None)
            if root is None:
                return None if not entries or nonce in entries else []
            return self._unexpired([_answer(entry) for entry in entries if _root(entry) == root])

    async def claim_next(self, root_id: str, expected_pages: int, answer: Answer) -> bool:
        """Add the next page of an answer; see `AnswerLog.claim_next`."""
        nonces = _nonce_of(answer.id) + _nonce_of(root_id)
        arguments: list[Argument] = [_nonce_of(root_id), expected_pages, nonces.encode() + _json(answer), self._ttl_ms]
        async with store_call(self._redis):
            return bool(await self._add_page([self._key(root_id)], arguments))

    async def attribute(self, claims: Sequence[AttributionClaim]) -> list[AnswerOrigin | None]:
        """Run a script for each claim, in one round trip; see `AnswerLog.attribute`."""
        earliest_ms = int(self._clock() * 1000) - self._ttl_ms
        calls: list[tuple[list[str], list[Argument]]] = [
            ([self._key(claim.answer_id)], [_nonce_of(claim.answer_id), claim.item_id, claim.type, earliest_ms])
            for claim in claims
        ]
        async with store_call(self._redis):
            replies = await self._attribute.run_all(calls)  # an error reply to one claim does not fail the others
            return [
                AnswerOrigin(*(text.decode() for text in reply)) if isinstance(reply, list) and reply else None
                for reply in replies
            ]

    def _key(self, answer_id: str) -> str:
        return f"{self._prefix}{{{owner_of(answer_id)}}}:answers"

    def _unexpired(self, pages: list[Answer | None]) -> list[Answer]:
        """Return the readable pages; none if the first page has expired or is malformed."""
        earliest_ms = self._clock() * 1000 - self._ttl_ms
        readable = [page for page in pages if page is not None]
        if not readable or readable[0].root_id is not None or readable[0].made_ms < earliest_ms:
            return []
        return readable


def is_listed_id(text: str) -> bool:
    """Return whether a text has the form of an id that version 0.1 gives to answers."""
    return _LISTED_ID.fullmatch(text) is not None


def new_listed_page_id(answer_id: str) -> str:
    """Return a new id for a next page of an answer in a list."""
    return owner_of(answer_id) + secrets.token_hex(NONCE_DIGITS // 2)


def _nonce_of(answer_id: str) -> str:
    return answer_id[OWNER_DIGITS:]


def _json(answer: Answer) -> bytes:
    values = {"id": answer.id, "made_ms": answer.made_ms, "bundle": answer.bundle, "items": answer.items.columns()}
    return to_json(values | {name: value for name in _OPTIONAL if (value := getattr(answer, name))})


def _root(entry: bytes) -> bytes:
    """Return the nonce of the first page of an entry; empty if the entry is a reserved place."""
    return entry[NONCE_DIGITS : 2 * NONCE_DIGITS]


def _answer(entry: bytes) -> Answer | None:
    try:
        return _ANSWER.validate_json(entry[2 * NONCE_DIGITS :].partition(b"\n")[0])
    except ValidationError:
        telemetry.foreign_data_found("answer", 1)
        return None


def _script(name: str) -> str:
    return files("onward.service.records").joinpath(name).read_text(encoding="utf-8")
