"""The ids of a retired bundle are found while answers name them, in this process or in the folder of bundles."""

import asyncio
from datetime import timedelta
from pathlib import Path
from shutil import rmtree

import pytest

from onward.bundle import Bundle
from onward.service import telemetry
from onward.service.live.bundle import LiveBundle
from onward.service.live.bundle_ids import IN_FLIGHT, BundleIds
from tests.bundles import item_ids, publish_bundle
from tests.service.clock import Clock

KEPT = timedelta(minutes=30)
EARLIER, LATER = item_ids("ítem-", 30), item_ids("later-", 20)


@pytest.fixture
def ids(tmp_path: Path, clock: Clock) -> BundleIds:
    return BundleIds(tmp_path, kept=KEPT, clock=clock)


async def found(ids: BundleIds, digest: str) -> list[str] | None:
    bundle = await ids.find(digest[:16])
    if bundle is None:
        return None
    assert bundle.digest == digest
    return bundle.item_ids([1, 20, 2])


async def test_a_retired_bundle_is_held_for_its_time_even_if_it_is_deleted(
    tmp_path: Path, ids: BundleIds, clock: Clock
) -> None:
    live = LiveBundle(tmp_path, ids=ids)
    earlier = publish_bundle(tmp_path, EARLIER)
    await live.refresh()
    later = publish_bundle(tmp_path, LATER)
    await live.refresh()
    rmtree(tmp_path / earlier)
    clock.advance(KEPT + IN_FLIGHT)
    assert await found(ids, earlier) == ["ítem-1", "ítem-20", "ítem-2"]
    assert await found(ids, later) == ["later-1", "later-20", "later-2"]
    clock.advance(timedelta(seconds=1))
    assert await found(ids, earlier) is None


async def test_a_process_that_started_later_finds_bundles_in_the_folder(tmp_path: Path, ids: BundleIds) -> None:
    earlier, later = publish_bundle(tmp_path, EARLIER), publish_bundle(tmp_path, LATER)
    ids.serve(Bundle.load(tmp_path / "current"))
    assert await found(ids, earlier) == ["ítem-1", "ítem-20", "ítem-2"]
    rmtree(tmp_path / earlier)
    results = await asyncio.gather(*[found(ids, digest) for digest in (earlier, later, earlier)])
    assert None not in results
    bundle = await ids.find(earlier[:16])
    assert bundle is not None
    for row in (0, 31, -1):
        with pytest.raises(IndexError):
            bundle.item_ids([row])


async def test_reads_of_a_bundle_that_is_gone_are_counted_and_logged_once(
    ids: BundleIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[str, bool]] = []
    monkeypatch.setattr(telemetry, "answer_unreadable", lambda digest, is_first: reported.append((digest, is_first)))
    for digest in ("a" * 16, "b" * 16, "a" * 16):
        assert await ids.find(digest) is None
    assert reported == [("a" * 16, True), ("b" * 16, True), ("a" * 16, False)]
