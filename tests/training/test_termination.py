"""A command that is ended by a signal leaves nothing unfinished behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onward.training.data.dataset import Dataset

PREPARE_SLOWLY = """
import time
from onward.training.__main__ import main
from onward.training.data.preparation import prepare

def wait(files):
    print("waiting", flush=True)
    time.sleep(600)

prepare.fingerprint = wait
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_prepare_ended_by_a_signal_leaves_no_temporary_folder(number: int, dataset: Dataset, tmp_path: Path) -> None:
    events = str(dataset.folder.parent / "events.parquet")
    command = [sys.executable, "-c", PREPARE_SLOWLY, "prepare", events, "--out", str(tmp_path / "dataset")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        assert [path.name.startswith(".dataset.") for path in tmp_path.iterdir()] == [True]
        process.send_signal(number)
        _, printed = process.communicate()
    assert process.returncode == 128 + number
    assert b"Traceback" not in printed
    assert list(tmp_path.iterdir()) == []
