"""Room on the disk for what a web process counts, taken before it counts.

prometheus_client maps files with holes. Where the disk is full, the first number that falls into a hole ends the
process (SIGBUS), and the next process dies of the same as it starts.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import prometheus_client.values
import structlog
from prometheus_client.mmap_dict import MmapedDict

BYTES = 1 << 18
"""Room for the counts of some hundred models, in each of a process's three or four files."""
log = structlog.get_logger()


class ReservedDict(MmapedDict):
    """A file of counts whose blocks exist; in memory, and so missing from /metrics, where the disk has none left."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        super().__init__(filename if read_mode or _reserve(filename, BYTES) else _in_memory(), read_mode)

    def _init_value(self, key: str) -> None:
        """Begin a new count, on blocks of which there are enough."""
        if self._used + len(key.encode()) + 64 > self._capacity and not _reserve(self._f.fileno(), 2 * self._capacity):
            self._move()
        super()._init_value(key)

    def _move(self) -> None:
        """Go on in memory with what was counted so far."""
        content = self._m[: self._used]
        self._m.close()
        self._f.close()
        super().__init__(_in_memory())
        self._m[: len(content)] = content
        self._used = len(content)


def _reserve(file: str | int, size: int) -> bool:
    """Return whether a file has blocks for so many bytes now; one that could not be made is not there."""
    try:
        with open(file, "ab", closefd=isinstance(file, str)) as own:
            os.posix_fallocate(own.fileno(), 0, max(size, os.fstat(own.fileno()).st_size))
    except OSError as error:
        with contextlib.suppress(OSError):  # the log may stand on the same disk, and is not set up yet at the start
            log.warning("no room for counts on the disk", reason=str(error))
        if isinstance(file, str):
            Path(file).unlink(missing_ok=True)
        return False
    return True


def _in_memory() -> str:
    """Return the path of a file in memory, which stays as long as this process."""
    descriptor = os.memfd_create("counts")
    os.ftruncate(descriptor, BYTES)
    return f"/proc/self/fd/{descriptor}"


def install() -> None:
    """Have the library keep its counts so; before the first of them."""
    prometheus_client.values.MmapedDict = ReservedDict  # type: ignore[misc]
