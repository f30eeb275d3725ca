"""A command that is ended by a signal leaves nothing unfinished behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onward.training.data.dataset import Dataset

SLOW_STEPS = {
    "python": """
def wait(files):
    print("waiting", flush=True)
    time.sleep(600)
""",
    "polars": """
def wait(files):  # the main thread is within one call of Polars, as for a long read
    import polars as pl
    def wait_in_thread(values):
        print("waiting", flush=True)
        time.sleep(600)
        return values
    pl.LazyFrame({"a": [1]}).select(pl.col("a").map_batches(wait_in_thread, pl.Int64)).collect(engine="streaming")
""",
}
PREPARE_SLOWLY = """
import time
from onward.training.__main__ import main
from onward.training.data.preparation import prepare
{wait}
prepare.fingerprint = wait
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", SLOW_STEPS)
def test_prepare_ended_by_a_signal_leaves_no_temporary_folder(
    number: signal.Signals, step: str, dataset: Dataset, tmp_path: Path
) -> None:
    events = str(dataset.folder.parent / "events.parquet")
    program = PREPARE_SLOWLY.format(wait=SLOW_STEPS[step])
    command = [sys.executable, "-c", program, "prepare", events, "--out", str(tmp_path / "dataset")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        assert [path.name.startswith(".dataset.") for path in tmp_path.iterdir()] == [True]
        process.send_signal(number)
        _, printed = process.communicate()
    assert process.returncode == 128 + number
    assert printed.splitlines()[-1] == f"error: ended by {number.name}"
    assert printed.count("ended by") == 1
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []
