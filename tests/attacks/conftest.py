"""A service with small limits for the attacks, and what must be as it was after each of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.http.conftest import Service, start, start_service, wait_ready

__all__ = ["start_service"]

LIMITS = {
    "MAX_BODY_BYTES": str(64 << 20),
    "MAX_POINTS": "1000000",
    "READER_MEMORY_BYTES": str(1 << 30),
    "READER_CPU_S": "20",
    "DEADLINE_S": "60",
}
SETTLE_S = 20.0


@pytest.fixture(scope="package")
def fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service under attack."""
    running = start(tmp_path_factory.mktemp("fortress"), **LIMITS)
    try:
        wait_ready(running)
        yield running
        assert running.process.poll() is None, "an attack ended the service:\n" + running.log.read_text()[-5000:]
    finally:
        running.stop()


def shared_memory(pid: int) -> int:
    """Return how many descriptors of shared memory a process holds."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += "memfd:" in os.readlink(link)
    return count


def leaked(service: Service) -> dict[str, int]:
    """Return the descriptors of shared memory that each of the service's processes holds."""
    members = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
    held: dict[str, int] = {}
    for member in members:
        with contextlib.suppress(psutil.Error, OSError):
            name = next((word for word in member.cmdline() if word.startswith(("service.", "gunicorn"))), "?")
            held[name] = held.get(name, 0) + shared_memory(member.pid)
    return held


def check_whole(service: Service, before: dict[str, object]) -> None:
    """Assert that the service is ready with the processes it had, and holds nothing of what was sent."""
    assert service.get("/health").status_code == 200
    after = service.processes()
    for name in ("engine_pid", "worker_pid", "worker_starts"):
        assert after[name] == before[name], f"{name}: {service.log.read_text()[-3000:]}"
    until = time.monotonic() + SETTLE_S
    while any((held := leaked(service)).values()):
        assert time.monotonic() < until, f"shared memory is still held: {held}"
        time.sleep(0.1)
    queue = service.get("/health").json()["queue"]
    assert (queue["requests"], queue["points"]) == (0, 0)
