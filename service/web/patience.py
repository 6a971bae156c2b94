"""A limit on how long a client may take to send its body, however evenly it dribbles."""

from __future__ import annotations

import heapq
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Patience:
    """Ends the reading of connections at their deadlines. One thread does it for all of them.

    A socket's own timeout only bounds each wait for some bytes: a client that sends one a second never meets it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, socket.socket]] = []
        self._waiting: set[int] = set()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    @contextmanager
    def until(self, deadline: float, connection: socket.socket) -> Iterator[None]:
        """Let the block read from the connection until the deadline (`time.monotonic()`); then it meets its end."""
        with self._changed:
            number = next(self._numbers)
            self._waiting.add(number)
            heapq.heappush(self._heap, (deadline, number, connection))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="patience", daemon=True)
                self._thread.start()
            if self._heap[0][1] == number:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._waiting.discard(number)

    def _watch(self) -> None:
        with self._changed:
            while True:
                while self._heap and self._heap[0][1] not in self._waiting:
                    heapq.heappop(self._heap)
                if not self._heap:
                    self._changed.wait()
                    continue
                deadline, number, connection = self._heap[0]
                left = deadline - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                self._waiting.discard(number)
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
