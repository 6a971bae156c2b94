"""What the system refuses for a moment, descriptors or processes, ends nothing of the engine for good."""

from __future__ import annotations

import errno
import os
import queue
import socket
import subprocess
from typing import Any, cast

import pytest

from service.engine import server
from service.engine.channel import Channel
from service.engine.child import Child
from service.engine.device import Device
from service.engine.scheduler import Scheduler
from service.errors import NotReady
from service.settings import Settings
from tests.engine.fakes import descriptors_kept, wait_for

SETTINGS = Settings(device="cpu", readers=1)


class Listener:
    """Has no descriptor for a connection at first, then has, then is closed."""

    def __init__(self, *connections: socket.socket) -> None:
        self._connections = list(connections)
        self._refusals = 2

    def fileno(self) -> int:
        return 3 if self._connections else -1

    def accept(self) -> tuple[socket.socket, str]:
        if self._refusals:
            self._refusals -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not self._connections:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._connections.pop(), ""


class Engine:
    """Notes who talks to it."""

    def __init__(self) -> None:
        self.heard: queue.Queue[Channel] = queue.Queue()

    def converse(self, channel: Channel) -> None:
        self.heard.put(channel)


def test_connections_are_taken_again_after_a_lack_of_descriptors() -> None:
    ours, theirs = socket.socketpair()
    engine = Engine()
    server._accept(cast(Any, Listener(theirs)), cast(Any, engine))  # and it returns once the listener is closed
    with ours:
        engine.heard.get(timeout=5).close()


@pytest.mark.parametrize("of", [subprocess, socket])
def test_a_process_that_cannot_be_started_now_is_not_ready(of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(of, "Popen" if of is subprocess else "socketpair", refuse)
    with descriptors_kept():
        with pytest.raises(NotReady, match=r"cannot be started.*temporarily"):
            Child("benchmarks.stub", SETTINGS)
        device = Device(SETTINGS, "benchmarks.stub")
        with pytest.raises(NotReady, match="cannot be started"):
            device.start()
        assert device.pid is None and device.close() == "was not started"


def test_a_device_whose_process_could_not_be_started_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, refusals = subprocess.Popen, [1]

    def start(*arguments: Any, **options: Any) -> Any:
        if refusals:
            refusals.pop()
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return made(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    scheduler = Scheduler([Device(SETTINGS, "benchmarks.stub")], 1000, 10)
    try:
        wait_for(lambda: scheduler.status()["state"] == "ready", 60)
        assert not refusals
    finally:
        scheduler.close()
