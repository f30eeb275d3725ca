"""`current` always links to a complete bundle, even if a publisher crashes."""

import fcntl
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from onward.bundle import (
    Bundle,
    BundleError,
    Retention,
    activate,
    current_digest,
    find_bundle,
    publish,
    report_file,
    stage,
    staged_bundles,
    write_manifest,
)
from tests.bundles import add_probes, item_ids, publish_bundle, write_files

IDS = item_ids("a", 20)

# Publishes in a forked child that is killed at its n-th change to the file system, for n = 1, 2, ... until one ends.
KILLED_AT_EVERY_STEP = """
import os, shutil, signal, sys
from pathlib import Path
from onward.bundle import Bundle, current_digest
from tests.bundles import publish_bundle

bundles, ids = Path(sys.argv[1]), ["a", "b", "c"]
steps = 0

def counted(function, fatal_step):
    def step(*arguments, **options):
        global steps
        steps += 1
        if steps == fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return step

def publish_until(fatal_step):
    for name in ("mkdir", "rename", "replace", "symlink", "unlink", "rmdir", "fsync"):
        setattr(os, name, counted(getattr(os, name), fatal_step))
    publish_bundle(bundles, ids, seed=fatal_step, keep=2)

for fatal_step in range(1, 1000):
    if (child := os.fork()) == 0:
        publish_until(fatal_step)
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    if (checker := os.fork()) == 0:
        Bundle.load(bundles / "current")
        for entry in bundles.iterdir():
            if not entry.name.startswith("."):
                Bundle.load(entry)
        os._exit(0)
    assert os.waitpid(checker, 0)[1] == 0, f"no complete bundle after step {fatal_step}"
    if not killed:
        print(fatal_step - 1)
        break
"""


def names(bundles: Path) -> set[str]:
    return {entry.name for entry in bundles.iterdir()}


def test_a_published_bundle_is_named_by_its_digest_and_current(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    assert names(tmp_path) == {digest, "current", ".lock", ".releases"}
    assert current_digest(tmp_path) == digest == Bundle.load(tmp_path / "current").digest


def test_published_files_are_read_only_and_other_users_may_read_them(tmp_path: Path) -> None:
    folder = tmp_path / publish_bundle(tmp_path, IDS)
    umask = os.umask(0)
    os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444 & ~umask}


def test_the_newest_bundles_and_the_current_one_are_kept(tmp_path: Path) -> None:
    digests = [publish_bundle(tmp_path, IDS, seed=seed, keep=3) for seed in range(5)]
    assert names(tmp_path) == {*digests[2:], "current", ".lock", ".releases"}
    assert publish_bundle(tmp_path, IDS, seed=9, keep=1) in names(tmp_path)
    assert len(names(tmp_path)) == 4


def test_a_staged_bundle_is_not_live_until_it_is_activated(tmp_path: Path) -> None:
    live = publish_bundle(tmp_path, IDS)
    staged = [publish_bundle(tmp_path, IDS, seed=seed, make_live=False) for seed in (1, 2)]
    assert current_digest(tmp_path) == live
    assert staged_bundles(tmp_path) == staged[::-1]
    activate(tmp_path, staged[0])
    assert current_digest(tmp_path) == staged[0] == Bundle.load(tmp_path / "current").digest
    assert staged_bundles(tmp_path) == staged[1:]
    assert live in names(tmp_path)


def test_the_first_bundle_of_a_folder_may_be_staged(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS, make_live=False)
    assert current_digest(tmp_path) is None
    activate(tmp_path, digest)
    assert current_digest(tmp_path) == digest


def test_staged_bundles_are_kept_and_do_not_count(tmp_path: Path) -> None:
    staged = {publish_bundle(tmp_path, IDS, seed=seed, keep=2, make_live=False) for seed in range(10, 14)}
    digests = [publish_bundle(tmp_path, IDS, seed=seed, keep=2) for seed in range(4)]
    assert {name for name in names(tmp_path) if not name.startswith(".")} == {*staged, *digests[2:], "current"}


def test_a_bundle_that_went_live_is_pruned_in_the_order_in_which_bundles_went_live(
    tmp_path: Path,
) -> None:
    late = publish_bundle(tmp_path, IDS, make_live=False)
    report_file(tmp_path, late).write_text("{}")
    before, after = (publish_bundle(tmp_path, IDS, seed=seed) for seed in (1, 2))
    activate(tmp_path, late, retention=Retention(2, timedelta(0)))
    assert before not in names(tmp_path)
    activate(tmp_path, after, retention=Retention(1, timedelta(0)))
    assert names(tmp_path) == {after, f"{late}.gate.json", "current", ".lock", ".releases"}


def test_only_a_whole_published_bundle_can_be_activated(tmp_path: Path) -> None:
    live, damaged = publish_bundle(tmp_path, IDS), publish_bundle(tmp_path, IDS, seed=1, make_live=False)
    (tmp_path / damaged / "ids.txt").unlink()
    with pytest.raises(BundleError, match=r"ids\.txt"):
        activate(tmp_path, damaged)
    with pytest.raises(BundleError):
        activate(tmp_path, "0" * 64)
    assert current_digest(tmp_path) == live


def test_a_bundle_is_found_by_the_beginning_of_its_digest(tmp_path: Path) -> None:
    digest, other = (publish_bundle(tmp_path, IDS, seed=seed) for seed in (0, 1))
    assert find_bundle(tmp_path, digest[:12]) == digest
    with pytest.raises(BundleError, match=f"no such bundle; there are: {other[:12]}, {digest[:12]}"):
        find_bundle(tmp_path, "x")
    with pytest.raises(BundleError, match="several bundles begin so"):
        find_bundle(tmp_path, "")


def test_a_bundle_that_does_not_load_is_not_published(tmp_path: Path) -> None:
    digest = publish_bundle(tmp_path, IDS)
    with stage(tmp_path) as folder:
        manifest = write_files(folder, IDS)
        with pytest.raises(BundleError, match="no probes"):
            publish(folder, manifest, tmp_path)
        (folder / "ids.txt").unlink()
        with pytest.raises(BundleError, match=r"^ids.txt: missing"):
            publish(folder, manifest, tmp_path)
    assert names(tmp_path) == {digest, "current", ".lock", ".releases"}
    assert current_digest(tmp_path) == digest


def test_publishing_is_idempotent(tmp_path: Path) -> None:
    with stage(tmp_path) as folder:
        manifest = add_probes(folder, write_files(folder, IDS), IDS)
        digest = publish(folder, manifest, tmp_path)
    with stage(tmp_path) as folder:
        write_files(folder, IDS)
        assert publish(folder, manifest, tmp_path) == digest
    assert names(tmp_path) == {digest, "current", ".lock", ".releases"}


def test_abandoned_staging_folders_are_removed_and_active_ones_stay(tmp_path: Path) -> None:
    (tmp_path / ".staging-abandoned").mkdir()
    (tmp_path / ".staging-abandoned" / "vectors.npy").write_bytes(b"half")
    with stage(tmp_path) as active:
        publish_bundle(tmp_path, IDS)
        assert active.is_dir()
    assert not (tmp_path / ".staging-abandoned").exists()


@pytest.mark.slow
def test_a_publisher_killed_at_any_step_leaves_a_complete_current_bundle(tmp_path: Path) -> None:
    publish_bundle(tmp_path, IDS)
    program = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
    assert not list(tmp_path.glob(".staging-*"))


def test_concurrent_publishers_take_turns_and_leave_complete_bundles(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda seed: publish_bundle(tmp_path, IDS, seed=seed, keep=10), range(8)))
    assert names(tmp_path) == {*digests, "current", ".lock", ".releases"}
    assert current_digest(tmp_path) in digests
    assert [Bundle.load(tmp_path / digest).digest for digest in digests] == digests


def test_waiting_for_another_publisher_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_bundle(tmp_path, IDS)
    monkeypatch.setattr(sys.modules["onward.bundle.publisher_lock"], "LOCK_TIMEOUT_S", 0.1)
    with (tmp_path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BundleError, match=r"^\.lock: another publisher"):
            publish_bundle(tmp_path, IDS)


def test_a_damaged_bundle_of_the_same_digest_is_not_made_current(tmp_path: Path) -> None:
    with stage(tmp_path) as folder:
        manifest = add_probes(folder, write_files(folder, IDS), IDS)
        digest = publish(folder, manifest, tmp_path)
    publish_bundle(tmp_path, IDS, seed=1)
    (tmp_path / digest / "ids.txt").write_text("")
    with stage(tmp_path) as folder:
        write_files(folder, IDS)
        with pytest.raises(BundleError, match="remove the folder"):
            publish(folder, manifest, tmp_path)
    assert current_digest(tmp_path) != digest


def test_a_folder_without_a_current_bundle_has_no_digest(tmp_path: Path) -> None:
    assert current_digest(tmp_path) is None
    (tmp_path / "current").mkdir()
    with pytest.raises(BundleError, match=r"^current: not a link"):
        current_digest(tmp_path)


def test_the_manifest_is_completed_in_place(tmp_path: Path) -> None:
    complete = write_manifest(tmp_path, write_files(tmp_path, IDS))
    assert set(complete.files) == {entry.name for entry in tmp_path.iterdir()} - {"manifest.json"}
