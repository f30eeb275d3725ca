"""How much memory this process may still use."""

import os
from contextlib import suppress
from pathlib import Path


def available_memory() -> int:
    """Return the bytes of memory that this process may still use, by the machine and by its control group.

    Where the system does not tell what is free, as outside Linux, all memory of the machine counts.
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = 1024 * int(meminfo["MemAvailable"].split()[0])
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no limit, or another version of control groups
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        available = min(available, limit - used)
    return max(0, available)
