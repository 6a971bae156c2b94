"""Memory that processes hand to each other as file descriptors.

A memfd rather than /dev/shm: the latter is 64 MB in a container, and writing past its end is a SIGBUS. Where the
system has no memfd (macOS) an unlinked temporary file does the same.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InternalError

ALIGNMENT = 64
Layout = list[dict[str, Any]]
"""Of each array `name`, `dtype`, `shape`, and where its bytes `start`."""


def create(name: str = "pointserve") -> int:
    """Return a file descriptor of new, empty, anonymous memory that grows when it is written."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    descriptor, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    return descriptor


def seal(descriptor: int) -> None:
    """Fix the size for good, so that no process that maps the memory can be shot by another that shrinks it."""
    if hasattr(fcntl, "F_ADD_SEALS"):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def view(descriptor: int) -> memoryview:
    """Return the whole content, read-only; zero bytes give an empty view. The mapping lives as long as the view."""
    size = os.fstat(descriptor).st_size
    return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ)) if size else memoryview(b"")


def pack(arrays: Mapping[str, NDArray[Any] | None]) -> tuple[int, Layout]:
    """Copy arrays into new shared memory.

    Args:
        arrays: name to array of any shape and plain dtype; entries that are None are left out.

    Returns:
        The sealed descriptor, and the layout that `unpack` needs, made of JSON values.
    """
    present = _present(arrays)
    layout, end = _lay_out(present)
    descriptor = create()
    try:
        os.ftruncate(descriptor, end)
        # Written, not mapped: memory that is mapped is filled with zeros first, page by page as it is touched.
        for entry, array in zip(layout, present.values(), strict=True):
            _write_all(descriptor, array, entry["start"])
        seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, layout


def place(arrays: Mapping[str, NDArray[Any] | None], memory: memoryview, start: int) -> Layout | None:
    """Copy arrays into memory that is there, as `pack` does.

    Args:
        arrays: as of `pack`.
        memory: where they go, from `start` on.

    Returns:
        The layout that `read` needs; None where they find no room, and then nothing was copied.
    """
    present = _present(arrays)
    layout, end = _lay_out(present, start)
    if end > len(memory):
        return None
    for entry, array in zip(layout, present.values(), strict=True):
        room = np.frombuffer(memory, array.dtype, array.size, entry["start"])
        room[:] = array.reshape(-1)
    return layout


def _present(arrays: Mapping[str, NDArray[Any] | None]) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(array) for name, array in arrays.items() if array is not None}


def _lay_out(arrays: Mapping[str, NDArray[Any]], end: int = 0) -> tuple[Layout, int]:
    """Return where arrays go that lie behind each other, and where the last one ends."""
    layout: Layout = []
    for name, array in arrays.items():
        start = -(-end // ALIGNMENT) * ALIGNMENT
        layout.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "start": start})
        end = start + array.nbytes
    return layout, end


def _write_all(descriptor: int, array: NDArray[Any], start: int) -> None:
    rest: memoryview = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while rest:
        written = os.pwrite(descriptor, rest, start)
        rest, start = rest[written:], start + written


def size(entry: Mapping[str, Any]) -> int:
    """Return how many bytes an array of a layout takes."""
    return math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize


def unpack(descriptor: int, layout: Layout) -> dict[str, NDArray[Any]]:
    """Return the arrays of `pack` as read-only views of the shared memory; the descriptor may be closed after.

    Raises:
        InternalError: the layout does not fit the memory, or would make objects of its bytes.
    """
    return read(view(descriptor), layout)


def read(memory: memoryview, layout: Layout) -> dict[str, NDArray[Any]]:
    """Return arrays as read-only views of the memory in which they lie; raises as `unpack`."""
    memory = memory.toreadonly()
    arrays = {}
    for entry in layout:
        dtype = np.dtype(entry["dtype"])
        shape = tuple(int(extent) for extent in entry["shape"])
        count = math.prod(shape)
        start = int(entry["start"])
        if dtype.hasobject or min(shape, default=0) < 0 or start < 0 or start + count * dtype.itemsize > len(memory):
            raise InternalError(f"shared array {entry['name']!r} does not fit its memory")
        arrays[str(entry["name"])] = np.frombuffer(memory, dtype, count, start).reshape(shape)
    return arrays
