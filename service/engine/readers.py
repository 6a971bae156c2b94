"""The engine's readers: a fixed number of them, each lent to one request at a time, to decode, write or measure."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from service.engine.channel import ChannelClosed, Message, close_all
from service.engine.child import Child
from service.errors import DeadlineExceeded, NotReady, ReaderFailed
from service.settings import Settings

START_S = 60.0
log = structlog.get_logger()


class Readers:
    """A pool of reader processes. Safe to use from many threads.

    Args:
        settings: how many readers, and their limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._children: set[Child] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.replaced = 0
        for _ in range(settings.readers):
            self._idle.put(None)
        # They start while the worker loads its models, not on the first request.
        for _ in range(settings.readers):
            threading.Thread(target=self._warm, daemon=True).start()

    def run(self, message: Message, descriptors: tuple[int, ...], deadline: float) -> tuple[Message, list[int]]:
        """Have a reader do a job and return its reply with its descriptors, which the caller must close.

        Raises:
            DeadlineExceeded: no reader was free, or the job was not done, by the deadline (`time.monotonic()`).
            ReaderFailed: the reader died of the file; the sentence says how.
        """
        while True:
            with self._lend(deadline) as slot:
                try:
                    slot.child.ask(message, descriptors, deadline)
                except ChannelClosed:
                    slot.discard()  # it died before it took the job, so not of this file: the next one gets it
                    continue
                except TimeoutError:
                    raise self._too_late(slot, message) from None
                return self._result(slot, message, deadline)

    def _result(self, slot: _Slot, message: Message, deadline: float) -> tuple[Message, list[int]]:
        try:
            reply, answers = slot.child.channel.receive(deadline)
        except TimeoutError:
            raise self._too_late(slot, message) from None
        except ChannelClosed:
            ending = slot.discard()
            log.warning("reader died", ending=ending, op=message.get("op"), format=message.get("format"))
            raise ReaderFailed(self._explain(ending, message)) from None
        if reply.pop("retire", False):
            slot.discard()
        return reply, answers

    @staticmethod
    def _too_late(slot: _Slot, message: Message) -> DeadlineExceeded:
        slot.discard()
        what = "the boxes were not measured" if message.get("op") == "measure" else "the file was not decoded"
        return DeadlineExceeded(f"{what} within the request's deadline")

    def _explain(self, ending: str, message: Message) -> str:
        measures = message.get("op") == "measure"
        if "SIGXCPU" in ending:
            work = "measuring the boxes" if measures else "decoding the file"
            return f"{work} takes more than {self._settings.reader_cpu_s:g} s of CPU time"
        if measures:
            return f"the process that measured the boxes was {ending}; are there very many points or boxes?"
        return f"the process that decoded the file was {ending}; the file is probably damaged or too large"

    @contextmanager
    def _lend(self, deadline: float) -> Iterator[_Slot]:
        try:
            child = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise DeadlineExceeded("no reader was free before the request's deadline") from None
        slot = _Slot(self, child)
        try:
            if child is None or not child.alive():
                slot.discard()
                slot.child = self._start(deadline)
            yield slot
        finally:
            self._idle.put(slot.kept)

    def _start(self, deadline: float) -> Child:
        if self._closed:
            raise NotReady("the service is shutting down")
        child = Child("service.engine.reader", self._settings)
        with self._lock:
            self._children.add(child)
        try:
            _ready, extra = child.channel.receive(min(deadline, time.monotonic() + START_S))
            close_all(extra)
        except (TimeoutError, ChannelClosed) as error:
            ending = self.end(child)
            log.error("reader does not start", ending=ending)
            raise NotReady(f"a reader process did not start: {ending}", retry_after_s=5) from error
        return child

    def _warm(self) -> None:
        try:
            with self._lend(time.monotonic() + START_S):
                pass
        except (NotReady, DeadlineExceeded):
            return  # logged where it happened; the next request tries again and reports it

    def end(self, child: Child) -> str:
        """Kill one reader and return how it ended."""
        with self._lock:
            self._children.discard(child)
            self.replaced += 1
        return child.kill()

    def pids(self) -> list[int]:
        """Return the process ids of the running readers."""
        with self._lock:
            return [child.pid for child in self._children]

    def close(self) -> None:
        """Kill every reader."""
        self._closed = True
        with self._lock:
            children, self._children = self._children, set()
        for child in children:
            child.kill()


class _Slot:
    """One reader's place in the pool; empty after `discard`, and then the next borrower starts a fresh reader."""

    def __init__(self, pool: Readers, child: Child | None) -> None:
        self._pool = pool
        self.kept = child

    @property
    def child(self) -> Child:
        assert self.kept is not None
        return self.kept

    @child.setter
    def child(self, child: Child) -> None:
        self.kept = child

    def discard(self) -> str:
        child, self.kept = self.kept, None
        return self._pool.end(child) if child is not None else ""
