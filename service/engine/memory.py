"""Memory of processes, and how much there is."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
SHARE = 0.8


def rss_bytes(pid: int | None) -> int:
    """Return the resident memory of a process; 0 where there is none, or the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Return the memory that this machine, or the container around this process, has."""
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in CGROUP_LIMITS:
        try:
            amounts.append(int(path.read_text()))
        except (OSError, ValueError):
            continue  # no such cgroup version here, or "max": no limit
    return min(amounts)


def worker_limit(wanted: int) -> int:
    """Return the resident memory at which a worker is ended; 0 asks for a share of all there is."""
    return wanted or int(SHARE * available_bytes())
