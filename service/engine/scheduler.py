"""The queue in front of the device: admission by points, deadlines, cancellation, and a second try after a crash.

One cloud is run at a time, in the order of arrival.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog

from service.engine.channel import Message
from service.engine.device import Device
from service.errors import DeadlineExceeded, NotReady, Overloaded, ServiceError, WorkerLost

ATTEMPTS = 2
HANG_GRACE_S = 30.0
RESTART_S = (0.0, 1.0, 5.0, 15.0, 60.0)
log = structlog.get_logger()

Outcome = tuple[Message, list[int]]


@dataclass
class Job:
    """One cloud to label.

    Attributes:
        message: what the worker gets.
        descriptor: the cloud's shared memory. It is the job's own: the submitter may stop waiting, and close its
            descriptor, while the job is still to be run.
        points: size of the cloud, for admission.
        deadline: `time.monotonic()` after which nobody waits for the answer.
        future: the answer; cancel it and the job is dropped unless it already runs.
    """

    message: Message
    descriptor: int
    points: int
    deadline: float
    future: Future[Outcome] = field(default_factory=Future)
    attempts: int = 0

    def start(self) -> bool:
        """Return whether anybody still wants the answer; from then on the job cannot be cancelled."""
        if self.attempts or self.future.set_running_or_notify_cancel():
            return True
        os.close(self.descriptor)
        return False

    def succeed(self, outcome: Outcome) -> None:
        """Hand over the reply and its descriptors, and give the cloud's memory back."""
        os.close(self.descriptor)
        self.future.set_result(outcome)

    def fail(self, error: ServiceError) -> None:
        """Hand over the error, and give the cloud's memory back."""
        os.close(self.descriptor)
        self.future.set_exception(error)


class Scheduler:
    """Feeds one device from a bounded queue. Safe to use from many threads.

    Args:
        device: whose worker runs the jobs; only the scheduler's own thread touches it.
        max_queued_points: more points than this never wait at the same time.
    """

    def __init__(self, device: Device, max_queued_points: int) -> None:
        self._device = device
        self._max_queued_points = max_queued_points
        self._queue: deque[Job] = deque()
        self._queued_points = 0
        self._changed = threading.Condition()
        self._closed = False
        self._was_ready = False
        self._state, self._reason = "loading", "the models are being loaded"
        self._points_per_s = 100_000.0
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Outcome]:
        """Queue a job and return its future, which ends with the reply and its descriptors, or a ServiceError.

        The scheduler closes the job's descriptor at its end, unless this call raises.

        Raises:
            NotReady: the models are not loaded yet, or do not load.
            Overloaded: the queue has no room for so many points now.
        """
        with self._changed:
            if self._closed:
                raise NotReady("the service is shutting down")
            if self._state == "failed" or not self._was_ready:
                raise NotReady(self._reason, retry_after_s=5)
            if self._queue and self._queued_points + job.points > self._max_queued_points:
                wait_s = self._queued_points / self._points_per_s
                raise Overloaded(
                    f"{self._queued_points} points are waiting and {job.points} more are over the limit of "
                    f"{self._max_queued_points}",
                    retry_after_s=max(1.0, round(wait_s)),
                )
            self._queue.append(job)
            self._queued_points += job.points
            self._changed.notify()
        return job.future

    def status(self) -> dict[str, Any]:
        """Return the state ("loading", "ready", "failed"), its reason, the queue and the device, as JSON values."""
        with self._changed:
            return {
                "state": self._state,
                "reason": self._reason,
                "queue": {"requests": len(self._queue), "points": self._queued_points},
                "device": self._device.about,
                "environment": self._device.environment,
                "worker_pid": self._device.pid,
                "worker_starts": self._device.starts,
                "models": self._device.cards,
            }

    def close(self) -> None:
        """Refuse what waits and end the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._device.close()
        self._thread.join(5)

    def _run(self) -> None:
        failures = 0
        while not self._closed:
            if not self._device.alive():
                failures = 0 if self._start(failures) else min(failures + 1, len(RESTART_S) - 1)
                continue
            job = self._next(patience_s=0.5)
            if job is not None:
                self._do(job)
        self._refuse_all(NotReady("the service is shutting down"))

    def _start(self, failures: int) -> bool:
        self._set_state("loading" if not failures else self._state, self._reason)
        with self._changed:
            self._changed.wait_for(lambda: self._closed, RESTART_S[failures])
        if self._closed:
            return False
        try:
            self._device.start()
        except ServiceError as error:
            log.error("models do not load", reason=error.detail)
            self._set_state("failed", error.detail)
            self._refuse_all(NotReady(error.detail, retry_after_s=5))
            return False
        self._was_ready = True
        self._set_state("ready", "")
        return True

    def _set_state(self, state: str, reason: str) -> None:
        with self._changed:
            self._state, self._reason = state, reason

    def _next(self, patience_s: float) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed, patience_s)
            if not self._queue or self._closed:
                return None
            job = self._queue.popleft()
            self._queued_points -= job.points
            return job

    def _do(self, job: Job) -> None:
        if not job.start():
            return
        started = time.monotonic()
        if started >= job.deadline:
            job.fail(DeadlineExceeded("the deadline passed while the request waited for the device"))
            return
        job.attempts += 1
        try:
            outcome = self._device.run(job.message, job.descriptor, job.deadline + HANG_GRACE_S)
        except WorkerLost as error:
            self._set_state("loading", "the worker was lost and is being replaced")
            if job.attempts < ATTEMPTS:
                with self._changed:
                    self._queue.appendleft(job)
                    self._queued_points += job.points
            else:
                job.fail(WorkerLost(error.detail, retry_after_s=5))
        except ServiceError as error:
            job.fail(error)
        else:
            seconds = max(time.monotonic() - started, 1e-3)
            self._points_per_s += 0.2 * (job.points / seconds - self._points_per_s)
            job.succeed(outcome)

    def _refuse_all(self, error: ServiceError) -> None:
        with self._changed:
            jobs, self._queued_points = list(self._queue), 0
            self._queue.clear()
        for job in jobs:
            if job.start():
                job.fail(error)
