"""The engine's own process: a Unix socket on which the web asks it to read, to segment and to write."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import structlog

from service.engine.channel import Channel, ChannelClosed, Message, close_all
from service.engine.device import Device
from service.engine.readers import Readers
from service.engine.scheduler import Job, Outcome, Scheduler
from service.errors import DeadlineExceeded, InternalError, NotReady, ServiceError, UnknownModel, to_message
from service.logs import configure
from service.settings import Settings, settings

log = structlog.get_logger()


class Engine:
    """The readers, the queue and the device behind one socket.

    Args:
        chosen: limits, models, device.
    """

    def __init__(self, chosen: Settings) -> None:
        self._settings = chosen
        self._readers = Readers(chosen)
        self._scheduler = Scheduler(Device(chosen), chosen.max_queued_points)
        self._operations: dict[str, Callable[[Message, list[int]], Outcome]] = {
            "read": self.read,
            "segment": self.segment,
            "write": self.read,  # a reader's job too: it needs the user's file again
            "status": self.status,
        }

    def read(self, message: Message, descriptors: list[int]) -> Outcome:
        """Have a reader decode or write a file; see service/engine/reader.py for the message."""
        reply, answers = self._readers.run(message, tuple(descriptors), message["deadline"])
        return reply, answers

    def segment(self, message: Message, descriptors: list[int]) -> Outcome:
        """Have the worker label a cloud; `points` and `deadline` in the message rule its way through the queue."""
        self._know(message["model"])
        job = Job(message, os.dup(descriptors[0]), message["points"], message["deadline"])
        started = time.monotonic()
        try:
            future = self._scheduler.submit(job)
        except BaseException:
            os.close(job.descriptor)
            raise
        try:
            reply, answers = future.result(max(0.0, job.deadline - started))
        except (FutureTimeout, CancelledError):
            if not future.cancel():
                future.add_done_callback(_discard)
            raise DeadlineExceeded("the request's deadline passed before the cloud was labelled") from None
        timing = reply["segmentation"]["timing_ms"]
        timing["queue"] = round((time.monotonic() - started) * 1e3 - sum(timing.values()), 3)
        return reply, answers

    def status(self, _message: Message, _descriptors: list[int]) -> Outcome:
        """Return the state of the queue, the device and the readers."""
        readers = {"pids": self._readers.pids(), "replaced": self._readers.replaced}
        return {**self._scheduler.status(), "readers": readers, "engine_pid": os.getpid()}, []

    def _know(self, model: str) -> None:
        status = self._scheduler.status()
        names = [card["name"] for card in status["models"]]
        if not names:
            raise NotReady(status["reason"], retry_after_s=5)
        if model not in names:
            raise UnknownModel(f"there is no model {model!r}; there are: {', '.join(names)}")

    def converse(self, channel: Channel) -> None:
        """Answer one connection's requests until it closes."""
        try:
            while True:
                message, descriptors = channel.receive()
                try:
                    reply, answers = self._answer(message, descriptors)
                finally:
                    close_all(descriptors)
                try:
                    channel.send(reply, tuple(answers))
                finally:
                    close_all(answers)
        except ChannelClosed:
            pass
        finally:
            channel.close()

    def _answer(self, message: Message, descriptors: list[int]) -> Outcome:
        try:
            return self._operations[message["op"]](message, descriptors)
        except ServiceError as error:
            return {"error": to_message(error)}, []
        except Exception:
            log.exception("engine failed", op=message.get("op"), request_id=message.get("request_id"))
            return {"error": to_message(InternalError("the engine failed on this request"))}, []

    def close(self) -> None:
        """End the readers and the worker."""
        self._readers.close()
        self._scheduler.close()


def _discard(future: Future[Outcome]) -> None:
    if not future.cancelled() and future.exception() is None:
        close_all(future.result()[1])


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at the path, in a folder that only this user may enter.

    Raises:
        NotReady: another engine answers there, or the path cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_uid != os.getuid():
            raise NotReady(f"the folder {path.parent} belongs to another user; set STATE_DIR to one of your own")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise NotReady(f"another engine already answers at {path}; set PORT or STATE_DIR")
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
    except OSError as error:
        raise NotReady(f"the engine cannot listen at {path}: {error}; set STATE_DIR") from error
    return listener


def serve(chosen: Settings) -> int:
    """Run the engine until a signal ends it, or its parent is gone; return the exit status."""
    configure("engine", chosen.log_level)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        listener = listen(chosen.socket_path)
    except NotReady as error:
        log.error("engine cannot start", reason=error.detail)
        return 1
    engine = Engine(chosen)
    threading.Thread(target=_accept, args=(listener, engine), daemon=True).start()
    parent = os.getppid()
    while not ended.wait(0.5) and os.getppid() == parent:
        pass
    chosen.socket_path.unlink(missing_ok=True)
    listener.close()
    engine.close()
    return 0


def _accept(listener: socket.socket, engine: Engine) -> None:
    while True:
        try:
            connection, _address = listener.accept()
        except OSError:
            return
        threading.Thread(target=engine.converse, args=(Channel(connection),), daemon=True).start()


def main() -> None:
    """Entry of `python -m service.engine.server`."""
    raise SystemExit(serve(settings()))


if __name__ == "__main__":
    main()
