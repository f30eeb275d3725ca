"""The bundle to serve is found by the link `current` or by its own folder; anything else is refused by its name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from onward.bundle import BundleError, PublishedBundles
from tests.bundles import item_ids, make_bundle, publish_bundle

IDS = item_ids("a", 10)


def link(bundles: Path, target: str) -> None:
    (bundles / "current").unlink(missing_ok=True)
    (bundles / "current").symlink_to(target)


def test_current_may_be_a_relative_or_absolute_link_into_the_folder(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    published = PublishedBundles(tmp_path)
    for target in (digest, f"./{digest}", str(tmp_path / digest)):
        link(tmp_path, target)
        assert published.current() == digest
        assert published.folder(digest) == tmp_path / digest


def test_a_folder_of_bundles_may_be_a_link(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path / "bundles", IDS)
    (tmp_path / "link").symlink_to("bundles")
    assert PublishedBundles(tmp_path / "link").current() == digest


def test_a_bundle_is_found_by_its_own_folder_or_a_link_to_it(tmp_path: Path) -> None:
    earlier, digest = publish_bundle(tmp_path, IDS), publish_bundle(tmp_path, IDS, seed=1)
    for path in (tmp_path / digest, tmp_path / "current"):
        published = PublishedBundles(path)
        assert published.current() == digest
        assert published.folder(digest) == tmp_path / digest
        assert published.folder(earlier) == tmp_path / earlier
    followed = PublishedBundles(tmp_path / "current")
    link(tmp_path, earlier)
    assert followed.current() == earlier


def test_a_bundle_in_a_folder_of_any_name_is_named_by_its_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "my-bundle"
    digest = make_bundle(folder, IDS).digest
    published = PublishedBundles(folder)
    assert (published.current(), published.folder(digest)) == (digest, folder)


def test_without_current_nothing_is_published(tmp_path: Path) -> None:
    assert PublishedBundles(tmp_path).current() is None


def outside(bundles: Path) -> None:
    (bundles.parent / "elsewhere").mkdir()
    link(bundles, "../elsewhere")


def deeper(bundles: Path) -> None:
    (bundles / "a" / "b").mkdir(parents=True)
    link(bundles, "a/b")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda bundles: (bundles / "current").mkdir(), "current: not a link to a bundle in "),
        (lambda bundles: (bundles / "current").write_text("x"), "current: not a link to a bundle in "),
        (lambda bundles: link(bundles, "current"), "current: links to itself in "),
        (lambda bundles: link(bundles, "gone"), "current: links to gone, which does not exist"),
        (lambda bundles: link(bundles, "."), "current: links to ., which is not in "),
        (lambda bundles: link(bundles, "/"), "current: links to /, which is not in "),
        (outside, "current: links to ../elsewhere, which is not in "),
        (deeper, "current: links to a/b, which is not in "),
    ],
)
def test_any_other_current_is_refused(tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    damage(bundles)
    with pytest.raises(BundleError) as refused:
        PublishedBundles(bundles).current()
    assert str(refused.value).startswith(reason)


def test_a_folder_that_is_gone_or_a_file_has_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="Not a directory"):
        PublishedBundles(tmp_path / "file").current()
    assert PublishedBundles(tmp_path / "gone").current() is None
