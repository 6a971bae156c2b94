"""The signal that asks a process to end, waited for."""

from __future__ import annotations

import queue
import signal


class End:
    """SIGTERM or SIGINT, from when this is made; in the main thread.

    An exception out of a signal's handler could come in the middle of anything: between the starts of two children,
    where nobody would end the first, or in a destructor, where it would be lost. And an Event that the handler sets may
    be locked by the very code that it interrupts. A SimpleQueue is made for that.
    """

    def __init__(self) -> None:
        self._come: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: self._come.put(number))

    def comes(self, within_s: float) -> bool:
        """Return whether a signal comes within so many seconds, as soon as it does; each is told once."""
        try:
            self._come.get(timeout=within_s)
        except queue.Empty:
            return False
        return True
