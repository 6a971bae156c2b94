"""A device without a process, whose worker does as the test says."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Callable
from typing import Any

from service.engine.channel import ChannelClosed, Message
from service.engine.waiting import Job
from service.errors import ServiceError, to_message


class FakeDevice:
    """Takes jobs as a `Device` does; `answer`, `fail` and `die` are what its worker then does."""

    def __init__(self, name: str = "fake", batch_voxels: int = 1000) -> None:
        self.name = name
        self.cards: list[dict[str, Any]] = [{"name": "stub"}]
        self.about: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.pid: int | None = None
        self.starts = 0
        self.up = False
        self.sent: list[Message] = []
        self.cancelled: list[int] = []
        self.start_error: ServiceError | None = None
        self._batch_voxels = batch_voxels
        self._words: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._ending = ""

    def start(self) -> Message:
        self.starts += 1
        if self.start_error is not None:
            raise self.start_error
        self._words = queue.SimpleQueue()
        self._ending = "killed by SIGSEGV"
        self.up = True
        return {"batch_voxels": self._batch_voxels}

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        if not self.up:
            raise ChannelClosed("gone")
        if message["op"] == "cancel":
            self.cancelled.append(message["id"])
            return
        for descriptor in descriptors:
            os.fstat(descriptor)  # the memory must still be there, however long the job waited
        self.sent.append(message)

    def receive(self) -> tuple[Message, list[int]]:
        word = self._words.get()
        if word is None:
            raise ChannelClosed("gone")
        return word, []

    def kill(self, why: str) -> None:
        self.die(why)

    def close(self) -> str:
        self.up = False
        return self._ending

    def die(self, ending: str = "killed by SIGSEGV") -> None:
        """End the worker."""
        self.up, self._ending = False, ending
        self._words.put(None)

    def say(self, word: Message) -> None:
        """Have the worker say something."""
        self._words.put(word)

    def names(self) -> list[Any]:
        """Return what the jobs that were sent so far are called."""
        return [message["name"] for message in self.sent]

    def answer(self, *names: Any) -> None:
        """Answer the jobs of these names as soon as they are there, those sent last where a name came twice."""
        for name in names:
            wait_for(lambda name=name: name in self.names())  # type: ignore[misc]
            number = next(m["id"] for m in reversed(self.sent) if m["name"] == name)
            self.say({"id": number, "name": name})

    def fail(self, name: Any, error: ServiceError) -> None:
        """Answer a job with an error."""
        number = next(m["id"] for m in reversed(self.sent) if m["name"] == name)
        self.say({"id": number, "error": to_message(error)})

    def report(self, **report: Any) -> None:
        """Report a batch."""
        self.say({"report": report})


def job(name: Any = 0, points: int = 10, patience_s: float = 10.0, content: bytes = b"cloud") -> Job:
    """Return a job with memory of its own."""
    descriptor = os.memfd_create("job")
    os.write(descriptor, content)
    layout = [{"name": "coord", "dtype": "|u1", "shape": [len(content)], "start": 0}]
    message = {"name": name, "model": "stub", "layout": layout}
    return Job(message, descriptor, points, time.monotonic() + patience_s)


def closed(made: Job) -> bool:
    """Return whether the job's memory was given back."""
    try:
        return "memfd:job" not in os.readlink(f"/proc/self/fd/{made.descriptor}")
    except OSError:
        return True


def wait_for(condition: Callable[[], Any], patience_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.005)


@contextlib.contextmanager
def descriptors_kept():  # type: ignore[no-untyped-def]
    """Fail where more descriptors are open at the end than at the beginning."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= len(before))
