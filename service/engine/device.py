"""A device's worker as the scheduler sees it: started, asked, found dead, replaced."""

from __future__ import annotations

import time
from typing import Any

import structlog

from service.engine.channel import ChannelClosed, Message, close_all
from service.engine.child import Child
from service.errors import InternalError, NotReady, WorkerLost, from_message
from service.settings import Settings

LOAD_S = 600.0
log = structlog.get_logger()


class Device:
    """One device and the process that owns it. The scheduler's thread alone calls it.

    Attributes:
        cards: the loaded models' cards, as JSON values; those of the last worker while a new one starts.
        about: what the worker said of the device.
        environment: what it said of its Python, torch and GPU; see service/environment.py.
        starts: how often a worker was started.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: Child | None = None
        self.cards: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        child = self._child
        return child.pid if child is not None else None

    def alive(self) -> bool:
        """Return whether the worker is there."""
        return self._child is not None and self._child.alive()

    def start(self) -> None:
        """Start a worker and wait until its models are loaded.

        Raises:
            ServiceError: they do not load; the sentence says why.
        """
        self.close()
        started = time.monotonic()
        self.starts += 1
        self._child = child = Child("service.engine.worker", self._settings)
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
        self.cards, self.about = message["cards"], message["device"]
        self.environment = message["environment"]
        log.info("worker ready", pid=child.pid, seconds=round(time.monotonic() - started, 2), **self.about)

    def run(self, message: Message, descriptor: int, deadline: float) -> tuple[Message, list[int]]:
        """Have the worker do a job and return its reply with its descriptors, which the caller must close.

        Raises:
            WorkerLost: the worker died, or was killed because it hung past the deadline (`time.monotonic()`).
            ServiceError: what the worker says is wrong with the job.
        """
        if self._child is None:
            raise WorkerLost("there is no worker")
        try:
            reply, answers = self._child.ask(message, (descriptor,), deadline)
        except TimeoutError:
            log.error("worker hangs", request_id=message.get("request_id"))
            self.close()
            raise WorkerLost("the worker hung and was replaced") from None
        except ChannelClosed:
            ending = self.close()
            log.error("worker died", ending=ending, request_id=message.get("request_id"))
            raise WorkerLost(f"the worker was lost while it held the request ({ending})") from None
        if "error" in reply:
            close_all(answers)
            raise from_message(reply["error"])
        if len(answers) != 1:
            close_all(answers)
            raise InternalError("the worker's reply carries no labels")
        return reply, answers

    def close(self) -> str:
        """End the worker and return in words how it ended."""
        child, self._child = self._child, None
        return child.kill() if child is not None else "was not started"
