"""Processor time and memory of a process tree, read from Linux's /proc."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
STORES = ("valkey", "redis")


class CpuTime(NamedTuple):
    """Processor time so far, in seconds."""

    workers_s: float
    store_s: float | None
    """None if the store is not a child of the service."""


class Memory(NamedTuple):
    """Memory of all processes but the store."""

    rss_bytes: int
    """Resident set: a shared page counts once for each process."""
    pss_bytes: int
    """Proportional set: a shared page is divided among its processes."""


def cpu_seconds(pid: int) -> CpuTime | None:
    """Return the processor time of a process and its descendants; None without /proc."""
    if not PROC.exists():
        return None
    tree = [*_descendants(pid)]
    stores = {process for process in tree if _is_store(process)}
    return CpuTime(
        workers_s=sum(_cpu_s(process) for process in tree if process not in stores),
        store_s=sum(_cpu_s(process) for process in stores) if stores else None,
    )


def memory(pid: int) -> Memory | None:
    """Return the memory of a process and its descendants; None without /proc."""
    if not PROC.exists():
        return None
    sizes = [_memory(process) for process in _descendants(pid) if not _is_store(process)]
    return Memory(sum(size.rss_bytes for size in sizes), sum(size.pss_bytes for size in sizes))


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for task in [*(PROC / str(pid) / "task").iterdir()]:
            for child in _read(task / "children").split():
                yield from _descendants(int(child))


def _read(path: Path) -> str:
    """Read a file of /proc; empty if its thread or process has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_store(pid: int) -> bool:
    return any(name in _read(PROC / str(pid) / "comm") for name in STORES)


def _cpu_s(pid: int) -> float:
    """Return user and system time, including that of children that have ended."""
    times = _read(PROC / str(pid) / "stat").rpartition(")")[2].split()[11:15]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> Memory:
    lines = _read(PROC / str(pid) / "smaps_rollup").splitlines()[1:]
    kib = {name.rstrip(":"): int(value) for name, value, _ in (line.split() for line in lines)}
    return Memory(1024 * kib.get("Rss", 0), 1024 * kib.get("Pss", 0))
