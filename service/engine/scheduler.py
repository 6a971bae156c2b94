"""The queue in front of the devices: admission, order, deadlines, cancellation, and a second try after a crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from service.engine.channel import ChannelClosed, ChannelStuck, Message, close_all
from service.engine.device import Device
from service.engine.lane import Lane
from service.engine.lanes import Lanes
from service.engine.memory import rss_bytes
from service.engine.tally import Tally
from service.engine.waiting import Deadly, Job, Queue
from service.errors import DeadlineExceeded, FatalCloud, InternalError, NotReady, Overloaded, ServiceError, from_message

RESTART_S = (0.0, 1.0, 5.0, 15.0, 60.0)
WATCH_S = 0.1
LOST = "the worker was lost and is being replaced"
log = structlog.get_logger()


class Scheduler:
    """Feeds the devices from one bounded queue. Safe to use from many threads.

    `service.engine.waiting.Queue` states the order. A worker that ends, falls silent or takes too much memory is
    replaced; each job it held is then run again, alone. A job in whose hands alone a worker ends twice is refused with
    FatalCloud, now and whenever the same cloud comes again.

    Args:
        devices: one worker each.
        max_queued_points, max_queued_requests: bounds of the queue.
        silence_s: how long a worker may say nothing beyond ten times what its work should take.
        worker_memory_bytes: resident memory at which a worker is ended.
        siblings: further devices, given the first one that is ready.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        max_queued_points: int,
        max_queued_requests: int,
        *,
        silence_s: float = 30.0,
        worker_memory_bytes: int = 1 << 62,
        siblings: Callable[[Device], Iterable[Device]] = lambda _device: (),
    ) -> None:
        self._queue = Queue(max_queued_points, max_queued_requests)
        self._silence_s, self._worker_memory_bytes = silence_s, worker_memory_bytes
        self._siblings: Callable[[Device], Iterable[Device]] | None = siblings
        self._deadly = Deadly()
        self._changed = threading.Condition()
        self._stopping = self._closed = self._was_ready = False
        self._tally = Tally()
        self._lanes = Lanes()
        self._threads: list[threading.Thread] = []
        for device in devices:
            self._add(device)
        self._start(self._watch, "watch")

    def _add(self, device: Device) -> None:
        lane = Lane(device)
        self._lanes.add(lane)
        self._start(lambda: self._run(lane), f"lane {device.name}")

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; its future ends with the reply and its descriptors, or a ServiceError.

        The scheduler closes the job's descriptor at its end, unless this call raises.

        Raises:
            NotReady: the models are not loaded yet, or do not load.
            Overloaded: the queue has no room now.
            FatalCloud: this cloud is known to end workers.
        """
        with self._changed:
            self._refuse_unless_ready()
            if job in self._deadly:
                self._tally.events["refused_fatal"] += 1
                raise FatalCloud("this cloud has ended the worker twice; it is not run again")
            try:
                lanes = self._lanes
                self._queue.add(job, time.monotonic(), lanes.cost_per_s(), lanes.ready(), lanes.ahead())
            except Overloaded:
                self._tally.events["refused"] += 1
                raise
            for lane in self._lanes.by_load():
                self._feed(lane)

    def check(self) -> None:
        """Refuse at once what `submit` would refuse whatever its size; cheaper than to decode a file in vain.

        Raises:
            NotReady, Overloaded: as `submit`.
        """
        with self._changed:
            self._refuse_unless_ready()
            try:
                self._queue.check(0, self._lanes.cost_per_s() * self._lanes.ready(), self._lanes.ahead())
            except Overloaded:
                self._tally.events["refused"] += 1
                raise

    def abandon(self, job: Job, count: str) -> None:
        """Drop a job whose answer nobody waits for: at once if it still waits, else when its worker is done with it.

        Args:
            job: what `submit` took.
            count: why, as `status` counts it: "cancelled" or "expired".
        """
        with self._changed:
            self._tally.events[count] += 1
            job.abandoned = True
            holder = self._lanes.holder(job)
            if holder is not None:
                self._tell(holder, {"op": "cancel", "id": job.number})
                return
            waits = self._queue.remove(job)
            for lane in self._lanes:
                if job in lane.retries:
                    lane.retries.remove(job)
                    waits = True
            if waits:
                job.close()
            elif job.future.done() and job.future.exception() is None:
                close_all(job.future.result()[1])  # the answer came at the last moment

    def status(self) -> dict[str, Any]:
        """Return the state ("loading", "ready", "failed", "stopping"), queue, devices and counts, as JSON values."""
        with self._changed:
            state, reason = self._state()
            ahead = self._lanes.ahead()
            return {
                "state": state,
                "reason": reason,
                "queue": {
                    "requests": len(self._queue) + len(ahead),
                    "points": self._queue.points + sum(job.points for job in ahead),
                },
                **self._lanes.status(),
                "batches": self._tally.batches(),
                "batches_of_models": self._tally.of_models(),
                "counts": dict(self._tally.events),
            }

    def models(self) -> list[str]:
        """Return the names of the models.

        Raises:
            NotReady: no worker has said yet which there are.
        """
        with self._changed:
            names = [str(card["name"]) for card in self._lanes.speaker().device.cards]
            if not names:
                raise NotReady(self._state()[1], retry_after_s=5)
            return names

    def drain(self) -> None:
        """Say "stopping" from now on; what comes is still run, for it is the rest of requests that were let in."""
        with self._changed:
            self._stopping = True

    def idle(self) -> bool:
        """Return whether no job waits or runs."""
        with self._changed:
            return not len(self._queue) and not any(lane.in_flight or lane.retries for lane in self._lanes)

    def close(self) -> None:
        """Refuse what waits and end the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for lane in self._lanes:
                lane.device.kill("ended with the service")
        for thread in self._threads:
            thread.join(5)
        with self._changed:
            self._refuse_all(NotReady("the service is shutting down"))

    def _state(self) -> tuple[str, str]:
        if self._stopping or self._closed:
            return "stopping", "the service is shutting down"
        return self._lanes.state()

    def _refuse_unless_ready(self) -> None:
        state, reason = self._state()
        if self._closed:
            raise NotReady("the service is shutting down")
        if state == "failed" or not self._was_ready:
            raise NotReady(reason, retry_after_s=5)

    def _run(self, lane: Lane) -> None:
        """Keep one device's worker running and hear what it says."""
        failures = 0
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, RESTART_S[failures]):
                    return
            try:
                ready = lane.device.start()
            except ServiceError as error:
                failures = min(failures + 1, len(RESTART_S) - 1)
                self._fail(lane, error)
                continue
            failures = 0
            with self._changed:
                if self._closed:
                    lane.device.close()
                    return
                lane.begin(ready)
                self._was_ready = True
                if self._siblings is not None:
                    siblings, self._siblings = self._siblings, None
                    for device in siblings(lane.device):
                        self._add(device)
                self._feed(lane)
            try:
                while True:
                    self._hear(lane, *lane.device.receive())
            except ChannelClosed:
                self._lose(lane)

    def _fail(self, lane: Lane, error: ServiceError) -> None:
        if not self._closed:
            log.error("models do not load", device=lane.device.name, reason=error.detail)
        with self._changed:
            lane.state, lane.reason = "failed", error.detail
            fit = next((other for other in self._lanes if other.state != "failed"), None)
            if fit is None:
                self._refuse_all(NotReady(error.detail, retry_after_s=5))
            else:
                fit.retries.extend(lane.retries)
                lane.retries.clear()
                self._feed(fit)

    def _feed(self, lane: Lane) -> None:
        while lane.state == "ready" and not self._closed:
            job = lane.next_retry() or (self._queue.pop() if lane.has_room() else None)
            if job is None:
                return
            now = time.monotonic()
            if now >= job.deadline:
                self._tally.events["expired"] += 1
                _fail(job, DeadlineExceeded("the deadline passed while the request waited for the device"))
                continue
            lane.take(job, now)
            message = {**job.message, "op": "label", "id": job.number, "deadline": job.deadline}
            try:
                told = self._tell(lane, message, job.descriptor)
            except InternalError as error:  # its message is too long
                lane.finish(job.number, now)
                _fail(job, error)
                continue
            if not told:
                lane.finish(job.number, now)
                lane.retries.append(job)  # and no blame falls on it

    @staticmethod
    def _tell(lane: Lane, message: Message, *descriptors: int) -> bool:
        if lane.state != "ready":
            return False
        try:
            lane.device.send(message, descriptors)
        except ChannelClosed as error:
            lane.state, lane.reason = "loading", LOST  # the lane's own thread will replace it
            if isinstance(error, ChannelStuck):
                lane.device.kill("killed because it took no messages")
            return False
        return True

    def _hear(self, lane: Lane, message: Message, descriptors: list[int]) -> None:
        """Take a worker's word: a job's answer, the last of a batch with a report, a plea for patience, its models."""
        now = time.monotonic()
        with self._changed:
            if "patience_s" in message:
                lane.wait(message, now)
                return
            if "cards" in message:
                lane.device.cards = message["cards"]
                return
            report = message.pop("report", None)
            if "id" in message:
                self._finish(lane, message, descriptors, now)
            if report is not None:
                lane.count(report, now)
                self._tally.add(report)
            self._feed(lane)

    def _finish(self, lane: Lane, message: Message, descriptors: list[int], now: float) -> None:
        job = lane.finish(message["id"], now)
        if job is not None and job.retried:
            self._deadly.forgive(job)  # now: whoever has the answer may use the cloud's memory for another
        if job is None or job.abandoned:
            close_all(descriptors)
        elif "error" not in message:
            job.future.set_result((message, descriptors))
        else:
            close_all(descriptors)
            job.future.set_exception(from_message(message["error"]))
        if job is not None:
            job.close()

    def _lose(self, lane: Lane) -> None:
        """Take the jobs of a worker that ended back, to be run again one by one when there is a new one."""
        ending = lane.device.close()
        with self._changed:
            lane.state, lane.reason = "loading", LOST
            jobs = lane.empty()
            if self._closed:
                self._end(jobs, NotReady("the service is shutting down"))
                return
            self._tally.events["lost"] += 1
        log.error("worker lost", device=lane.device.name, ending=ending, jobs=[_id(job) for job in jobs])
        # Alone: who else should have ended it. The digest of a large cloud takes its time: no lock is held for it.
        fatal = len(jobs) == 1 and self._deadly.add(jobs[0], ending)
        with self._changed:
            for job in jobs:
                if job.abandoned:
                    job.close()
                elif fatal:
                    self._tally.events["fatal"] += 1
                    _fail(job, FatalCloud(f"the worker ended twice while it held this cloud ({ending})"))
                else:
                    job.retried = True
                    self._tally.events["retried"] += 1
                    lane.retries.append(job)

    def _watch(self) -> None:
        """End workers that hang or take too much memory; their lanes then hear that they are gone."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, WATCH_S):
                    return
                now = time.monotonic()
                for lane in self._lanes:
                    lane.rss_bytes = rss_bytes(lane.device.pid)
                    if lane.state != "ready":
                        continue
                    if lane.hangs(now, self._silence_s):
                        self._tally.events["hung"] += 1
                        lane.device.kill(f"killed because it said nothing for {now - lane.heard:.0f} s")
                    elif lane.rss_bytes > self._worker_memory_bytes:
                        self._tally.events["out_of_memory"] += 1
                        limit = self._worker_memory_bytes >> 20
                        lane.device.kill(f"killed because it took more than {limit} MB of memory")
                    else:
                        continue
                    lane.state, lane.reason = "loading", LOST

    def _refuse_all(self, error: ServiceError) -> None:
        jobs = [job for lane in self._lanes for job in (*lane.retries, *lane.empty())]
        for lane in self._lanes:
            lane.retries.clear()
        while (job := self._queue.pop()) is not None:
            jobs.append(job)
        self._end(jobs, error)

    @staticmethod
    def _end(jobs: Iterable[Job], error: ServiceError) -> None:
        for job in jobs:
            _fail(job, error)


def _fail(job: Job, error: ServiceError) -> None:
    job.close()
    if not job.abandoned:
        job.future.set_exception(error)


def _id(job: Job) -> str:
    return str(job.message.get("request_id", ""))
