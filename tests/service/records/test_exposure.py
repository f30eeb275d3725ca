"""What answers show is marked once for each item, and counted by tenths of popularity."""

from datetime import timedelta

import numpy as np
import pytest

from onward.service.errors import SessionStoreUnavailable
from onward.service.records import exposure
from onward.service.records.exposure import (
    RETENTION,
    ExposureLog,
    ExposureStore,
    InMemoryExposureStore,
    RedisExposureStore,
    StoredExposure,
)
from onward.service.redis_client import RedisClient
from tests.service.clock import Clock
from tests.service.records.catalogs import CATALOG, DIGEST, LETTERS, OTHER_DIGEST, LetterCatalog

NEW = LetterCatalog(new=["new"])


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, calls: RedisClient) -> ExposureStore:
    is_memory = request.param == "memory"
    return InMemoryExposureStore() if is_memory else RedisExposureStore(calls, prefix=f"onward:{request.node.name}:")


async def shown(log: ExposureLog, digest: str = DIGEST) -> str:
    """Return the letters of the items that were ever shown."""
    marked_N1 = (await log.of(digest, len(LETTERS))).shown_N1
    assert len(marked_N1) == len(LETTERS) + 1
    return "".join(LETTERS[row - 1] for row in np.flatnonzero(marked_N1))


async def test_workers_mark_what_they_show_and_count_it_by_popularity(store: ExposureStore) -> None:
    first, second = ExposureLog(store), ExposureLog(store)
    assert await shown(first) == ""
    first.served(DIGEST, NEW, ["a", "v", "new", "gone"])
    first.served(DIGEST, NEW, ["a"])
    second.served(DIGEST, CATALOG, ["w", "a", "b"])
    for log in (first, second, first):
        await log.flush()
    assert await shown(first) == await shown(second) == "abvw"
    assert list((await first.of(DIGEST, len(LETTERS))).impressions) == [4, *[0] * 8, 2]
    assert await shown(first, OTHER_DIGEST) == ""


async def test_only_the_answers_of_the_latest_bundle_are_counted(store: ExposureStore) -> None:
    log = ExposureLog(store)
    log.served(DIGEST, CATALOG, ["a"])
    log.served(OTHER_DIGEST, CATALOG, ["b"])
    await log.flush()
    assert (await shown(log), await shown(log, OTHER_DIGEST)) == ("", "b")
    log.served(DIGEST, CATALOG, ["c"])
    await log.flush()
    assert await shown(log) == "c"


async def test_a_flush_is_bounded(store: ExposureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "MAX_NEW_ROWS", 2)
    monkeypatch.setattr(exposure, "MAX_WAITING", 3)
    log = ExposureLog(store)
    for letters in ("abc", "abc", "d", "e"):
        log.served(DIGEST, CATALOG, list(letters))
    await log.flush()
    assert await shown(log) == "ab"
    log.served(DIGEST, CATALOG, list("abcd"))
    await log.flush()
    assert await shown(log) == "abcd"


async def test_what_a_store_did_not_take_is_marked_when_it_is_shown_again() -> None:
    class Failing(InMemoryExposureStore):
        fails = True

        async def add(self, *arguments: object) -> None:
            if self.fails:
                raise SessionStoreUnavailable
            await super().add(*arguments)  # type: ignore[arg-type]  # those of the store

    store = Failing()
    log = ExposureLog(store)
    for store.fails in (True, False):
        log.served(DIGEST, CATALOG, ["a"])
        await log.flush()
    assert await shown(log) == "a"


async def test_a_bundle_without_answers_is_forgotten(clock: Clock) -> None:
    store = InMemoryExposureStore(clock=clock)
    await store.add(DIGEST, [1], [1] * 10)
    clock.advance(RETENTION + timedelta(seconds=1))
    await store.add(OTHER_DIGEST, [1], [1] * 10)
    assert await store.read(DIGEST) == StoredExposure(b"", [0] * 10)


async def test_rows_of_a_large_bundle_are_marked(store: ExposureStore) -> None:
    rows = [1, 1_023, 1_024, 8_191, 8_192, 99_999]
    for part in (rows[::2], rows[1::2], rows):
        await store.add(DIGEST, part, [0] * 10)
    marked_N1 = (await ExposureLog(store).of(DIGEST, 100_000)).shown_N1
    assert (len(marked_N1), np.flatnonzero(marked_N1).tolist()) == (100_001, rows)
