"""The live bundle follows `current`, and a damaged bundle never goes live."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from onward.bundle import Options, SessionView
from onward.service.errors import NotReady
from onward.service.live.bundle import LiveBundle
from onward.service.live.private_copies import PrivateCopies
from tests.bundles import item_ids, make_bundle, publish_bundle

IDS = item_ids("a", 10)


def damage(bundles: Path, digest: str) -> None:
    with (bundles / digest / "vectors.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff")


@contextmanager
def log_lines(event: str) -> Iterator[list[str]]:
    """Collect the log lines of one event."""
    collected: list[str] = []
    with structlog.testing.capture_logs() as lines:
        yield collected
    collected += [str(line) for line in lines if line["event"] == event]


@pytest.fixture
def live(tmp_path: Path) -> LiveBundle:
    return LiveBundle(tmp_path)


async def test_no_bundle_is_live_before_one_is_published(live: LiveBundle, tmp_path: Path) -> None:
    await live.refresh()
    with pytest.raises(NotReady, match="No bundle has been published"):
        _ = live.bundle
    digest = publish_bundle(tmp_path, IDS)
    await live.refresh()
    assert live.bundle.digest == digest


async def test_the_live_bundle_follows_current_forward_and_back(live: LiveBundle, tmp_path: Path) -> None:
    digests = [publish_bundle(tmp_path, IDS, seed=seed) for seed in range(2)]
    for digest in (*digests, *digests):
        (tmp_path / "link").symlink_to(digest)
        os.replace(tmp_path / "link", tmp_path / "current")
        await live.refresh()
        assert live.bundle.digest == digest


async def test_the_engine_is_logged_with_the_reason_if_it_is_no_kernel(live: LiveBundle, tmp_path: Path) -> None:
    publish_bundle(tmp_path, IDS)
    with log_lines("encoding") as lines:
        await live.refresh()
    assert len(lines) == 1
    assert "'engine': 'onnx'" in lines[0]
    assert "the bundle has no kernel for this encoder" in lines[0]


async def test_a_bundle_is_loaded_once(live: LiveBundle, tmp_path: Path) -> None:
    publish_bundle(tmp_path, IDS)
    await live.refresh()
    before = live.bundle
    await live.refresh()
    assert live.bundle is before


async def test_a_damaged_bundle_is_refused_once_and_the_previous_one_serves(live: LiveBundle, tmp_path: Path) -> None:
    good = publish_bundle(tmp_path, IDS)
    await live.refresh()
    bad = publish_bundle(tmp_path, IDS, seed=1)
    damage(tmp_path, bad)
    with log_lines("bundle refused") as refused:
        for _ in range(3):
            await live.refresh()
    assert live.bundle.digest == good
    assert live.refusal is not None
    assert (live.refusal.digest, live.refusal.reason[:24]) == (bad, "vectors.npy: its SHA-256")
    assert len(refused) == 1


async def test_a_sound_bundle_after_a_damaged_one_clears_the_refusal(live: LiveBundle, tmp_path: Path) -> None:
    damage(tmp_path, publish_bundle(tmp_path, IDS))
    await live.refresh()
    newest = publish_bundle(tmp_path, IDS, seed=2)
    await live.refresh()
    assert (live.bundle.digest, live.refusal) == (newest, None)


async def test_moving_back_from_a_damaged_bundle_clears_the_refusal(live: LiveBundle, tmp_path: Path) -> None:
    good = publish_bundle(tmp_path, IDS)
    await live.refresh()
    damage(tmp_path, publish_bundle(tmp_path, IDS, seed=1))
    await live.refresh()
    (tmp_path / "link").symlink_to(good)
    os.replace(tmp_path / "link", tmp_path / "current")
    await live.refresh()
    assert (live.bundle.digest, live.refusal) == (good, None)


async def test_not_ready_names_the_reason_if_the_first_bundle_is_damaged(live: LiveBundle, tmp_path: Path) -> None:
    damage(tmp_path, publish_bundle(tmp_path, IDS))
    await live.refresh()
    with pytest.raises(NotReady, match=r"refused: vectors\.npy"):
        _ = live.bundle


async def test_a_current_that_is_not_a_link_is_refused_and_logged_once(live: LiveBundle, tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    with log_lines("bundle refused") as refused:
        for _ in range(3):
            await live.refresh()
    assert len(refused) == 1
    assert live.refusal is not None
    assert live.refusal.reason.startswith("current: not a link")


async def test_a_bundle_in_use_works_after_its_folder_was_deleted(live: LiveBundle, tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    await live.refresh()
    taken = live.bundle
    before = taken.retrieve(SessionView(["a1"]), Options(5, exact=True))
    publish_bundle(tmp_path, item_ids("b", 10))
    await live.refresh()
    shutil.rmtree(tmp_path / digest)
    assert taken.retrieve(SessionView(["a1"]), Options(5, exact=True)) == before
    assert live.bundle.retrieve(SessionView(["a1"]), Options(5)).unknown_item_ids == ("a1",)


async def test_the_folder_without_a_bundle_is_named_once_in_the_log_and_when_not_ready(
    live: LiveBundle, tmp_path: Path
) -> None:
    with log_lines("no bundle published") as lines:
        for _ in range(3):
            await live.refresh()
    assert len(lines) == 1
    with pytest.raises(NotReady, match=f"{tmp_path} has no link current"):
        _ = live.bundle


async def test_a_link_that_is_repaired_clears_the_refusal(live: LiveBundle, tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    await live.refresh()
    for target in ("current", "nowhere", ".."):
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to(target)
        await live.refresh()
        assert live.refusal is not None
        assert live.refusal.reason.startswith("current: links to ")
        assert live.bundle.digest == digest
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(digest)
    await live.refresh()
    assert live.refusal is None


async def test_a_refused_bundle_is_tried_again_when_its_files_change(live: LiveBundle, tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    ids = tmp_path / digest / "ids.txt"
    content = ids.read_bytes()
    ids.write_bytes(b"")
    await live.refresh()
    assert live.refusal is not None
    ids.write_bytes(content)
    await live.refresh()
    assert live.bundle.digest == digest


async def test_a_single_bundle_is_served_from_its_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-bundle"
    digest = make_bundle(folder, IDS).digest
    live = LiveBundle(folder)
    await live.refresh()
    assert (live.bundle.digest, live.refusal) == (digest, None)
    assert (await live.of(digest)) is live.bundle


async def test_a_served_file_that_changes_is_told_once_and_the_bundle_serves_on(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    bundles = tmp_path / "bundles"
    digest = publish_bundle(bundles, IDS)
    live = LiveBundle(bundles, copies=PrivateCopies(copies))
    await live.refresh()
    before = live.bundle.retrieve(SessionView(["a1"]), Options(5, exact=True))
    vectors = bundles / digest / "vectors.npy"
    content = vectors.read_bytes()
    with log_lines("bundle refused") as lines:
        os.truncate(vectors, 0)
        for _ in range(3):
            await live.refresh()
    assert len(lines) == 1
    assert live.refusal is not None
    assert live.refusal.reason.startswith("vectors.npy: 0 bytes, manifest.json says ")
    assert live.refusal.reason.endswith("The bundle serves on as it was loaded")
    assert live.bundle.retrieve(SessionView(["a1"]), Options(5, exact=True)) == before
    vectors.write_bytes(content)
    await live.refresh()
    assert live.refusal is None
    vectors.touch()
    await live.refresh()
    assert live.refusal is None


async def test_only_the_copy_of_the_serving_bundle_is_kept(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    live = LiveBundle(tmp_path / "bundles", copies=PrivateCopies(copies))
    for seed in range(3):
        digest = publish_bundle(tmp_path / "bundles", IDS, seed=seed)
        await live.refresh()
        assert [path.name for path in copies.iterdir() if path.is_dir()] == [digest]


async def test_of_earlier_bundles_only_the_copy_of_the_last_one_asked_for_is_kept(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    digests = [publish_bundle(tmp_path / "bundles", IDS, seed=seed) for seed in range(3)]
    live = LiveBundle(tmp_path / "bundles", copies=PrivateCopies(copies))
    await live.refresh()
    for digest in (*digests[:2], *digests[:2]):
        earlier = await live.of(digest)
        assert earlier is not None
        assert earlier.digest == digest
        assert {path.name for path in copies.iterdir() if path.is_dir()} == {digest, digests[2]}
