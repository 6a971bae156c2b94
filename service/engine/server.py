"""The engine's own process: a Unix socket on which the web asks it to read, to segment and to write."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import structlog

from service.engine.channel import Channel, ChannelClosed, Message, close_all
from service.engine.conversation import Conversation
from service.engine.device import WORKER, Device
from service.engine.ending import End
from service.engine.memory import worker_limit
from service.engine.readers import Readers
from service.engine.scheduler import Scheduler
from service.engine.waiting import Job, Outcome
from service.errors import Cancelled, DeadlineExceeded, InternalError, NotReady, ServiceError, UnknownModel, to_message
from service.logs import configure
from service.settings import Settings, settings

log = structlog.get_logger()


PEEK_S = 0.25
"""How often a request that waits looks whether its client is still there."""
ACCEPT_AGAIN_S = 0.1
PASSES = {"full": 100}
"""How often the network sees the points of a cloud, by the kind of test-time augmentation; 1 without any."""


class Engine:
    """The readers, the queue and the devices behind one socket.

    Args:
        chosen: limits, models, devices.
        worker: the module that each device's process runs.
    """

    def __init__(self, chosen: Settings, worker: str = WORKER) -> None:
        self._settings = chosen
        self._readers = Readers(chosen)
        self._scheduler = Scheduler(
            [Device(one, worker) for one in for_each_device(chosen)],
            chosen.max_queued_points,
            chosen.max_queued_requests,
            silence_s=chosen.worker_silence_s,
            worker_memory_bytes=worker_limit(chosen.worker_memory_bytes),
            siblings=lambda first: [Device(one, worker) for one in for_other_gpus(chosen, first.about)],
        )
        self._running = 0
        self._lock = threading.Lock()
        self._operations: dict[str, Callable[[Message, list[int], Conversation], Outcome]] = {
            "read": self.read,
            "segment": self.segment,
            "write": self.write,
            "measure": self.measure,
            "status": self.status,
        }

    def read(self, message: Message, descriptors: list[int], talk: Conversation) -> Outcome:
        """Have a reader decode a file, and keep both; see service/engine/reader.py for the message."""
        self._scheduler.check()  # before a file is decoded in vain
        talk.forget()
        reply, answers = self._readers.run(message, tuple(descriptors), message["deadline"])
        if answers:
            talk.keep("file", descriptors[0])
            talk.keep("cloud", answers[0])
            close_all(answers)
        return reply, []

    def write(self, message: Message, _descriptors: list[int], talk: Conversation) -> Outcome:
        """Have a reader write the labels into a file, for which it needs the user's own again."""
        (_, file), (labels, arrays) = talk.kept("file"), talk.kept("labels")
        return self._readers.run({**message, **labels}, (file, arrays), message["deadline"])

    def measure(self, message: Message, descriptors: list[int], talk: Conversation) -> Outcome:
        """Have a reader measure the boxes of a labelled cloud: it has limits, and the worker goes on labelling."""
        return self._readers.run(message, (talk.kept("cloud")[1], *descriptors), message["deadline"])

    def segment(self, message: Message, descriptors: list[int], talk: Conversation) -> Outcome:
        """Have a worker label a cloud; `points` and `deadline` in the message rule its way through the queue.

        The cloud is the one that comes with the message, or else the one that was read last: then the labels are kept,
        and sent only where `arrays` says so.
        """
        if descriptors:
            return self._label(message, descriptors.pop(), talk.channel)
        reply, answers = self._label(message, os.dup(talk.kept("cloud")[1]), talk.channel)
        talk.keep("labels", answers[0], {name: reply[name] for name in ("segmentation", "layout")})
        if not message["arrays"]:
            close_all(answers)
            answers = []
        return reply, answers

    def _label(self, message: Message, cloud: int, channel: Channel) -> Outcome:
        """Have a worker label a cloud, whose descriptor is the job's from now on."""
        passes = PASSES.get(message.get("tta", "none"), 1)
        job = Job(message, cloud, message["points"], message["deadline"], passes)
        started = time.monotonic()
        try:
            self._know(message["model"])
            self._scheduler.submit(job)
        except BaseException:
            job.close()
            raise
        reply, answers = self._await(job, channel)
        timing = reply["segmentation"]["timing_ms"]
        timing["queue"] = round((time.monotonic() - started) * 1e3 - sum(timing.values()), 3)
        return reply, answers

    def _await(self, job: Job, channel: Channel) -> Outcome:
        while True:
            left = job.deadline - time.monotonic()
            try:
                return job.future.result(max(0.0, min(left, PEEK_S)))
            except FutureTimeout:
                if channel.is_closed():
                    self._scheduler.abandon(job, "cancelled")
                    raise Cancelled("the client hung up before its cloud was labelled") from None
                if left <= PEEK_S:
                    self._scheduler.abandon(job, "expired")
                    raise DeadlineExceeded("the request's deadline passed before the cloud was labelled") from None

    def status(self, _message: Message, _descriptors: list[int], _talk: Conversation) -> Outcome:
        """Return the state of the queue, the devices and the readers."""
        readers = {"pids": self._readers.pids(), "replaced": self._readers.replaced}
        found = {**self._scheduler.status(), "readers": readers, "engine_pid": os.getpid(), "running": self._running}
        return found, []

    def _know(self, model: str) -> None:
        names = self._scheduler.models()
        if model not in names:
            raise UnknownModel(f"there is no model {model!r}; there are: {', '.join(names)}")

    def converse(self, channel: Channel) -> None:
        """Answer one connection's requests until it closes. `{"op": "forget"}` is the one that gets no answer."""
        talk = Conversation(channel)
        try:
            while True:
                message, descriptors = channel.receive()
                if message.get("op") == "forget":
                    talk.forget()
                    continue
                try:
                    reply, answers = self._answer(message, descriptors, talk)
                finally:
                    close_all(descriptors)
                talk.answer(reply, answers)
        except ChannelClosed:
            pass
        finally:
            talk.close()

    def _answer(self, message: Message, descriptors: list[int], talk: Conversation) -> Outcome:
        structlog.contextvars.bind_contextvars(request_id=message.get("request_id", ""))
        counts = message.get("op") != "status"
        self._count(counts)
        try:
            return self._operations[message["op"]](message, descriptors, talk)
        except ServiceError as error:
            return {"error": to_message(error)}, []
        except Exception:
            log.exception("engine failed", op=message.get("op"), request_id=message.get("request_id"))
            return {"error": to_message(InternalError("the engine failed on this request"))}, []
        finally:
            self._count(-counts)

    def _count(self, more: int) -> None:
        with self._lock:
            self._running += more

    def drain(self) -> None:
        """Say "stopping" from now on, so that the web lets no new request in."""
        self._scheduler.drain()

    def close(self) -> None:
        """End the readers and the workers."""
        self._readers.close()
        self._scheduler.close()


def for_each_device(chosen: Settings) -> list[Settings]:
    """Return settings for each worker that the setting `device` names; those on the CPU share its cores."""
    names = [name.strip() for name in chosen.device.split(",") if name.strip()] or ["auto"]
    on_cpu = names.count("cpu")
    threads = chosen.threads or (max(1, (os.cpu_count() or 1) // on_cpu) if on_cpu > 1 else 0)
    return [chosen.model_copy(update={"device": name, "threads": threads}) for name in names]


def for_other_gpus(chosen: Settings, first: Mapping[str, Any]) -> list[Settings]:
    """Return settings for the workers of all GPUs beside the first, which `auto` takes.

    Args:
        chosen: the settings.
        first: what the first worker says of its device; this process does not touch CUDA.
    """
    count = first.get("gpus", 0) if chosen.device == "auto" else 0
    return [chosen.model_copy(update={"device": f"cuda:{index}"}) for index in range(1, count)]


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


def serve(chosen: Settings, worker: str = WORKER) -> int:
    """Run the engine until a signal ends it, or its parent is gone; return the exit status.

    SIGUSR1 announces the end: from then on the engine's state is "stopping", and what was let in is finished.
    """
    configure("engine", chosen.log_level)
    end = End()
    try:
        listener = listen(chosen.socket_path)
    except NotReady as error:
        log.error("engine cannot start", reason=error.detail)
        return 1
    engine = Engine(chosen, worker)
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=engine.drain).start())  # a lock may be held here
    threading.Thread(target=_accept, args=(listener, engine), daemon=True).start()
    parent = os.getppid()
    while not end.comes(0.5) and os.getppid() == parent:
        pass
    chosen.socket_path.unlink(missing_ok=True)
    listener.close()
    engine.close()
    return 0


def _accept(listener: socket.socket, engine: Engine) -> None:
    while True:
        try:
            connection, _address = listener.accept()
        except OSError as error:
            if listener.fileno() < 0:
                return
            # No descriptor or no memory is left now; that passes, and the connection still waits.
            log.error("no connection can be taken now", reason=str(error))
            time.sleep(ACCEPT_AGAIN_S)
            continue
        threading.Thread(target=engine.converse, args=(Channel(connection),), daemon=True).start()


def main() -> None:
    """Entry of `python -m service.engine.server [MODULE]`; the module, if any, is what the workers run."""
    raise SystemExit(serve(settings(), *sys.argv[1:2]))


if __name__ == "__main__":
    main()
