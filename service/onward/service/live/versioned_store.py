"""VersionedStore: JSON values by name, shared by all workers, with the changes since a version."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Any, Literal, NamedTuple, Protocol, Self

from onward.service.errors import LiveStoreUnavailable
from onward.service.redis_client import Argument, RedisClient, Script, connect, store_call
from onward.service.tenants import PREFIX

CALL_TIMEOUT = timedelta(seconds=2)
PAGE_SIZE = 1_000
MAX_PART_BYTES = 2**18
"""Size of the texts from which a part of a restored store is sent; a part exceeds it by less than one text."""
STAGED_SECONDS = 60
"""How long a part of a restored store waits for the next one."""
REMEMBERED_TOMBSTONES = 1_000
ALL_NAMES = 2**53
"""More names than a store ever has."""


class Entry(NamedTuple):
    """The value under a name: JSON, or None for a tombstone, which marks a removed name."""

    sequence: int
    """The version at which it was put: larger than that of every earlier put, in all generations of the store."""
    revision: int
    """How often the name was put, this time and removals included; it starts again once a tombstone is forgotten."""
    value: Any


class Put(NamedTuple):
    """A value to store under a name if the sequence of the current entry is `expected`, 0 for no entry."""

    name: str
    revision: int
    value: Any
    expected: int


Rejection = Literal["conflict", "full"]
"""Why a put was refused: another writer's put came first, or the store has the maximum number of names."""
REJECTIONS: Mapping[int, Rejection] = {0: "conflict", -1: "full"}
"""By the code that the script returns."""


class ChangesPage(NamedTuple):
    """Entries of one generation of a store, in the order of their sequences."""

    generation: str
    """Empty if the store is: nothing was ever put, or the server was emptied."""
    entries: dict[str, Entry]
    is_first: bool
    """Whether the page is the first of the whole store, so that a name on no page of it does not exist."""
    is_last: bool
    cleared: int
    """The version at which the store was last cleared on purpose; 0 for never."""


class VersionedStore(Protocol):
    """Keeps JSON values by name with optimistic concurrency, and lists what was put since a version.

    A store that was restored, cleared or replaced, or that forgot old tombstones, has another generation, so that
    readers read all of it again.
    """

    @property
    def epoch(self) -> int:
        """A number that grows when the store may have lost entries that were read before; see `RedisClient.epoch`."""
        ...

    async def put(self, generation: str, puts: Sequence[Put], *, uncounted: int = 0) -> list[Entry | Rejection]:
        """Put each value independently, unless another writer came first, or there are too many names.

        A store of another generation than the writer has read refuses all as conflicts. The first put into a store that
        has none, by a writer that knows none (""), begins one. So many of the stored names as `uncounted` do not count
        towards the maximum. Raises LiveStoreUnavailable.
        """
        ...

    async def restore(self, entries: Mapping[str, Entry]) -> bool:
        """Store all entries, as they are, in a store that has no generation: all at once, or none.

        Begins a new generation and returns True; returns False if the store has a generation, as when another reader
        came first. Raises LiveStoreUnavailable.
        """
        ...

    async def clear(self) -> int:
        """Remove all entries on purpose; return how many names had a value. Raises LiveStoreUnavailable."""
        ...

    async def changes_since(self, generation: str, sequence: int) -> ChangesPage:
        """Return a page of the entries put after `sequence`.

        Starts from the beginning if the store has another generation, or lost entries that the reader has seen.
        Raises LiveStoreUnavailable.
        """
        ...

    async def close(self) -> None:
        """Close the store's connections."""
        ...


class RedisVersionedStore:
    """Shared by all workers and replicas: four keys in one hash slot; each call runs a script in one round trip.

    Only `restore` takes several, one for each part of the entries, and stages them in keys of its own.
    """

    def __init__(self, redis: RedisClient, name: str, *, max_names: int, prefix: str = PREFIX) -> None:
        self._redis = redis
        self._keys = [f"{prefix}{{{name}}}:{part}" for part in ("state", "values", "changed", "removed")]
        self._max_names = max_names
        self._put = Script(redis, _script("versioned_store_put.lua"))
        self._read = Script(redis, _script("versioned_store_read.lua"))
        self._restore = Script(redis, _script("versioned_store_restore.lua"))
        self._clear = Script(redis, _script("versioned_store_clear.lua"))

    @classmethod
    def connect(
        cls, url: str, name: str, *, max_names: int, timeout: timedelta = CALL_TIMEOUT, prefix: str = PREFIX
    ) -> Self:
        """Return a store at a URL, which connects lazily. No call is retried, and none takes longer than `timeout`."""
        return cls(connect(url, timeout), name, max_names=max_names, prefix=prefix)

    @property
    def epoch(self) -> int:
        """The epoch of the client."""
        return self._redis.epoch

    async def put(self, generation: str, puts: Sequence[Put], *, uncounted: int = 0) -> list[Entry | Rejection]:
        """Put all values by one run of a script; see `VersionedStore`."""
        arguments: list[Argument] = [self._max_names + uncounted, REMEMBERED_TOMBSTONES, generation, _token()]
        for put in puts:
            arguments += (put.name, put.expected, _text(put.revision, put.value), int(put.value is None))
        async with store_call(self._redis, LiveStoreUnavailable):
            outcomes = await self._put(self._keys, arguments)
            return [
                REJECTIONS.get(outcome) or Entry(int(outcome), put.revision, put.value)
                for put, outcome in zip(puts, outcomes, strict=True)
            ]

    async def restore(self, entries: Mapping[str, Entry]) -> bool:
        """Stage parts of bounded size, then rename the staged keys; see `VersionedStore`.

        A store of any size can be restored. Meanwhile the server holds it once for each reader that tries.
        """
        token = _token()
        keys = [*self._keys, *(f"{key}:{token}" for key in self._keys[1:])]
        removed = sum(entry.value is None for entry in entries.values())
        version = max((entry.sequence for entry in entries.values()), default=0)
        async with store_call(self._redis, LiveStoreUnavailable):
            for part in _parts(entries):
                if not await self._restore(keys, [STAGED_SECONDS, "", "", "", "", *part]):
                    return False
            return bool(await self._restore(keys, [STAGED_SECONDS, len(entries), removed, version, token]))

    async def clear(self) -> int:
        """Clear by one run of a script; see `VersionedStore`."""
        async with store_call(self._redis, LiveStoreUnavailable):
            return int(await self._clear(self._keys, [_token()]))

    async def changes_since(self, generation: str, sequence: int) -> ChangesPage:
        """Read a page by one run of a script; see `VersionedStore`. A malformed entry counts as removed."""
        async with store_call(self._redis, LiveStoreUnavailable):
            reply = await self._read(self._keys[:3], [generation, sequence, PAGE_SIZE])
            current, is_first, cleared, *fields = reply
            entries = {
                name.decode(errors="replace"): _parse_entry(int(sequence), text)
                for name, sequence, text in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
            }
            is_last = len(fields) < 3 * PAGE_SIZE
            return ChangesPage(
                current.decode(), entries, is_first=bool(is_first), is_last=is_last, cleared=int(cleared)
            )

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()


def _script(name: str) -> str:
    return files("onward.service.live").joinpath(name).read_text(encoding="utf-8")


def _token() -> str:
    """Return a name that no generation and no staged part has."""
    return secrets.token_hex(8)


def _text(revision: int, value: Any) -> str:
    return json.dumps([revision, value], ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _parts(entries: Mapping[str, Entry]) -> Iterator[list[Argument]]:
    """Yield the arguments of the script that restores entries, in parts of at most PAGE_SIZE names."""
    part: list[Argument] = []
    size = 0
    for name, (sequence, revision, value) in entries.items():
        text = _text(revision, value)
        part += (name, sequence, text, int(value is None))
        size += len(text)
        if size >= MAX_PART_BYTES or len(part) >= 4 * PAGE_SIZE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _parse_entry(sequence: int, text: bytes) -> Entry:
    """Parse what is stored under a name; anything else than the JSON that `_text` writes counts as removed."""
    try:
        revision, value = json.loads(text, parse_constant=_refuse_constant)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair could not be sent to a caller
        return Entry(sequence, int(revision), value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return Entry(sequence, 0, None)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class InMemoryVersionedStore:
    """The versioned store of tests and of a service with one process: entries in a dict."""

    def __init__(self, *, max_names: int, clock: Callable[[], float] = time.time) -> None:
        self._max_names = max_names
        self._clock = clock
        self._generation = ""
        self._entries: dict[str, Entry] = {}
        """Ordered by sequence."""
        self._tombstones: dict[str, None] = {}
        self._sequence = 0
        self._cleared = 0
        self.epoch = 0
        """Always the same: nothing is lost while the process lives."""

    async def put(self, generation: str, puts: Sequence[Put], *, uncounted: int = 0) -> list[Entry | Rejection]:
        """Put values; half of the tombstones are forgotten, and a new generation begins, if there are too many."""
        if generation != self._generation:
            return ["conflict"] * len(puts)
        max_names = self._max_names + uncounted
        outcomes = [self._put(put, max_names) for put in puts]
        if (surplus := len(self._tombstones) - REMEMBERED_TOMBSTONES) > 0:
            for name in list(self._tombstones)[: surplus + REMEMBERED_TOMBSTONES // 2]:
                del self._entries[name], self._tombstones[name]
            self._generation = _token()
        return outcomes

    async def restore(self, entries: Mapping[str, Entry]) -> bool:
        """Take over all entries; see `VersionedStore`."""
        if self._generation:
            return False
        self._entries = dict(sorted(entries.items(), key=lambda item: item[1].sequence))
        self._tombstones = {name: None for name, entry in self._entries.items() if entry.value is None}
        self._sequence = max((entry.sequence for entry in entries.values()), default=0)
        self._generation = _token()
        return True

    async def clear(self) -> int:
        """Remove all entries; see `VersionedStore`."""
        names = len(self._entries) - len(self._tombstones)
        self._entries, self._tombstones = {}, {}
        self._cleared = self._next_sequence()
        self._generation = _token()
        return names

    async def changes_since(self, generation: str, sequence: int) -> ChangesPage:
        """Return all changes as a single page."""
        is_first = not generation or generation != self._generation or self._sequence < sequence
        newer = {name: entry for name, entry in self._entries.items() if is_first or entry.sequence > sequence}
        return ChangesPage(self._generation, newer, is_first=is_first, is_last=True, cleared=self._cleared)

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    def _put(self, put: Put, max_names: int) -> Entry | Rejection:
        current = self._entries.get(put.name)
        if (current.sequence if current else 0) != put.expected:
            return "conflict"
        is_new = put.value is not None and (current is None or current.value is None)
        if is_new and len(self._entries) - len(self._tombstones) >= max_names:
            return "full"
        self._entries.pop(put.name, None)  # so that the new entry goes to the end of the dict
        self._generation = self._generation or _token()
        entry = Entry(self._next_sequence(), put.revision, put.value)
        self._tombstones.pop(put.name, None)
        if put.value is None:
            self._tombstones[put.name] = None
        self._entries[put.name] = entry
        return entry

    def _next_sequence(self) -> int:
        self._sequence = max(self._sequence + 1, int(self._clock() * 1e6))
        return self._sequence
