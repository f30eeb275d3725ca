"""A child process ends with its parent, even if the parent ended before the child could ask for that."""

import os
import subprocess
import sys
import time

import pytest

from tests.service.process import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")

CHILD = """
import sys, time
from onward.service.server.parent_death import terminate_with_parent
terminate_with_parent(int(sys.argv[1]))
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
print(child.pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.5)  # the child imports; whether it has asked by then or not, it ends
        parent.kill()
    wait_until(lambda: not is_running(child))


def test_a_child_whose_parent_has_ended_already_ends_at_once() -> None:
    child = subprocess.run([sys.executable, "-c", CHILD, "999999999"], timeout=30, check=False)
    assert child.returncode == -15


def test_a_child_of_a_living_parent_goes_on() -> None:
    program = CHILD.replace("time.sleep(60)", "print('alive')")
    child = subprocess.run(
        [sys.executable, "-c", program, str(os.getpid())], timeout=30, check=True, capture_output=True, text=True
    )
    assert child.stdout == "alive\n"
