"""A body of 120 MB: the most memory that it takes beyond what the web process has without it.

    python -m benchmarks.large_body [--repeats 3]

What counts is what the web process has allocated, and the shared memory that it maps or holds open, once each. The
answer counts too: the NPZ is as large as the body, and comes when that is gone. Issue: at most 1.3 times the body; goal
1.05.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.load import Connection, infer, post
from benchmarks.running import Running, serving, show
from benchmarks.stub_model import points

POINTS = 10_000_000


def held_bytes(process: psutil.Process) -> int:
    """Return a process's private memory and the shared memory that it has open or mapped."""
    total = 0
    with contextlib.suppress(psutil.Error, OSError):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    seen = set()
    for link in _descriptors(process.pid):
        with contextlib.suppress(OSError):
            status = os.stat(link)
            if "memfd:" in os.readlink(link) and status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_blocks * 512
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            where, _, _, _, inode, *name = line.split(maxsplit=5)
            if name and name[0].startswith("/memfd:") and int(inode) not in seen:
                seen.add(int(inode))
                begin, end = (int(number, 16) for number in where.split("-"))
                total += end - begin
    return total


def _descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def peak_of(process: psutil.Process, ended: threading.Event) -> int:
    """Return the most that the process held until the event."""
    peak = 0
    while not ended.is_set():
        peak = max(peak, held_bytes(process))
        time.sleep(0.002)
    return peak


def requests_of(count: int) -> dict[str, bytes]:
    """Return a cloud of so many points in the forms in which clients send it."""
    cloud = points(count)
    file = io.BytesIO()
    np.save(file, cloud)
    kind = "application/octet-stream"
    return {
        "/v2 infer, binary tensors": infer(cloud, "stub"),
        "/v1/segment, NPY in, JSON out": post("/v1/segment", file.getvalue(), kind),
        "/v1/segment, NPY in, NPZ out": post("/v1/segment?output=npz", file.getvalue(), kind),
    }


def extra(running: Running, request: bytes) -> tuple[int, float]:
    """Send a request; return its status, and the most that the web process held for it, in bodies."""
    web, peaks, ended = running.web(), [], threading.Event()
    Connection(running.port).ask(infer(points(1000), "stub"))
    before = held_bytes(web)
    watcher = threading.Thread(target=lambda: peaks.append(peak_of(web, ended)))
    watcher.start()
    status = Connection(running.port).ask(request).status
    ended.set()
    watcher.join()
    return status, (peaks[0] - before) / len(request)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    with serving(1.0, READER_MEMORY_BYTES=str(8 << 30)) as running:
        for name, request in requests_of(POINTS).items():
            statuses, extras = zip(*(extra(running, request) for _ in range(arguments.repeats)), strict=True)
            size, worst = len(request) / 1e6, max(extras)
            rows.append((name, str(max(statuses)), f"{size:.0f} MB", f"{worst * size:.0f} MB", f"{worst:.3f}x"))
    columns = ("request", "status", "body", "extra memory, peak", "of the body")
    show("one large body; must 1.3x, goal 1.05x", columns, rows)


if __name__ == "__main__":
    main()
