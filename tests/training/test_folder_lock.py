"""Locks name their holder, and end with its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onward.training.errors import InputError
from onward.training.folder_lock import LOCK, is_locked, locked, try_lock, wait_for_lock

HOLDER = """
import sys, time
from pathlib import Path
from onward.training.folder_lock import try_lock
assert try_lock(Path(sys.argv[1])) is not None
print("locked", flush=True)
time.sleep(600)
"""


def test_a_locked_folder_is_refused_in_one_line_that_names_the_process(tmp_path: Path) -> None:
    with locked(tmp_path, "wait"), pytest.raises(InputError) as refused, locked(tmp_path, "wait until it has ended"):
        pass
    assert f"{tmp_path}: is in use by process {os.getpid()} on " in str(refused.value)
    assert str(refused.value).endswith("; wait until it has ended")
    assert "\n" not in str(refused.value)
    with locked(tmp_path, "wait"):
        pass


def test_the_lock_of_a_killed_process_hinders_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        assert is_locked(tmp_path / LOCK)
        with pytest.raises(InputError, match=f"is in use by process {process.pid} on "), locked(tmp_path, "wait"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    assert not is_locked(tmp_path / LOCK)
    with locked(tmp_path, "wait"):
        pass


def test_a_lock_can_be_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "study.lock"
    with wait_for_lock(file):
        assert try_lock(file) is None
    with wait_for_lock(file):
        pass
