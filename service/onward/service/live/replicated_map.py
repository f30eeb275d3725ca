"""VersionedStore: names and what stands under them, kept for all workers; Replica: a worker's copy that follows it."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.resources import files
from typing import Any, Literal, NamedTuple, Protocol, Self

from redis.exceptions import RedisError

from onward.service import telemetry
from onward.service.errors import LimitReached, LiveStoreUnavailable, ServiceError
from onward.service.redis_client import Argument, RedisCalls, Script, connect

FOLLOW_INTERVAL = timedelta(seconds=0.25)
"""Time between two looks at what other workers changed."""
PAGE = 1_000
REMEMBERED_REMOVALS = 1_000
MAX_TRIES = 20
"""Of one update. Each that fails saw another writer's succeed, so only a storm of writers exhausts them."""
TURN_MS = 4
"""By how much more at most an update waits before each further try."""


class Entry(NamedTuple):
    """What stands under a name: a JSON value, None where it was removed."""

    sequence: int
    """When it was put: larger than that of all that was put before, in whichever life of the map."""
    revision: int
    """How often something was put under this name, this one included; a removal counts, and may be forgotten later."""
    value: Any


class Put(NamedTuple):
    """A value for a name under which an entry of the sequence `expected` stands, 0 for none."""

    name: str
    revision: int
    value: Any
    expected: int


Refusal = Literal["met", "full"]
"""Why a put was not done: another entry than expected stands there, or it is one name too many."""
REFUSALS: Mapping[int, Refusal] = {0: "met", -1: "full"}
"""As the script tells them."""


class Page(NamedTuple):
    """What was put into a map of a certain birth, in order."""

    birth: str
    entries: dict[str, Entry]
    is_first: bool
    """Whether it begins at the start, so that what is not in it and the next ones is not in the map."""
    is_last: bool


class VersionedStore(Protocol):
    """Keeps JSON values by name and tells what was put since a moment.

    A map that was emptied or replaced has another birth, so that its readers read all of it anew.
    """

    async def put(self, puts: Sequence[Put]) -> list[Entry | Refusal]:
        """Put values, each by itself and each if what it expects is there. Raises LiveStoreUnavailable."""
        ...

    async def changes_since(self, birth: str | None, sequence: int) -> Page:
        """Read what was put after `sequence`, or all if the map is another or lost that. Raises as `put` does."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class RedisVersionedStore:
    """Shared by every worker and replica: four keys in one slot; one server-side script, one round trip a call."""

    def __init__(self, redis: RedisCalls, name: str, *, max_names: int) -> None:
        self._redis = redis
        self._keys = [f"onward:{{{name}}}:{part}" for part in ("state", "values", "changed", "removed")]
        self._max_names = max_names
        self._put = Script(redis, _script("replicated_map_put.lua"))
        self._read = Script(redis, _script("replicated_map_read.lua"))

    @classmethod
    def connect(cls, url: str, name: str, *, max_names: int, timeout: timedelta = timedelta(seconds=2)) -> Self:
        """Name the server; nothing is sent before the first call. No call is retried and none waits past `timeout`."""
        return cls(connect(url, timeout), name, max_names=max_names)

    async def put(self, puts: Sequence[Put]) -> list[Entry | Refusal]:
        """One run of a script."""
        arguments: list[Argument] = [self._max_names, REMEMBERED_REMOVALS]
        for put in puts:
            text = json.dumps([put.revision, put.value], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            arguments += (put.name, put.expected, text, int(put.value is None))
        async with _call():
            outcomes = await self._put(self._keys, arguments)
        return [
            REFUSALS.get(outcome) or Entry(outcome, put.revision, put.value)
            for put, outcome in zip(puts, outcomes, strict=True)
        ]

    async def changes_since(self, birth: str | None, sequence: int) -> Page:
        """One run of a script; an entry that is none of ours counts as removed."""
        async with _call():
            found, is_first, *answer = await self._read(self._keys[:3], [birth or "none", sequence, PAGE])
        entries = {
            name.decode(): _entry(int(sequence), text)
            for name, sequence, text in zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        }
        return Page(found.decode(), entries, is_first=bool(is_first), is_last=len(answer) < 3 * PAGE)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


@asynccontextmanager
async def _call() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise LiveStoreUnavailable from error


def _script(name: str) -> str:
    return files("onward.service.live").joinpath(name).read_text(encoding="utf-8")


def _entry(sequence: int, text: bytes) -> Entry:
    try:
        revision, value = json.loads(text)
        return Entry(sequence, int(revision), value)
    except (ValueError, TypeError):
        return Entry(sequence, 0, None)


class InMemoryVersionedStore:
    """For tests and a service of one process: the same promise, in a dict."""

    def __init__(self, *, max_names: int, clock: Callable[[], float] = time.time) -> None:
        self._max_names = max_names
        self._clock = clock
        self._birth = ""
        self._entries: dict[str, Entry] = {}
        self._removed: dict[str, None] = {}
        self._sequence = 0

    async def put(self, puts: Sequence[Put]) -> list[Entry | Refusal]:
        """Put in this process."""
        outcomes = [self._put(put) for put in puts]
        if (surplus := len(self._removed) - REMEMBERED_REMOVALS) > 0:
            for name in list(self._removed)[: surplus + REMEMBERED_REMOVALS // 2]:
                del self._entries[name], self._removed[name]
            self._birth = str(self._sequence)
        return outcomes

    async def changes_since(self, birth: str | None, sequence: int) -> Page:
        """Read in this process, all of it as one page."""
        is_first = birth != self._birth
        newer = {name: entry for name, entry in self._entries.items() if is_first or entry.sequence > sequence}
        return Page(self._birth, newer, is_first=is_first, is_last=True)

    async def close(self) -> None:
        """Keep what there is: nothing is held open."""

    def _put(self, put: Put) -> Entry | Refusal:
        held = self._entries.pop(put.name, None)  # the order of the dict is the order of the puts
        if (held.sequence if held else 0) != put.expected:
            if held:
                self._entries[put.name] = held
            return "met"
        if held is None and len(self._entries) - len(self._removed) >= self._max_names:
            return "full"
        self._sequence = max(self._sequence + 1, int(self._clock() * 1e6))
        self._birth = self._birth or str(self._sequence)
        self._removed.pop(put.name, None)
        if put.value is None:
            self._removed[put.name] = None
        self._entries[put.name] = Entry(self._sequence, put.revision, put.value)
        return self._entries[put.name]


Edit = Callable[[Entry | None], Any]
"""From what stands under a name to what shall, None to remove it; a ServiceError refuses. It may be called again."""


class Replica:
    """A worker's copy of a map. It follows the map when told to, and holds what this worker wrote at once.

    While the map's store does not answer, the copy stays as it was; the log tells of each outage once.
    """

    def __init__(self, source: VersionedStore, name: str) -> None:
        """Replica `source`, which the log calls `name`."""
        self._source = source
        self._name = name
        self._birth: str | None = None
        self._sequence = 0
        self._is_failing = False
        self._in_turn = asyncio.Lock()
        self.entries: Mapping[str, Entry] = {}
        """By name; another mapping after each change, so one that was taken stays as it is."""

    async def read(self) -> Mapping[str, Entry]:
        """Read what is new and return all there is. Raises LiveStoreUnavailable."""
        async with self._in_turn:
            await self._catch_up()
            return self.entries

    async def follow(self) -> bool:
        """Read what is new and tell whether there was anything; False where the store does not answer."""
        before = self.entries
        try:
            after = await self.read()
        except LiveStoreUnavailable as error:
            if not self._is_failing:
                telemetry.live_store_failed(self._name, error.__cause__ or error)
            self._is_failing = True
            return False
        if self._is_failing:
            telemetry.live_store_back(self._name)
        self._is_failing = False
        return after is not before

    async def update(self, edits: Mapping[str, Edit]) -> dict[str, Entry | ServiceError]:
        """Edit entries, each by itself, and return what stands there then, or why the edit or the map refused it.

        No edit of another worker is lost: where one came between, ours is made again on top of it.
        Raises LiveStoreUnavailable; then any of them may have been made all the same.
        """
        done: dict[str, Entry | ServiceError] = {}
        async with self._in_turn:
            for tries in range(MAX_TRIES):
                await asyncio.sleep(secrets.randbelow(TURN_MS * tries + 1) / 1000)  # lest two always meet again
                await self._catch_up()
                puts: list[Put] = []
                for name in (name for name in edits if name not in done):
                    try:
                        puts.append(self._edited(name, edits[name]))
                    except ServiceError as refusal:
                        done[name] = refusal
                for put, outcome in zip(puts, await self._source.put(puts) if puts else (), strict=True):
                    if isinstance(outcome, Entry):
                        done[put.name] = outcome
                    elif outcome == "full":
                        done[put.name] = LimitReached("As many names are stored as there may be.")
                if len(done) == len(edits):
                    await self._catch_up()
                    return done
        raise LiveStoreUnavailable("Too many others write the same; try again.")

    def _edited(self, name: str, edit: Edit) -> Put:
        held = self.entries.get(name)
        revision, expected = (held.revision + 1, held.sequence) if held else (1, 0)
        return Put(name, revision, edit(held), expected)

    async def close(self) -> None:
        """Let go of the map."""
        await self._source.close()

    async def _catch_up(self) -> None:
        """Take over what is new; a map of another birth as a whole, once all its pages were read."""
        birth, sequence = self._birth, self._sequence
        found: dict[str, Entry] = {}
        is_whole, is_last = False, False
        while not is_last:
            page = await self._source.changes_since(birth, sequence)
            if page.is_first:
                is_whole, sequence, found = True, 0, {}
            found |= page.entries
            sequence = max((entry.sequence for entry in page.entries.values()), default=sequence)
            birth, is_last = page.birth, page.is_last
        if is_whole and found != self.entries:
            self.entries = found
        elif found and not is_whole:
            self.entries = {**self.entries, **found}
        self._birth, self._sequence = birth, sequence


def open_replica(url: str | None, name: str, *, max_names: int) -> Replica:
    """Replica the map of this name at a server, or one of this process alone where there is none."""
    if url is None:
        return Replica(InMemoryVersionedStore(max_names=max_names), name)
    return Replica(RedisVersionedStore.connect(url, name, max_names=max_names), name)
