"""A bundle's life is a record: staged, live, retired, removed; what is protected or was live of late stays."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from onward.bundle import Author, BundleError, Retention, activate, current_digest, staged_bundles
from onward.bundle.release_record import MAX_EVENTS, RECORDS, ReleaseRecord, record_file
from onward.bundle.releases import (
    Conflict,
    find_release,
    list_releases,
    parse_period,
    protect,
    releases_version,
    remove,
    roll_back,
)
from tests.bundles import item_ids, make_bundle, publish_bundle

IDS = item_ids("a", 10)
NOW = timedelta(0)
WHY = Author("ann", "new season")


def states(bundles: Path) -> dict[str, str]:
    return {release.digest: release.state for release in list_releases(bundles)}


def published_bundles(bundles: Path, count: int) -> list[str]:
    return [publish_bundle(bundles, IDS, seed=seed) for seed in range(count)]


def test_the_states_of_a_bundle_and_what_happened_to_it(tmp_path: Path) -> None:
    first = publish_bundle(tmp_path, IDS)
    second = publish_bundle(tmp_path, IDS, seed=1, make_live=False)
    assert states(tmp_path) == {first: "live", second: "staged"}
    activate(tmp_path, second, author=WHY, overridden="recall@20 is below live")
    assert states(tmp_path) == {second: "live", first: "retired"}
    assert roll_back(tmp_path, author=WHY) == first
    remove(tmp_path, second, recent=NOW)
    assert states(tmp_path) == {first: "live", second: "removed"}
    record = find_release(tmp_path, second[:10]).record
    assert [event.what for event in record.events] == ["published", "activated", "rolled back", "removed"]
    assert (record.events[1].by, record.events[1].reason) == WHY
    assert record.events[1].overridden == "recall@20 is below live"
    assert (record.model, record.items) == ("mean", 10)
    assert not (tmp_path / second).exists()


def test_bundles_without_a_record_are_read_as_they_are(tmp_path: Path) -> None:
    digests = published_bundles(tmp_path, 3)
    staged = publish_bundle(tmp_path, IDS, seed=9, make_live=False)
    for file in (tmp_path / RECORDS).iterdir():
        file.unlink()
    (tmp_path / RECORDS).rmdir()
    for age, digest in enumerate(reversed(digests)):
        os.utime(tmp_path / digest, (10**9 - age, 10**9 - age))
    assert list(states(tmp_path).items()) == [
        (digests[2], "live"),
        (staged, "staged"),
        (digests[1], "retired"),
        (digests[0], "retired"),
    ]
    assert find_release(tmp_path, digests[1]).record.model == "mean"
    assert roll_back(tmp_path) == digests[1]


def test_repeated_rollbacks_go_further_back_and_never_to_what_was_rolled_back(tmp_path: Path) -> None:
    a, b, c = published_bundles(tmp_path, 3)
    assert [roll_back(tmp_path), roll_back(tmp_path)] == [b, a]
    with pytest.raises(BundleError, match="no bundle to roll back to"):
        roll_back(tmp_path)
    activate(tmp_path, c)
    assert roll_back(tmp_path) == a


def test_the_bundle_just_rolled_back_to_outlives_rebuilds(tmp_path: Path) -> None:
    old = publish_bundle(tmp_path, IDS)
    for seed in (1, 2):
        publish_bundle(tmp_path, IDS, seed=seed)
    activate(tmp_path, old)
    for seed in range(10, 13):
        publish_bundle(tmp_path, IDS, seed=seed, keep=2, recent=timedelta(hours=1))
    assert states(tmp_path)[old] == "retired"
    publish_bundle(tmp_path, IDS, seed=20, keep=2)
    assert states(tmp_path)[old] == "removed"


def test_a_protected_bundle_is_never_removed(tmp_path: Path) -> None:
    kept, live = published_bundles(tmp_path, 2)
    protect(tmp_path, kept, protected=True, author=WHY)
    for seed in range(10, 14):
        live = publish_bundle(tmp_path, IDS, seed=seed, keep=1)
    assert set(states(tmp_path).items()) >= {(kept, "retired"), (live, "live")}
    with pytest.raises(BundleError, match="is protected"):
        remove(tmp_path, kept, recent=NOW)
    protect(tmp_path, kept, protected=False)
    remove(tmp_path, kept, recent=NOW)
    assert states(tmp_path)[kept] == "removed"


def test_what_is_live_or_was_of_late_cannot_be_removed(tmp_path: Path) -> None:
    before, live = published_bundles(tmp_path, 2)
    for digest, reason in ((live, "is live"), (before, "was live within the last 1 hours")):
        with pytest.raises(BundleError, match=reason):
            remove(tmp_path, digest)
    staged = publish_bundle(tmp_path, IDS, seed=9, make_live=False)
    remove(tmp_path, staged)
    assert staged_bundles(tmp_path) == []
    with pytest.raises(BundleError, match="is removed already"):
        remove(tmp_path, staged)


def test_a_removed_bundle_can_be_published_again(tmp_path: Path) -> None:
    first = publish_bundle(tmp_path, IDS)
    publish_bundle(tmp_path, IDS, seed=1)
    remove(tmp_path, first, recent=NOW)
    again = publish_bundle(tmp_path, IDS)
    assert states(tmp_path)[again] == "live"


def test_two_people_at_once_are_told_apart_by_the_version(tmp_path: Path) -> None:
    before, _ = published_bundles(tmp_path, 2)
    seen = releases_version(list_releases(tmp_path))
    protect(tmp_path, before, protected=True, version=seen)
    with pytest.raises(Conflict):
        protect(tmp_path, before, protected=False, version=seen)
    assert releases_version(list_releases(tmp_path)) != seen


def test_a_broken_link_can_be_repaired_by_making_another_bundle_live(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("nowhere")
    assert states(tmp_path) == {digest: "retired"}
    activate(tmp_path, digest)
    assert current_digest(tmp_path) == digest


def test_a_damaged_record_is_named_and_changes_nothing(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    record_file(tmp_path, digest).write_text("{")
    for attempt in (lambda: list_releases(tmp_path), lambda: publish_bundle(tmp_path, IDS, seed=1)):
        with pytest.raises(BundleError, match=rf"^\.releases/{digest}\.json: .*remove this file"):
            attempt()
    assert current_digest(tmp_path) == digest
    assert ReleaseRecord.read(tmp_path, "0" * 64) is None


def test_a_single_bundle_is_the_only_release(tmp_path: Path) -> None:
    digest = make_bundle(tmp_path / "mine", IDS).digest
    assert states(tmp_path / "mine") == {digest: "live"}


def test_a_record_is_bounded_and_keeps_its_beginning(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    record = find_release(tmp_path, digest).record
    time = record.events[0].time
    for _ in range(MAX_EVENTS):
        record = record.with_event("activated", time)
    assert (len(record.events), record.events[0].what) == (MAX_EVENTS, "published")


def test_retention_removes_the_longest_retired_first(tmp_path: Path) -> None:
    a, b, c = published_bundles(tmp_path, 3)
    activate(tmp_path, a, retention=Retention(2, NOW))
    assert states(tmp_path) == {a: "live", c: "retired", b: "removed"}


def test_periods_have_units() -> None:
    assert parse_period("90m") == timedelta(minutes=90)
    with pytest.raises(ValueError, match="write a number"):
        parse_period("soon")
