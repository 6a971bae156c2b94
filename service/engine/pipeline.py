"""A worker's threads: clouds are prepared while the network runs on others, and answers are sent meanwhile.

    receiver -> intake: prepare -> main: choose a batch, forward, restore -> outlet: pack, send

Nothing here knows what labelling is; a `Labeller` does. Tests and benchmarks run it with one of their own.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import structlog

from service.engine import shared
from service.engine.batches import Batches, Item, Room
from service.engine.channel import Channel, ChannelClosed, Message, close_all
from service.engine.pool import IDLE_S, Mappings
from service.errors import Cancelled, DeadlineExceeded, InternalError, ServiceError, to_message
from service.values import Answer, PointCloud, answer_arrays, answer_message

SIGN_S = 1.0
LOAD_S = 600.0
log = structlog.get_logger()


class Labeller(Protocol):
    """What a pipeline drives. `enter` is called once in each of its threads, `prepare` in several, `label` in one.

    The pipeline gives it an attribute `say`, which sends the engine a message: `{"patience_s": 600}` before something
    that takes longer than its clouds explain, as loading a model does; `{"cards": [...]}` when the models have changed.
    """

    intakes: int
    """How many threads prepare clouds."""
    say: Callable[[Message], None]
    window_s: float
    """How long a free device waits for clouds that are being prepared at this moment, to run them together."""

    def ready(self) -> Message:
        """Return what the engine is told at the start: `cards`, `device`, `environment`, `batch_voxels`."""

    def enter(self, role: Literal["intake", "main"]) -> None:
        """Set up the calling thread."""

    def wishes(self, message: Message) -> Any:
        """Return what a request wants, in the terms of `prepare` and `label`."""

    def prepare(self, model: str, cloud: PointCloud, wishes: Any) -> tuple[Any, int] | ServiceError:
        """Return what `label` takes as `ready` with the number of its voxels, or what is wrong with the cloud."""

    def max_voxels(self, model: str) -> int:
        """Return how many voxels a batch may have now."""

    def label(
        self,
        model: str,
        clouds: Sequence[PointCloud],
        wishes: Sequence[Any],
        ready: Sequence[Any],
        tick: Callable[[float], None],
    ) -> list[Answer | ServiceError]:
        """Return the answer to each cloud of a batch; call `tick` now and then in long work and pass on its errors."""

    def memory(self) -> dict[str, Any]:
        """Return what the device says of its memory."""


class Fetcher(Protocol):
    """What loads models when they are wanted. `has` is quick; `fetch` may take minutes, and has a thread of its own."""

    def has(self, model: str) -> bool:
        """Return whether a model is there."""

    def fetch(self, model: str) -> ServiceError | None:
        """Load a model, and return why it cannot be where it cannot."""


class Pipeline:
    """Takes jobs from the engine and answers them, until the engine goes away.

    A job is a message `{"op": "label", "id", "model", "layout", "deadline", ...}` with the cloud's descriptor; its
    answer has the same `id`, and the labels' descriptor or an `error`. With `room` in it the cloud's memory is a piece
    of the web's pool: from there on it takes the labels, and where they fit no descriptor comes with the answer.
    `{"op": "cancel", "id"}` drops a job that does not run yet. With the last answer of a batch comes a `report` of it.

    Args:
        channel: to the engine.
        labeller: what prepares and labels.
        fetcher: what loads its models when they are wanted; None: they are all there. Clouds of a model that is not
            there wait for it, and no others with them.
    """

    def __init__(self, channel: Channel, labeller: Labeller, fetcher: Fetcher | None = None) -> None:
        self._channel, self._labeller, self._fetcher = channel, labeller, fetcher
        labeller.say = lambda message: self._out.put((message, None, None))
        self._batches = Batches()
        self._mappings = Mappings()
        lock = threading.RLock()
        # One lock, and a condition for each role: news wakes nobody who can do nothing with it.
        self._comes, self._stands, self._lacks = (threading.Condition(lock) for _ in range(3))
        self._absent: list[Item] = []  # their models are not there
        self._incoming: deque[Item] = deque()
        self._waiting: list[Item] = []  # prepared, in the order of arrival
        self._preparing: list[Item] = []
        self._running: list[Item] = []
        self._ended = False
        self._out: queue.SimpleQueue[tuple[Message, Answer | None, Room | None]] = queue.SimpleQueue()

    def run(self) -> None:
        """Work until the engine goes away."""
        roles = [self._receive, self._send, *[self._prepare] * self._labeller.intakes]
        if self._fetcher is not None:
            roles.append(self._fetch)
        for role in roles:
            threading.Thread(target=self._or_leave, args=(role,), daemon=True).start()
        self._labeller.enter("main")
        self._or_leave(self._label)

    @staticmethod
    def _or_leave(role: Any) -> None:
        """End the process where one of its threads fails: the engine replaces it and runs its jobs again."""
        try:
            role()
        except BaseException:
            log.exception("worker fails")
            os._exit(1)

    def _receive(self) -> None:
        self._channel.limit_waits(IDLE_S)
        try:
            while True:
                self._mappings.forget_idle()  # what comes need not be pooled, nor stop
                try:
                    message, descriptors = self._channel.receive()
                except TimeoutError:
                    continue
                if message["op"] == "cancel":
                    self._cancel(message["id"])
                    continue
                try:
                    self._admit(message, descriptors)
                finally:
                    close_all(descriptors)
        except ChannelClosed:
            with self._comes:
                self._ended = True
                for role in (self._comes, self._stands, self._lacks):
                    role.notify_all()

    def _cancel(self, number: int) -> None:
        with self._comes:
            for item in (*self._absent, *self._incoming, *self._preparing, *self._waiting, *self._running):
                item.cancelled = item.cancelled or item.number == number

    def _admit(self, message: Message, descriptors: list[int]) -> None:
        try:
            room = None
            if "room" in message:
                room = self._mappings.of(descriptors[0]), message["room"]
                stored: dict[str, Any] = shared.read(room[0], message["layout"])
            else:
                stored = shared.unpack(descriptors[0], message["layout"])
            cloud, wishes = PointCloud(**stored), self._labeller.wishes(message)
        except Exception as error:
            log.exception("request failed", request_id=message.get("request_id"))
            self._answer(message["id"], InternalError(f"the worker failed on this request: {type(error).__name__}"))
            return
        item = Item(message["id"], message, message["model"], cloud, wishes, len(cloud), message["deadline"], room=room)
        with self._comes:
            if self._fetcher is None or self._fetcher.has(item.model):
                self._incoming.append(item)
                self._comes.notify()
            else:
                self._absent.append(item)
                self._lacks.notify()

    def _fetch(self) -> None:
        self._labeller.enter("main")
        while self._fetch_one():
            pass

    def _fetch_one(self) -> bool:
        assert self._fetcher is not None
        with self._lacks:
            self._lacks.wait_for(lambda: self._absent or self._ended)
            if self._ended:
                return False
            model = self._absent[0].model
        done = threading.Event()
        threading.Thread(target=self._ask_for_patience, args=(done,), daemon=True).start()
        error = self._fetcher.fetch(model)
        done.set()
        with self._lacks:
            waited = [item for item in self._absent if item.model == model]
            self._absent = [item for item in self._absent if item.model != model]
            if error is None:
                self._incoming.extend(waited)
                self._comes.notify_all()
        if error is not None:
            for item in waited:
                self._answer(item.number, error)
        return True

    def _ask_for_patience(self, done: threading.Event) -> None:
        """Tell the engine that the worker lives while it loads a model, though not for ever."""
        until = time.monotonic() + LOAD_S
        while not done.wait(SIGN_S) and time.monotonic() < until:
            self._out.put(({"patience_s": 0.0}, None, None))

    # Each round of the three loops below is a call of its own: a thread that waits for the next cloud must not keep the
    # last one alive in its variables.

    def _prepare(self) -> None:
        self._labeller.enter("intake")
        while self._prepare_one():
            pass

    def _prepare_one(self) -> bool:
        with self._comes:
            self._comes.wait_for(lambda: self._incoming or self._ended)
            if self._ended:
                return False
            item = self._incoming.popleft()
            self._preparing.append(item)
        made: tuple[Any, int] | ServiceError | None = None
        structlog.contextvars.bind_contextvars(request_id=item.message.get("request_id", ""))
        if not self._is_late(item):
            made = self._labeller.prepare(item.model, item.cloud, item.wishes)
        if isinstance(made, ServiceError):
            self._answer(item.number, made)
        with self._stands:
            self._preparing.remove(item)
            if isinstance(made, tuple):
                item.ready, item.voxels = made
                self._waiting.append(item)
            self._stands.notify()
        return True

    def _is_late(self, item: Item) -> bool:
        """Return whether nobody waits for the answer, and say so to the engine."""
        if item.cancelled:
            self._out.put(({"id": item.number, "cancelled": True, "error": {}}, None, None))
        elif time.monotonic() >= item.deadline:
            self._answer(item.number, DeadlineExceeded("the deadline passed before the cloud was labelled"))
        else:
            return False
        return True

    def _label(self) -> None:
        while self._label_one(self._next()):
            pass

    def _label_one(self, batch: list[Item] | None) -> bool:
        if batch is None:
            return False
        started = time.monotonic()
        first = batch[0]
        structlog.contextvars.bind_contextvars(request_id=",".join(i.message.get("request_id", "") for i in batch))
        answers = self._labeller.label(
            first.model,
            [item.cloud for item in batch],
            [item.wishes for item in batch],
            [item.ready for item in batch],
            self._tick(batch),
        )
        seconds = time.monotonic() - started
        voxels = sum(item.voxels for item in batch)
        self._batches.voxels_per_s.add(voxels, seconds)
        timings = [answer.timing_ms for answer in answers if not isinstance(answer, ServiceError)]
        report = {
            "model": first.model,
            "clouds": len(batch),
            "points": sum(item.points for item in batch),
            "voxels": voxels,
            "seconds": round(seconds, 6),
            "stages": {stage: sum(t.get(stage, 0.0) for t in timings) / 1e3 for stage in ("prepare", "restore")},
            "batch_voxels": self._labeller.max_voxels(first.model),
            "memory": self._labeller.memory(),
        }
        *others, last = zip(batch, answers, strict=True)
        for item, answer in others:
            self._answer(item.number, answer, item.room)
        self._answer(last[0].number, last[1], last[0].room, report)
        log.info("labelled", **{name: report[name] for name in ("model", "clouds", "points", "voxels", "seconds")})
        with self._stands:
            self._running = []
        return True

    def _tick(self, batch: Sequence[Item]) -> Callable[[float], None]:
        """Return what long work calls: it tells the engine how far it is, and stops work that nobody waits for."""
        said = time.monotonic()

        def tick(done: float) -> None:
            nonlocal said
            now = time.monotonic()
            if now - said > SIGN_S:
                said = now
                self._out.put(({"patience_s": 0.0, "done": {str(item.number): done for item in batch}}, None, None))
            if all(item.cancelled for item in batch):
                raise Cancelled("nobody waits for the answer any more")
            if all(now >= item.deadline for item in batch):
                raise DeadlineExceeded("the deadline passed while the cloud was labelled")

        return tick

    def _next(self) -> list[Item] | None:
        """Wait for clouds that stand ready and return the next batch; None when the engine is gone."""
        with self._stands:
            while True:
                self._stands.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return None
                self._waiting = [item for item in self._waiting if not self._is_late(item)]
                if self._waiting:
                    break
            if self._labeller.window_s > 0:
                self._stands.wait_for(lambda: self._is_full() or not self._others_come(), self._labeller.window_s)
            limit = self._labeller.max_voxels(self._waiting[0].model)
            self._running = self._batches.choose(self._waiting, limit, time.monotonic())
            self._waiting = [item for item in self._waiting if item not in self._running]
            return self._running

    def _is_full(self) -> bool:
        return sum(item.voxels for item in self._waiting) >= self._labeller.max_voxels(self._waiting[0].model)

    def _others_come(self) -> bool:
        return bool(self._incoming or self._preparing) and not self._ended

    def _answer(
        self, number: int, answer: Answer | ServiceError, room: Room | None = None, report: Message | None = None
    ) -> None:
        message: Message = {"id": number} if report is None else {"id": number, "report": report}
        if isinstance(answer, ServiceError):
            self._out.put(({**message, "error": to_message(answer)}, None, None))
        else:
            self._out.put((message, answer, room))

    def _send(self) -> None:
        self._labeller.enter("intake")
        while self._send_one(*self._out.get()):
            pass

    def _send_one(self, message: Message, answer: Answer | None, room: Room | None) -> bool:
        descriptors: tuple[int, ...] = ()
        if answer is not None:
            try:
                arrays = answer_arrays(answer)
                layout = shared.place(arrays, *room) if room is not None else None
                if layout is None:
                    descriptor, layout = shared.pack(arrays)
                    descriptors = (descriptor,)
                message = {**message, "segmentation": answer_message(answer), "layout": layout}
            except (OSError, MemoryError) as error:
                failure = InternalError(f"the labels found no memory on their way back: {error}")
                message = {**message, "error": to_message(failure)}
        try:
            try:
                self._channel.send(message, descriptors)
            except InternalError as error:  # it is too long: its request fails, and no other
                kept: Message = {name: message[name] for name in ("id", "report") if name in message}
                self._channel.send({**kept, "error": to_message(error)})
        except ChannelClosed:
            return False
        finally:
            close_all(descriptors)
        return True
