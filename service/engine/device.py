"""A device's worker as the scheduler sees it: a process that is started, fed, listened to, and found dead."""

from __future__ import annotations

import time
from typing import Any

import structlog

from service.engine.channel import ChannelClosed, Message, close_all
from service.engine.child import Child
from service.errors import InternalError, NotReady, from_message
from service.settings import Settings

LOAD_S = 600.0
WORKER = "service.engine.worker"
log = structlog.get_logger()


class Device:
    """One device and the process that owns it.

    One thread calls `start`, `receive` and `close`; `send` and `kill` may be called by another between `start`'s return
    and `close`.

    Args:
        settings: `device` in it names this device alone.
        worker: the module that the process runs; others than the service's own stand in for it in tests.

    Attributes:
        name: as the setting has it, until the worker says better.
        cards: the loaded models' cards, as JSON values; those of the last worker while a new one starts.
        about: what the worker said of the device.
        environment: what it said of its Python, torch and GPU; see service/environment.py.
        starts: how often a worker was started.
    """

    def __init__(self, settings: Settings, worker: str = WORKER) -> None:
        self._settings, self._worker = settings, worker
        self._child: Child | None = None
        self._why = ""
        self.name = settings.device
        self.cards: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        child = self._child
        return child.pid if child is not None else None

    def start(self) -> Message:
        """Start a worker, wait until its models are loaded, and return what it says of itself.

        Raises:
            ServiceError: they do not load, or no process can be started; the sentence says why.
        """
        self.close()
        started = time.monotonic()
        self.starts += 1
        self._why = ""
        self._child = child = Child(self._worker, self._settings)
        try:
            message, extra = child.channel.receive(started + LOAD_S)
        except TimeoutError:
            self.close()
            raise NotReady(f"the models did not load within {LOAD_S:g} s") from None
        except ChannelClosed:
            raise NotReady(f"the worker {self.close()} while it loaded the models") from None
        close_all(extra)
        if "error" in message:
            self.close()
            raise from_message(message["error"])
        try:
            self.cards, self.about, self.environment = message["cards"], message["device"], message["environment"]
        except KeyError as error:
            self.close()
            raise InternalError(f"the worker does not say its {error} when it is ready") from error
        self.name = self.about.get("device", self.name)
        seconds = round(time.monotonic() - started, 2)
        log.info("worker ready", **{**self.about, "pid": child.pid, "seconds": seconds})
        return message

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Give the worker something to do.

        Raises:
            ChannelClosed: it is gone.
        """
        child = self._child
        if child is None:
            raise ChannelClosed("there is no worker")
        child.channel.send(message, descriptors)

    def receive(self) -> tuple[Message, list[int]]:
        """Wait for the worker's next word; the caller must close its descriptors.

        Raises:
            ChannelClosed: it is gone.
        """
        child = self._child
        if child is None:
            raise ChannelClosed("there is no worker")
        return child.channel.receive()

    def kill(self, why: str) -> None:
        """End the worker's process, for a reason that `close` will return; `receive` then raises."""
        child = self._child
        if child is not None:
            self._why = why
            child.shoot()

    def close(self) -> str:
        """Clean up after the worker, ending it if need be, and return in words how it ended."""
        child, self._child = self._child, None
        if child is None:
            return "was not started"
        ending = child.kill()
        return self._why or ending
