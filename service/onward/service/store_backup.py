"""Back up what the store keeps into a file, and restore it into a store that has none of it.

Keys are copied as the server serializes them (DUMP and RESTORE), those with one hash tag in one step, so that the parts
of a session or of a versioned store fit together though the service goes on writing. See decision 44.
"""

import binascii
import gzip
import os
import re
import time
import zlib
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from onward.service.redis_client import FIRST_SCAN, Command, RedisClient, connect, execute_or_raise
from onward.service.tenants import PREFIX, TENANT

FORMAT = 1
SCANNED_KEYS, PIPELINED = 1_000, 200
CALL_TIMEOUT = timedelta(seconds=60)
"""Of one step: the server takes about a second for a live catalog of a million changed items."""
NO_EXPIRY = 0

Part = TypeVar("Part")

_OF_VISITORS = re.compile(rf"{PREFIX}(tenant:{TENANT}:)?(session|user|answer-secret):")
_KIND = re.compile(rf"{PREFIX}(?:tenant:(?P<tenant>{TENANT}):)?{{?(?P<kind>[^:}}]+)")
_TAG = re.compile(rb"\{([^}]+)\}")
_DUMP = """
local found = {}
for place, key in ipairs(KEYS) do
  local content = redis.call('DUMP', key)
  if content then
    found[#found + 1] = {key, content, redis.call('PTTL', key)}
  end
end
return found
"""


class BackupError(Exception):
    """A backup that cannot be made, read or restored; the message is one line."""


class StoredKey(BaseModel):
    """A key of the store: a line of a backup."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    content: str
    """What DUMP gave, in base64."""
    expires_ms: int = Field(ge=0)
    """Milliseconds since 1970; 0 if it does not expire."""


class _Head(BaseModel):
    """The first line of a backup."""

    model_config = ConfigDict(extra="forbid")

    format: int
    made_ms: int
    has_sessions: bool


class Kept(NamedTuple):
    """How many keys of each kind were backed up or restored, and how many had expired meanwhile."""

    kinds: Counter[str]
    expired: int = 0

    @classmethod
    def of(cls, keys: Iterable[str], expired: int = 0) -> Self:
        """Count keys by what follows the prefix in their names."""
        return cls(Counter(_kind(key) for key in keys), expired)


async def back_up(url: str, file: Path, *, sessions: bool = False) -> Kept:
    """Write the live catalog, scenarios, popularity, counters and all else but visitors' data to a file of mode 0600.

    Args:
        url: the store, as in REDIS_URL.
        file: where to write to; replaced once the backup is complete.
        sessions: back up sessions, answers and users' lists of sessions too.

    Raises BackupError.
    """
    part, kept = file.with_name(f".{file.name}.part"), list[str]()
    try:
        async with _connected(url) as redis:
            with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as raw:
                with gzip.open(raw, "wt", encoding="utf-8") as lines:
                    head = _Head(format=FORMAT, made_ms=int(time.time() * 1000), has_sessions=sessions)
                    lines.write(f"{head.model_dump_json()}\n")
                    async for key in _stored_keys(redis, sessions=sessions):
                        lines.write(f"{key.model_dump_json()}\n")
                        kept.append(key.key)
                raw.flush()
                os.fsync(raw.fileno())
        part.replace(file)
    except OSError as error:
        raise BackupError(f"{file}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return Kept.of(kept)


async def restore(url: str, file: Path) -> Kept:
    """Restore a backup into a store that holds none of its keys; keys that have expired since are left out.

    Raises BackupError; nothing has been restored then, unless the store fails on the way.
    """
    for _ in _read(file):  # all lines, before any is restored
        pass
    now_ms = int(time.time() * 1000)
    restored: list[str] = []
    expired = 0
    async with _connected(url) as redis:
        for keys in _chunks(_read(file)):
            for reply in await execute_or_raise(redis, *[("EXISTS", key.key) for key in keys]):
                if reply:
                    raise BackupError(
                        "the store holds data of Onward already: stop the services, and restore into an empty store"
                    )
        for keys in _chunks(_read(file)):
            alive = [key for key in keys if key.expires_ms == NO_EXPIRY or key.expires_ms > now_ms]
            expired += len(keys) - len(alive)
            await execute_or_raise(
                redis,
                *[("RESTORE", key.key, key.expires_ms, b64decode(key.content), "ABSTTL") for key in alive],
            )
            restored += [key.key for key in alive]
    return Kept.of(restored, expired)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[RedisClient]:
    """Connect to the store; turn its refusals into errors of one line."""
    redis = connect(url, CALL_TIMEOUT)
    try:
        yield redis
    except (ConnectionError, TimeoutError, RedisConnectionError) as error:
        raise BackupError("--redis-url: no Redis or Valkey answers there") from error
    except RedisError as error:
        reason = str(error)
        if "DUMP payload version or checksum" in reason:
            reason = "it cannot read what another kind or a newer version of server wrote"
        raise BackupError(f"the store refused: {reason}") from error
    finally:
        await redis.aclose()


async def _stored_keys(redis: RedisClient, *, sessions: bool) -> AsyncIterator[StoredKey]:
    """Yield every key; those with one hash tag as they are at one moment."""
    for groups in _chunks((await _keys_by_tag(redis, sessions=sessions)).values()):
        dumps: list[Command] = [("EVAL", _DUMP, len(group), *group) for group in groups]
        replies = await execute_or_raise(redis, *dumps)
        now_ms = int(time.time() * 1000)
        for key, content, ttl_ms in chain.from_iterable(replies):
            expires_ms = now_ms + ttl_ms if ttl_ms >= 0 else NO_EXPIRY
            yield StoredKey(key=key.decode(), content=b64encode(content).decode(), expires_ms=expires_ms)


async def _keys_by_tag(redis: RedisClient, *, sessions: bool) -> Mapping[bytes, set[bytes]]:
    """Return the names of all keys, by hash tag; one without a tag is by itself."""
    found: defaultdict[bytes, set[bytes]] = defaultdict(set)
    cursor: str | None = FIRST_SCAN
    while cursor is not None:
        page = await redis.scan(cursor, f"{PREFIX}*", SCANNED_KEYS)
        cursor = page.cursor
        for key in page.keys:
            if sessions or not _OF_VISITORS.match(key.decode()):
                tag = _TAG.search(key)
                found[key if tag is None else tag[1]].add(key)
    return found


def _read(file: Path) -> Iterator[StoredKey]:
    """Yield the keys of a backup. Raises BackupError that names the line if it is not a whole one."""
    number = 1
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            head = _Head.model_validate_json(next(lines, ""))
            if head.format != FORMAT:
                raise BackupError(
                    f"{file}: of format {head.format}, which this version does not know: it knows {FORMAT}"
                )
            for line in lines:
                number += 1
                key = StoredKey.model_validate_json(line)
                b64decode(key.content, validate=True)
                yield key
    except (EOFError, zlib.error, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise BackupError(f"{file}: damaged, or not a backup") from error
    except (ValidationError, binascii.Error) as error:
        raise BackupError(f"{file}: line {number} is none of a backup") from error
    except OSError as error:
        raise BackupError(f"{file}: {error.strerror or error}") from error


def _chunks(parts: Iterable[Part]) -> Iterator[Sequence[Part]]:
    """Cut into pieces that one pipeline takes."""
    remaining = iter(parts)
    while chunk := list(islice(remaining, PIPELINED)):
        yield chunk


def _kind(key: str) -> str:
    """Return what a key is of, as in `session` or `scenarios`."""
    match = _KIND.match(key)
    return key if match is None else match["kind"]
