"""The processes of a running service, from Linux's /proc."""

from pathlib import Path

from onward.service.bench.processes import memory

MIB = 2**20


def children(pid: int) -> list[int]:
    """Return the child processes: workers, embedded store, helpers of multiprocessing."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(pid: int) -> list[int]:
    """Return the worker processes of a service with several workers."""
    return [child for child in children(pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def rss_mib(pid: int) -> float:
    """Return the resident memory of a service."""
    used = memory(pid)
    return 0.0 if used is None else used.rss_bytes / MIB


def descriptors(pid: int) -> int:
    """Return the open file descriptors of a service and its workers."""
    return sum(len(list(Path(f"/proc/{process}/fd").iterdir())) for process in [pid, *workers(pid)])


def threads(pid: int) -> int:
    """Return the threads of a service and its workers."""
    return sum(len(list(Path(f"/proc/{process}/task").iterdir())) for process in [pid, *workers(pid)])
