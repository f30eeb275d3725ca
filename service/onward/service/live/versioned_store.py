"""VersionedStore: JSON values by name, shared by all workers, with the changes since a version."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from itertools import takewhile
from typing import Any, Literal, NamedTuple, Protocol, Self

from onward.bundle.files.packed_map import PackedMap
from onward.service.errors import LiveStoreUnavailable
from onward.service.redis_client import Argument, RedisClient, Script, connect, store_call
from onward.service.tenants import PREFIX

CALL_TIMEOUT = timedelta(seconds=2)
PAGE_SIZE = 250
"""Names that are read at once: the server and the reader take some milliseconds for them, and serve others between."""
MAX_PART_BYTES = 2**18
"""Size of the texts from which a part of a restored store is sent; a part exceeds it by less than one text."""
STAGED_SECONDS = 60
"""How long a part of a restored store waits for the next one."""
REMEMBERED_TOMBSTONES = 1_000
MAX_DROPS = 5
"""Attempts to drop entries of a store that begins new generations meanwhile."""
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


class Entries(Mapping[str, Entry]):
    """Entries by name, kept as the texts that a store keeps, and parsed when they are read. Immutable.

    A million entries of a store take some 150 MB in this form; parsed they would take more than a gigabyte.
    """

    __slots__ = ("_texts",)

    def __init__(self, texts: Mapping[str, tuple[int, bytes]] | None = None) -> None:
        """Take the sequence and the text of each name; nothing by default."""
        self._texts: Mapping[str, tuple[int, bytes]] = PackedMap() if texts is None else texts

    @classmethod
    def of(cls, entries: Mapping[str, Entry]) -> "Entries":
        """Return entries in this form."""
        if isinstance(entries, Entries):
            return entries
        return cls(
            {name: (sequence, _text(revision, value).encode()) for name, (sequence, revision, value) in entries.items()}
        )

    def __getitem__(self, name: str) -> Entry:
        return parse_entry(*self._texts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, name: str) -> tuple[int, bytes] | None:
        """Return the sequence and the text of a name, None if it has no entry."""
        return self._texts.get(name)

    def texts(self) -> Iterator[tuple[str, tuple[int, bytes]]]:
        """Yield each name with its sequence and text."""
        return self._texts.records() if isinstance(self._texts, PackedMap) else iter(self._texts.items())

    def updated(self, entries: Mapping[str, Entry]) -> "Entries":
        """Return these with others in addition or in place of them; itself if nothing differs."""
        texts = self._texts if isinstance(self._texts, PackedMap) else PackedMap[str, tuple[int, bytes]]()
        packed = texts.updated(Entries.of(entries)._texts)
        return self if packed is self._texts else Entries(packed)

    def differences(self, other: "Entries") -> Iterator["Difference"]:
        """Yield the names whose entries differ; the cost is proportional to what the two do not share."""
        assert isinstance(self._texts, PackedMap)  # noqa: S101  # so are all but pages
        assert isinstance(other._texts, PackedMap)  # noqa: S101
        return self._texts.differences(other._texts)


Difference = tuple[str, tuple[int, bytes] | None, tuple[int, bytes] | None]
"""A name, and its sequence and text in one mapping and in another; None where it has no entry."""


def is_tombstone(text: bytes) -> bool:
    """Return whether a text marks a removed name, as a malformed one does."""
    return (text.endswith(b"null]") or not text.endswith(b"]")) and parse_entry(0, text).value is None


Rejection = Literal["conflict", "full"]
"""Why a put was refused: another writer's put came first, or the store has the maximum number of names."""
REJECTIONS: Mapping[int, Rejection] = {0: "conflict", -1: "full"}
"""By the code that the script returns."""


class ChangesPage(NamedTuple):
    """Entries of one generation of a store, in the order of their sequences."""

    generation: str
    """Empty if the store is: nothing was ever put, or the server was emptied."""
    entries: Mapping[str, Entry]
    is_first: bool
    """Whether the page is the first of the whole store, so that a name on no page of it does not exist."""
    is_last: bool
    cleared: int
    """The version at which the store was last cleared on purpose; 0 for never."""


class Dropped(NamedTuple):
    """How many names were dropped, and how many stay."""

    dropped: int
    kept: int


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

    async def drop(self, through: int, *, mark: str) -> Dropped:
        """Remove the entries put until `through`, but for those whose text has a mark; a new generation begins.

        Readers do not count them as lost. Raises LiveStoreUnavailable.
        """
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
        self._drop = Script(redis, _script("versioned_store_drop.lua"))
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
        removed = version = 0
        async with store_call(self._redis, LiveStoreUnavailable):
            for part in _parts(Entries.of(entries)):
                removed += sum(map(int, part[3::4]))
                version = max(version, *part[1::4])
                if not await self._restore(keys, [STAGED_SECONDS, "", "", "", "", *part]):
                    return False
            return bool(await self._restore(keys, [STAGED_SECONDS, len(entries), removed, version, token]))

    async def clear(self) -> int:
        """Clear by one run of a script; see `VersionedStore`."""
        async with store_call(self._redis, LiveStoreUnavailable):
            return int(await self._clear(self._keys, [_token()]))

    async def drop(self, through: int, *, mark: str) -> Dropped:
        """Stage what stays, in parts, and rename the staged keys; begun again if a new generation begins meanwhile."""
        async with store_call(self._redis, LiveStoreUnavailable):
            for _ in range(MAX_DROPS):
                token = _token()
                keys = [*self._keys, *(f"{key}:{token}" for key in self._keys[1:])]
                generation, kept, after = "", 0, "-inf"
                while True:
                    arguments: list[Argument] = [
                        STAGED_SECONDS,
                        through,
                        mark,
                        PAGE_SIZE,
                        token,
                        generation,
                        kept,
                        after,
                    ]
                    found, kept, last, before = await self._drop(keys, arguments)
                    generation, after = found.decode(), last.decode()
                    if int(before) >= 0:
                        return Dropped(int(before) - int(kept), int(kept))
                    if not generation:
                        break
                if not (await self._read(self._keys[:3], ["", 0, 1]))[0]:
                    return Dropped(0, 0)
        raise LiveStoreUnavailable("The store began new generations again and again while changes were dropped.")

    async def changes_since(self, generation: str, sequence: int) -> ChangesPage:
        """Read a page by one run of a script; see `VersionedStore`. A malformed entry counts as removed."""
        async with store_call(self._redis, LiveStoreUnavailable):
            reply = await self._read(self._keys[:3], [generation, sequence, PAGE_SIZE])
            current, is_first, cleared, *fields = reply
            texts = {
                name.decode(errors="replace"): (int(sequence), text)
                for name, sequence, text in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
            }
            is_last = len(fields) < 3 * PAGE_SIZE
            return ChangesPage(
                current.decode(), Entries(texts), is_first=bool(is_first), is_last=is_last, cleared=int(cleared)
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
    return _ENCODER.encode([revision, value])


def _parts(entries: Entries) -> Iterator[list[Any]]:
    """Yield the arguments of the script that restores entries, in parts of at most PAGE_SIZE names."""
    part: list[Any] = []
    size = 0
    for name, (sequence, text) in entries.texts():
        part += (name, sequence, text, int(is_tombstone(text)))
        size += len(text)
        if size >= MAX_PART_BYTES or len(part) >= 4 * PAGE_SIZE:
            yield part
            part, size = [], 0
    if part:
        yield part


def parse_entry(sequence: int, text: bytes) -> Entry:
    """Parse what is stored under a name; anything else than the JSON that `_text` writes counts as removed."""
    try:
        revision, value = _DECODER.decode(text.decode())
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair could not be sent to a caller
        return Entry(sequence, int(revision), value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return Entry(sequence, 0, None)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


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

    async def drop(self, through: int, *, mark: str) -> Dropped:
        """Remove entries; see `VersionedStore`."""
        before = len(self._entries)
        self._entries = {
            name: entry
            for name, entry in self._entries.items()
            if entry.sequence > through or mark in _text(entry.revision, entry.value)
        }
        self._tombstones = {name: None for name in self._tombstones if name in self._entries}
        if self._generation:
            self._cleared = max(self._cleared, through)
            self._generation = _token()
        return Dropped(before - len(self._entries), len(self._entries))

    async def changes_since(self, generation: str, sequence: int) -> ChangesPage:
        """Return all changes as a single page."""
        is_first = not generation or generation != self._generation or self._sequence < sequence
        from_last = reversed(self._entries.items())
        newer = list(from_last if is_first else takewhile(lambda item: item[1].sequence > sequence, from_last))
        return ChangesPage(
            self._generation, dict(reversed(newer)), is_first=is_first, is_last=True, cleared=self._cleared
        )

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
