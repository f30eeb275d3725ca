"""A temporary folder is there as long as its process, and those of killed processes are removed."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from onward.service.temporary_folder import remove_abandoned, temporary_folder

PREFIX = "onward-test-"
HOLDS_A_FOLDER = f"""
import sys, time
from pathlib import Path
from onward.service.temporary_folder import temporary_folder
with temporary_folder({PREFIX!r}, Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


def test_the_folder_is_private_and_removed_in_the_end(tmp_path: Path) -> None:
    with temporary_folder(PREFIX, tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").touch()
        with temporary_folder(PREFIX, tmp_path):
            assert folder.exists()
    assert not list(tmp_path.iterdir())


def test_folders_of_killed_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    other = tmp_path / "another-program"
    other.mkdir()
    command = [sys.executable, "-c", HOLDS_A_FOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        with temporary_folder(PREFIX, tmp_path):
            assert held.exists()
        process.send_signal(signal.SIGKILL)
    assert held.exists()
    with temporary_folder(PREFIX, tmp_path):
        assert not held.exists()
        assert other.exists()


def test_a_folder_that_another_service_removes_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    removed: list[Path] = []

    def late(lock: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH and not removed:
            removed.extend(tmp_path.glob(f"{PREFIX}*"))
            remove_abandoned(PREFIX, tmp_path)
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with temporary_folder(PREFIX, tmp_path) as folder:
        assert folder.exists()
        assert removed
        assert folder not in removed
        assert not removed[0].exists()
        descriptors = len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1
