"""A bundle is hashed by the first worker that serves it, and again when anything says that it may have changed."""

import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from onward.bundle import Bundle, BundleError, read_manifest
from onward.bundle.files import manifest as manifest_module
from onward.service.live import stamps
from onward.service.live.bundle import LiveBundle
from onward.service.live.private_copies import PrivateCopies
from onward.service.live.stamps import STAMP_PREFIX, Stamps
from tests.bundles import item_ids, make_bundle, publish_bundle

IDS = item_ids("a", 10)
DAMAGED = r"ids\.txt: its SHA-256 is not the one in manifest\.json"


@pytest.fixture(autouse=True)
def _on_a_local_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "file_system", lambda _: "ext4")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Collect the files that are hashed, one path for each time."""
    return collect_hashed(monkeypatch)


def collect_hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    files: list[Path] = []
    describe_file = manifest_module.describe_file

    def counted(path: Path) -> manifest_module.FileEntry:
        files.append(path)
        return describe_file(path)

    monkeypatch.setattr(manifest_module, "describe_file", counted)
    return files


def files_of(folder: Path) -> list[Path]:
    return [folder / name for name in read_manifest(folder)[0].files]


def load(published: Path, root: Path, *, copying: bool = True) -> Bundle:
    """Load a bundle as a worker that has just started."""
    with PrivateCopies(root, copying=copying).of(published, verify=True) as folder:
        return Bundle.load(folder, hashed=True)


def test_the_first_worker_hashes_each_file_once_and_later_ones_none(
    published: Path, root: Path, hashed: list[Path]
) -> None:
    for _ in range(3):
        assert load(published, root).digest == published.name
    assert hashed == files_of(root / published.name)


async def test_workers_that_serve_share_what_one_has_hashed(published: Path, root: Path, hashed: list[Path]) -> None:
    for _ in range(3):
        live = LiveBundle(published.parent, copies=PrivateCopies(root))
        await live.refresh()
        assert live.bundle.digest == published.name
    assert hashed == files_of(root / published.name)


async def test_a_damaged_bundle_is_refused_by_each_worker_with_its_reason(published: Path, root: Path) -> None:
    damage(published / "ids.txt")
    for _ in range(3):
        live = LiveBundle(published.parent, copies=PrivateCopies(root))
        await live.refresh()
        assert live.refusal is not None
        assert live.refusal.reason.startswith("ids.txt: its SHA-256")
        assert not (root / published.name).exists()


@pytest.mark.parametrize("copying", [True, False])
def test_workers_that_start_at_once_hash_once(published: Path, root: Path, hashed: list[Path], copying: bool) -> None:
    read_only(published)
    assert at_once(lambda: load(published, root, copying=copying).digest) == [published.name] * 3
    assert hashed == files_of(root / published.name if copying else published)


@pytest.mark.parametrize("copying", [True, False])
def test_workers_that_start_at_once_all_refuse_a_damaged_bundle(published: Path, root: Path, copying: bool) -> None:
    damage(published / "ids.txt")
    read_only(published)

    def refusal() -> str:
        with pytest.raises(BundleError) as error:
            load(published, root, copying=copying)
        return str(error.value)

    for reason in at_once(refusal):
        assert reason.startswith("ids.txt: its SHA-256 is not the one in manifest.json")
    assert not any(path.is_dir() for path in root.iterdir())


def at_once(work: Callable[[], str]) -> list[str]:
    """Return what three workers return that start together."""
    barrier = threading.Barrier(3)

    def worker() -> str:
        barrier.wait(30)
        return work()

    with ThreadPoolExecutor(3) as pool:
        return [future.result(60) for future in [pool.submit(worker) for _ in range(3)]]


@pytest.mark.slow
@pytest.mark.skipif(
    stamps.file_system(Path(tempfile.gettempdir())) not in stamps.LOCAL_FILE_SYSTEMS, reason="TMPDIR is not local"
)
def test_processes_that_start_at_once_hash_once(published: Path, root: Path) -> None:
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(hashed_by_process, published, root) for _ in range(3)]
        counts = sorted(future.result(120) for future in futures)
    assert counts == [0, 0, len(files_of(published))]


def hashed_by_process(published: Path, root: Path) -> int:
    """Load a bundle; return how many files were hashed for that."""
    with pytest.MonkeyPatch.context() as patch:
        files = collect_hashed(patch)
        load(published, root)
    return len(files)


def damage(file: Path) -> None:
    """Change a file in place to as many other bytes, and give it back its time."""
    times = file.stat()
    file.chmod(0o600)
    content = file.read_bytes()
    with file.open("r+b") as opened:
        opened.write(content.replace(b"a1", b"b1", 1))
    file.chmod(times.st_mode)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(file: Path) -> None:
    """Put another file of the same size and time in the place of a file."""
    shutil.copy2(file, file.with_name("other"))
    damage(file.with_name("other"))
    os.replace(file.with_name("other"), file)


def rewrite(file: Path) -> None:
    """Truncate a file and write as many other bytes."""
    file.chmod(0o600)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"a1", b"b1", 1))
    file.chmod(0o400)


@pytest.mark.parametrize("tamper", [damage, replace, rewrite])
@pytest.mark.parametrize("copying", [True, False])
def test_a_file_that_was_changed_is_hashed_again_and_refused(
    published: Path, root: Path, copying: bool, tamper: Callable[[Path], None]
) -> None:
    read_only(published)
    load(published, root, copying=copying)
    tamper((root / published.name if copying else published) / "ids.txt")
    with pytest.raises(BundleError, match=DAMAGED):
        load(published, root, copying=copying)


def test_a_file_that_was_changed_right_after_it_was_hashed_is_hashed_again(published: Path, root: Path) -> None:
    for _ in range(20):  # each within a tick of the file system's clock
        load(published, root)
        damage(root / published.name / "ids.txt")
        with pytest.raises(BundleError, match=DAMAGED):
            load(published, root)


def test_the_same_file_written_anew_is_hashed_again_and_served(published: Path, root: Path, hashed: list[Path]) -> None:
    load(published, root)
    (root / published.name / "ids.txt").touch()
    hashed.clear()
    load(published, root)
    load(published, root)
    assert hashed == files_of(root / published.name)


def test_a_file_that_is_gone_or_too_many_is_refused(published: Path, root: Path) -> None:
    load(published, root)
    (root / published.name / "more").touch()
    with pytest.raises(BundleError, match="more: not listed"):
        load(published, root)
    load(published, root)
    (root / published.name / "ids.txt").unlink()
    with pytest.raises(BundleError, match=r"ids\.txt: No such file"):
        load(published, root)


def halve(stamp: Path) -> None:
    content = stamp.read_bytes()
    stamp.chmod(0o600)
    stamp.write_bytes(content[: len(content) // 2])


def link(stamp: Path) -> None:
    os.replace(stamp, stamp.with_name("other"))
    stamp.symlink_to("other")


def name_another(stamp: Path) -> None:
    content = stamp.read_bytes()
    stamp.chmod(0o600)
    stamp.write_bytes(content.replace(stamp.name.removeprefix(STAMP_PREFIX).encode(), b"0" * 64))


def remove(stamp: Path) -> None:
    stamp.unlink()


def let_others_write(stamp: Path) -> None:
    stamp.chmod(0o620)


@pytest.mark.parametrize("change", [halve, link, name_another, remove, let_others_write])
def test_a_stamp_that_is_not_whole_and_our_own_is_not_believed(
    published: Path, root: Path, hashed: list[Path], change: Callable[[Path], None]
) -> None:
    load(published, root)
    hashed.clear()
    change(root / f"{STAMP_PREFIX}{published.name}")
    load(published, root)
    load(published, root)
    assert hashed == files_of(root / published.name)


def test_a_stamp_of_another_bundle_is_not_believed(published: Path, root: Path, hashed: list[Path]) -> None:
    other = published.parent / publish_bundle(published.parent, IDS, seed=1)
    load(published, root)
    load(other, root)
    hashed.clear()
    shutil.copy2(root / f"{STAMP_PREFIX}{other.name}", root / f"{STAMP_PREFIX}{published.name}")
    load(published, root)
    assert hashed == files_of(root / published.name)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o755])
def test_a_folder_that_is_not_private_is_not_believed(
    published: Path, root: Path, hashed: list[Path], mode: int
) -> None:
    load(published, root)
    root.chmod(mode)
    for _ in range(2):
        hashed.clear()
        load(published, root)
        assert hashed == files_of(root / published.name)


def test_a_folder_of_another_user_is_not_believed(
    published: Path, root: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(published, root)
    hashed.clear()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    load(published, root)
    assert hashed == files_of(root / published.name)


def test_a_stamp_of_another_user_is_not_believed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = root / f"{STAMP_PREFIX}digest"
    stamp.write_bytes(b"state")
    assert Stamps(root)._read("digest") == b"state"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert Stamps(root)._read("digest") is None


def test_a_bundle_that_changes_while_it_is_hashed_gets_no_stamp(
    published: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe_file = manifest_module.describe_file

    def describe_and_touch(path: Path) -> manifest_module.FileEntry:
        entry = describe_file(path)
        path.touch()
        return entry

    monkeypatch.setattr(manifest_module, "describe_file", describe_and_touch)
    load(published, root)
    assert not list(root.glob(f"{STAMP_PREFIX}*"))


def test_files_with_a_time_to_come_get_no_stamp(published: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - 10**10)  # the clock was set back
    load(published, root)
    assert not list(root.glob(f"{STAMP_PREFIX}*"))


def test_a_stamp_that_cannot_be_written_is_left_out(
    published: Path, root: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[Path]
) -> None:
    def no_space(self: Stamps, digest: str, state: bytes) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Stamps, "_write", no_space)
    load(published, root)
    load(published, root)
    assert len(hashed) == 2 * len(files_of(published))


def test_what_is_loaded_without_verification_is_hashed_before_it_serves(
    published: Path, root: Path, hashed: list[Path]
) -> None:
    with PrivateCopies(root).of(published, verify=False) as copy:
        assert hashed == []
    load(published, root)
    assert hashed == files_of(copy)


def test_the_stamp_goes_with_the_copy(published: Path, root: Path) -> None:
    load(published, root)
    PrivateCopies(root).prune("another")
    assert not list(root.glob(f"{STAMP_PREFIX}*"))


def read_only(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)


def test_published_files_that_only_their_owner_could_change_are_hashed_once(
    published: Path, root: Path, hashed: list[Path]
) -> None:
    read_only(published)
    for _ in range(3):
        load(published, root, copying=False)
    assert hashed == files_of(published)


def test_published_files_that_others_may_write_to_are_hashed_by_each_worker(
    published: Path, root: Path, hashed: list[Path]
) -> None:
    read_only(published)
    (published / "ids.txt").chmod(0o664)
    for _ in range(2):
        load(published, root, copying=False)
    assert hashed == 2 * files_of(published)


@pytest.mark.parametrize("kind", ["nfs4", "fuse", None])
def test_files_of_other_machines_are_hashed_by_each_worker(
    published: Path, root: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    read_only(published)
    monkeypatch.setattr(stamps, "file_system", lambda _: kind)
    for _ in range(2):
        load(published, root, copying=False)
    assert hashed == 2 * files_of(published)


def test_a_link_to_a_single_bundle_is_verified_where_it_leads(tmp_path: Path, root: Path, hashed: list[Path]) -> None:
    bundle = make_bundle(tmp_path / "mine", IDS)
    (tmp_path / "link").symlink_to("mine")
    hashed.clear()
    with PrivateCopies(root, copying=False).of(tmp_path / "link", verify=True) as served:
        assert served == tmp_path / "mine"
        assert Bundle.load(served, hashed=True).digest == bundle.digest
    assert hashed == files_of(tmp_path / "mine")


def test_an_unreadable_file_is_refused(published: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(path: Path) -> manifest_module.FileEntry:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(manifest_module, "describe_file", unreadable)
    with pytest.raises(BundleError, match=r"Input/output error"):
        load(published, root)
