"""What processes use, as Linux tells it; nothing is known elsewhere."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
STORES = ("valkey", "redis")


class Usage(NamedTuple):
    """Processor time in seconds."""

    workers_s: float
    store_s: float | None
    """None where it is no child of the service."""


class Memory(NamedTuple):
    """Bytes of all processes but the store: each page counted for each that has it, or its part of it."""

    rss_bytes: int
    pss_bytes: int


def cpu_seconds(pid: int) -> Usage | None:
    """What a process and all that it started have used so far."""
    if not PROC.exists():
        return None
    tree = [*_tree(pid)]
    stores = {process for process in tree if _is_store(process)}
    return Usage(
        workers_s=sum(_cpu_s(process) for process in tree if process not in stores),
        store_s=sum(_cpu_s(process) for process in stores) if stores else None,
    )


def memory(pid: int) -> Memory | None:
    """What a process and all that it started hold now."""
    if not PROC.exists():
        return None
    sizes = [_memory(process) for process in _tree(pid) if not _is_store(process)]
    return Memory(sum(size.rss_bytes for size in sizes), sum(size.pss_bytes for size in sizes))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for task in [*(PROC / str(pid) / "task").iterdir()]:
            for child in _told(task / "children").split():
                yield from _tree(int(child))


def _told(path: Path) -> str:
    """What a file says, nothing where its thread or process has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_store(pid: int) -> bool:
    return any(name in _told(PROC / str(pid) / "comm") for name in STORES)


def _cpu_s(pid: int) -> float:
    """User and system time, of ended children too."""
    times = _told(PROC / str(pid) / "stat").rpartition(")")[2].split()[11:15]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> Memory:
    lines = _told(PROC / str(pid) / "smaps_rollup").splitlines()[1:]
    kib = {name.rstrip(":"): int(value) for name, value, _ in (line.split() for line in lines)}
    return Memory(1024 * kib.get("Rss", 0), 1024 * kib.get("Pss", 0))
