"""Exposure: which items of a bundle were ever shown, and how popular what was shown is.

A bit for each item and a counter for each tenth of the items by popularity, for each bundle and tenant: 125 KB for a
million items. Dimension key: N items of a bundle, S shown ones.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from onward.service.records.answer_page import ItemRows
from onward.service.records.outage_log import OutageLog
from onward.service.redis_client import RedisClient, Script, execute_or_raise, store_call
from onward.service.tenants import PREFIX

TENTHS = 10
MAX_WAITING = 1_024
"""Answers that are counted between two flushes; of more, as under load, these are the sample."""
MAX_NEW_ROWS = 2_000
"""Rows that one flush marks as shown; the others are marked when they are shown again."""
ROWS_PER_FIELD = 1_024
RETENTION = timedelta(days=31)
"""How long after its last answer the exposure of a bundle is kept."""


class PopularRows(ItemRows, Protocol):
    """The catalog of a bundle, with the popularity of its items."""

    @property
    def popularity_N1(self) -> NDArray[np.float32]:
        """The popularity of each row."""
        ...

    @property
    def most_popular_rows(self) -> NDArray[np.int64]:
        """The rows 1..N, the most popular first."""
        ...


class StoredExposure(NamedTuple):
    """What a store has of a bundle."""

    bits: bytes
    """The bit of row r is bit 7 - r % 8 of byte r // 8; missing bytes are zero."""
    impressions: Sequence[int]
    """Items shown of each tenth of the items, the most popular first."""


class ExposureStore(Protocol):
    """Keeps the exposure of bundles, by digest."""

    async def add(self, bundle: str, rows: Sequence[int], impressions: Sequence[int]) -> None:
        """Mark rows as shown and add impressions. Raises SessionStoreUnavailable."""
        ...

    async def read(self, bundle: str) -> StoredExposure:
        """Return what is kept of a bundle. Raises SessionStoreUnavailable."""
        ...


class Exposure(NamedTuple):
    """The exposure of a bundle's items."""

    shown_N1: NDArray[np.bool_]
    """Whether the item of each row was ever shown."""
    impressions: Sequence[int]
    """Items shown of each tenth of the items, the most popular first."""


class ExposureLog:
    """Collects what answers show; `flush` adds it to the store. Items that are new since the export are not counted."""

    def __init__(self, store: ExposureStore) -> None:
        self._store = store
        self._waiting: list[tuple[str, PopularRows, Sequence[str]]] = []
        self._digest = ""
        self._marked_N1 = np.zeros(0, dtype=np.bool_)
        """Rows of the bundle of `_digest` that this process has marked."""
        self._least_popularity = np.zeros(0, dtype=np.float32)
        """The least popularity of each tenth but the last, ascending."""
        self._outages = OutageLog("exposure")

    def served(self, bundle: str, catalog: PopularRows, item_ids: Sequence[str]) -> None:
        """Collect an answer of a bundle."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append((bundle, catalog, item_ids))

    async def flush(self) -> None:
        """Add the collected answers of the bundle that answered last."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        digest, catalog, _ = waiting[-1]
        if digest != self._digest:
            self._begin(digest, catalog)
        rows_S = _rows([item_id for bundle, _, ids in waiting if bundle == digest for item_id in ids], catalog)
        tenths_S = TENTHS - 1 - np.searchsorted(self._least_popularity, catalog.popularity_N1[rows_S], side="right")
        impressions = np.bincount(tenths_S, minlength=TENTHS).tolist()
        new_rows = np.unique(rows_S[~self._marked_N1[rows_S]])[:MAX_NEW_ROWS]
        with self._outages.writing(len(waiting)):
            await self._store.add(digest, new_rows.tolist(), impressions)
            self._marked_N1[new_rows] = True

    async def of(self, bundle: str, items: int) -> Exposure:
        """Return the exposure of a bundle with so many items. Raises SessionStoreUnavailable."""
        stored = await self._store.read(bundle)
        content = stored.bits.ljust(items // 8 + 1, b"\0")
        bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=items + 1)
        return Exposure(bits.astype(np.bool_), stored.impressions)

    def _begin(self, digest: str, catalog: PopularRows) -> None:
        self._digest, self._marked_N1 = digest, np.zeros(catalog.items + 1, dtype=np.bool_)
        ends = catalog.items * np.arange(TENTHS - 1, 0, -1) // TENTHS
        self._least_popularity = catalog.popularity_N1[catalog.most_popular_rows[np.maximum(ends - 1, 0)]]


def _rows(item_ids: Sequence[str], catalog: PopularRows) -> NDArray[np.int64]:
    """Return the rows of the items that are in the bundle's files, with repetitions."""
    known = [row for row in catalog.rows(item_ids) if row is not None and row <= catalog.items]
    return np.array(known, dtype=np.int64)


class RedisExposureStore:
    """Shared by all workers and replicas: a hash for each bundle; `add` runs one script in one round trip."""

    def __init__(self, redis: RedisClient, *, prefix: str = PREFIX) -> None:
        self._redis = redis
        self._prefix = prefix
        text = files("onward.service.records").joinpath("exposure_add.lua").read_text(encoding="utf-8")
        self._add = Script(redis, f"local ROWS = {ROWS_PER_FIELD}\n{text}")

    async def add(self, bundle: str, rows: Sequence[int], impressions: Sequence[int]) -> None:
        """Run the script; see `ExposureStore`."""
        retention_ms = int(RETENTION / timedelta(milliseconds=1))
        async with store_call(self._redis):
            await self._add([self._key(bundle)], [retention_ms, len(rows), *rows, *impressions])

    async def read(self, bundle: str) -> StoredExposure:
        """Read the hash; see `ExposureStore`."""
        async with store_call(self._redis):
            (reply,) = await execute_or_raise(self._redis, ("HGETALL", self._key(bundle)))
            fields = dict(zip(reply[::2], reply[1::2], strict=True))
            impressions = [int(float(fields.get(b"t%d" % place, 0))) for place in range(TENTHS)]
            chunks = {int(field): bits for field, bits in fields.items() if field.isdigit()}
            empty = bytes(ROWS_PER_FIELD // 8)
            bits = b"".join(chunks.get(number, empty) for number in range(max(chunks, default=-1) + 1))
            return StoredExposure(bits, impressions)

    def _key(self, bundle: str) -> str:
        return f"{self._prefix}{{exposure:{bundle}}}"


class InMemoryExposureStore:
    """The exposure of tests and of a service with one process; bundles without answers for a while are forgotten."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._added_s: dict[str, float] = {}
        self._rows: defaultdict[str, set[int]] = defaultdict(set)
        self._impressions: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(TENTHS, dtype=np.int64))

    async def add(self, bundle: str, rows: Sequence[int], impressions: Sequence[int]) -> None:
        """Add in this process; see `ExposureStore`."""
        now_s = self._clock()
        self._rows[bundle].update(rows)
        self._impressions[bundle] += np.array(impressions)
        self._added_s[bundle] = now_s
        self._forget(self._added_s, now_s - RETENTION.total_seconds())

    async def read(self, bundle: str) -> StoredExposure:
        """Read what this process has; see `ExposureStore`."""
        rows = self._rows.get(bundle, set())
        bits = np.zeros(max(rows, default=-1) + 1, dtype=np.bool_)
        bits[[*rows]] = True
        return StoredExposure(np.packbits(bits).tobytes(), self._impressions[bundle].tolist())

    def _forget(self, added_s: Mapping[str, float], before_s: float) -> None:
        for bundle in [bundle for bundle, time_s in added_s.items() if time_s < before_s]:
            del self._added_s[bundle], self._rows[bundle], self._impressions[bundle]
