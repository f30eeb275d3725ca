"""What processes use, as Linux tells it; nothing is known elsewhere."""

import os
from collections.abc import Iterator
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
    for task in (PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))


def _is_store(pid: int) -> bool:
    return any(name in (PROC / str(pid) / "comm").read_text() for name in STORES)


def _cpu_s(pid: int) -> float:
    """User and system time, of ended children too."""
    user, system, of_children, system_of_children = (
        (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[11:15]
    )
    return sum(map(int, (user, system, of_children, system_of_children))) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> Memory:
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    kib = {name.rstrip(":"): int(value) for name, value, _ in (line.split() for line in lines)}
    return Memory(1024 * kib["Rss"], 1024 * kib["Pss"])
