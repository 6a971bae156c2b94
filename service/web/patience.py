"""A limit on how long a client may take to send its body, however evenly it dribbles."""

from __future__ import annotations

import itertools
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Patience:
    """Ends the reading of connections at their deadlines. One thread does it for all of them.

    A socket's own timeout only bounds each wait for some bytes: a client that sends one a second never meets it.

    Nothing of a block that has ended is kept: with deadlines of minutes that would be thousands of connections. There
    are no more blocks at a time than the server has threads, so that looking at all of them costs nothing.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[int, tuple[float, socket.socket]] = {}
        self._numbers = itertools.count()
        self._wakes = math.inf
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Return how many blocks wait now."""
        return len(self._waiting)

    @contextmanager
    def until(self, deadline: float, connection: socket.socket) -> Iterator[None]:
        """Let the block read from the connection until the deadline (`time.monotonic()`); then it meets its end."""
        with self._changed:
            number = next(self._numbers)
            self._waiting[number] = deadline, connection
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="patience", daemon=True)
                self._thread.start()
            if deadline < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._waiting.pop(number, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                self._end(time.monotonic())
                self._wakes = min((deadline for deadline, _connection in self._waiting.values()), default=math.inf)
                # None is for ever: the next block begins with a word.
                self._changed.wait(None if self._wakes == math.inf else max(0.0, self._wakes - time.monotonic()))

    def _end(self, now: float) -> None:
        """End the blocks whose deadline has come; in a call of its own, so that none of them stays in a variable."""
        for number in [number for number, (deadline, _connection) in self._waiting.items() if deadline <= now]:
            _deadline, connection = self._waiting.pop(number)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
