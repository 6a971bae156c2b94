"""Shared memory that is used again: a request's cloud lies in it, and the answer to it finds room behind that.

New memory costs more than what is written into it: the kernel finds each page, accounts for it, and takes it back.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from service.engine import shared

SMALLEST, LARGEST = 1 << 16, 1 << 23
"""Pieces have sizes of powers of two. What is larger costs little beside the work on it, and would be much to keep."""
IDLE_BYTES = 1 << 25
IDLE_S = 5.0
"""What nobody has used for so long is given back."""


class Piece:
    """Mapped shared memory of a size that stays. One request at a time uses it.

    Attributes:
        descriptor: for another process; it is open as long as the piece is there.
        memory: the bytes.
        spoiled: whether a process that nobody waits for may still write here, so that it must not be used again.
    """

    def __init__(self, size: int) -> None:
        self._file = os.fdopen(shared.create("pool"), "r+b", buffering=0)  # closed with the last who knows the piece
        self.descriptor = self._file.fileno()
        os.ftruncate(self.descriptor, size)
        shared.seal(self.descriptor)
        self.memory = memoryview(mmap.mmap(self.descriptor, size))
        self.spoiled = False

    def close(self) -> None:
        """Give the memory back, once nothing looks into it any more."""
        self._file.close()
        self.memory = memoryview(b"")


class Pool:
    """Pieces that nobody uses at the moment, the warmest first. Safe to use from many threads.

    Args:
        idle_bytes: more than this is never kept.
        idle_s: how long a piece is kept.
    """

    def __init__(self, idle_bytes: int = IDLE_BYTES, idle_s: float = IDLE_S) -> None:
        self._idle_bytes, self._idle_s = idle_bytes, idle_s
        self._idle: dict[int, deque[tuple[float, Piece]]] = {}
        self._bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def take(self, size: int) -> Piece | None:
        """Return a piece of at least so many bytes, which hold anything; None where it would be one of the large."""
        if size > LARGEST:
            return None
        whole = max(SMALLEST, 1 << (size - 1).bit_length())
        with self._changed:
            kept = self._idle.get(whole)
            if kept:
                self._bytes -= whole
                return kept.pop()[1]
        return Piece(whole)

    def give(self, piece: Piece) -> None:
        """Keep a piece for the next request."""
        size = len(piece.memory)
        if piece.spoiled or size > self._idle_bytes:
            piece.close()
            return
        with self._changed:
            self._idle.setdefault(size, deque()).append((time.monotonic() + self._idle_s, piece))
            self._bytes += size
            while self._bytes > self._idle_bytes:
                self._drop(min(filter(None, self._idle.values()), key=lambda kept: kept[0][0]))
            if self._thread is None:
                self._thread = threading.Thread(target=self._tidy, name="pool", daemon=True)
                self._thread.start()

    def _drop(self, kept: deque[tuple[float, Piece]]) -> None:
        _until, piece = kept.popleft()
        self._bytes -= len(piece.memory)
        piece.close()

    def _tidy(self) -> None:
        """Give back what nobody uses, also while there are no requests."""
        with self._changed:
            while self._bytes:
                now = time.monotonic()
                for kept in self._idle.values():
                    while kept and kept[0][0] <= now:
                        self._drop(kept)
                self._changed.wait(self._idle_s / 5)
            self._thread = None


class Mappings:
    """Other processes' pieces, mapped here once and not anew for each cloud. One thread uses it.

    A piece is known by its number in the file system, which no other gets as long as it is mapped.

    Args:
        most_bytes: more than this is not kept.
        idle_s: how long a mapping is kept.
        clock: what time it is.
    """

    def __init__(
        self, most_bytes: int = 2 * IDLE_BYTES, idle_s: float = IDLE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes, self._idle_s, self._clock = most_bytes, idle_s, clock
        self._kept: OrderedDict[tuple[int, int], tuple[float, memoryview]] = OrderedDict()
        self._bytes = 0

    def of(self, descriptor: int) -> memoryview:
        """Return the whole memory of a piece; what is written there the others see."""
        status = os.fstat(descriptor)
        key = status.st_dev, status.st_ino
        _, memory = self._kept.pop(key, (0.0, None))
        if memory is None:
            memory = memoryview(mmap.mmap(descriptor, status.st_size))
            self._bytes += len(memory)
        self._kept[key] = self._clock() + self._idle_s, memory
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            self._drop()
        self.forget_idle()
        return memory

    def forget_idle(self) -> None:
        """Give back what was not used lately."""
        while self._kept and next(iter(self._kept.values()))[0] <= self._clock():
            self._drop()

    def __iter__(self) -> Iterator[memoryview]:
        """Return what is mapped now."""
        return iter([memory for _until, memory in self._kept.values()])

    def _drop(self) -> None:
        _key, (_until, memory) = self._kept.popitem(last=False)
        self._bytes -= len(memory)
