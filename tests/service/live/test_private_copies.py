"""Private copies of bundles are made once, removed when not needed or damaged, and left out where they do not fit."""

import shutil
import stat
from pathlib import Path

import pytest
import structlog

from onward.bundle import Bundle, BundleError
from onward.service.live import private_copies
from onward.service.live.private_copies import PARTIAL_PREFIX, PrivateCopies, copies_folder


def test_all_workers_load_the_same_copy_which_only_its_owner_may_read(published: Path, root: Path) -> None:
    with (
        PrivateCopies(root).of(published, verify=True) as first,
        PrivateCopies(root).of(published, verify=True) as second,
    ):
        assert first == second == root / published.name
        assert Bundle.load(first).digest == published.name
        assert {stat.S_IMODE(path.stat().st_mode) for path in first.iterdir()} == {0o400}
        assert {path.name for path in first.iterdir()} == {path.name for path in published.iterdir()}


def test_a_copy_is_made_once(published: Path, root: Path) -> None:
    with PrivateCopies(root).of(published, verify=True) as copy:
        inodes = {path.stat().st_ino for path in copy.iterdir()}
    with PrivateCopies(root).of(published, verify=True) as copy:
        assert {path.stat().st_ino for path in copy.iterdir()} == inodes


def test_a_copy_is_made_anew_if_a_worker_was_killed_while_it_made_one(published: Path, root: Path) -> None:
    partial = root / f"{PARTIAL_PREFIX}{published.name}"
    partial.mkdir()
    (partial / "ids.txt").touch()
    with PrivateCopies(root).of(published, verify=True) as copy:
        assert copy == root / published.name
        assert Bundle.load(copy).digest == published.name
    assert not partial.exists()


def test_a_copy_that_does_not_load_is_removed(published: Path, root: Path) -> None:
    content = (published / "ids.txt").read_bytes()
    (published / "ids.txt").write_bytes(content.replace(b"a1", b"b1", 1))
    with (
        pytest.raises(BundleError, match=r"ids\.txt: its SHA-256"),
        PrivateCopies(root).of(published, verify=True) as copy,
    ):
        Bundle.load(copy)
    assert not any(path.is_dir() for path in root.iterdir())
    (published / "ids.txt").write_bytes(content)
    with PrivateCopies(root).of(published, verify=True) as copy:
        assert Bundle.load(copy).digest == published.name


def test_what_is_no_bundle_is_refused_before_it_is_copied(published: Path, root: Path) -> None:
    shutil.move(published / "ids.txt", published / "other")
    with pytest.raises(BundleError, match="not listed"), PrivateCopies(root).of(published, verify=True):
        pass
    assert not any(path.is_dir() for path in root.iterdir())


@pytest.mark.parametrize("short_of", ["space", "memory"])
def test_without_space_the_published_files_are_served_with_a_warning(
    published: Path, root: Path, monkeypatch: pytest.MonkeyPatch, short_of: str
) -> None:
    if short_of == "space":
        monkeypatch.setattr(private_copies, "RESERVED_BYTES", 2**60)
    else:
        monkeypatch.setattr(private_copies, "_is_in_memory", lambda _: True)
        monkeypatch.setattr(private_copies, "available_memory", lambda: 1000)
    with structlog.testing.capture_logs() as lines, PrivateCopies(root).of(published, verify=True) as served:
        assert served == published
    assert [(line["event"], line["bundle"]) for line in lines] == [("bundle not copied", published.name)]
    assert "does not fit" in lines[0]["reason"]
    assert published.exists()


def test_a_folder_in_memory_is_known() -> None:
    assert not private_copies._is_in_memory(Path("/proc"))
    assert private_copies._is_in_memory(Path("/dev/shm"))  # noqa: S108  # nothing is written there


def test_without_their_folder_the_published_files_are_served_with_a_warning(published: Path, root: Path) -> None:
    copies = PrivateCopies(root)
    root.rmdir()  # as what cleans up temporary folders does
    with structlog.testing.capture_logs() as lines, copies.of(published, verify=True) as served:
        assert served == published
    assert [(line["event"], line["reason"]) for line in lines] == [("bundle not copied", "No such file or directory")]
    copies.prune(published.name)


def test_copies_that_another_worker_is_loading_are_not_pruned(published: Path, root: Path) -> None:
    with PrivateCopies(root).of(published, verify=True) as copy:
        PrivateCopies(root).prune("another")
        assert copy.exists()
    PrivateCopies(root).prune(published.name)
    assert copy.exists()
    PrivateCopies(root).prune("another")
    assert not copy.exists()


def test_without_a_temporary_folder_there_are_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with structlog.testing.capture_logs() as lines, copies_folder(copying=True) as folder:
        assert folder is None
    assert [line["event"] for line in lines] == ["bundle not copied"]
    with structlog.testing.capture_logs() as lines, copies_folder(copying=False) as folder:
        assert folder is None
    assert lines == []
