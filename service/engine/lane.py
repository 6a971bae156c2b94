"""One device's share of the work: what its worker holds now, and how that is going."""

from __future__ import annotations

from collections import deque
from typing import Any

from service.engine.channel import Message
from service.engine.device import Device
from service.engine.waiting import Job, Rate

FIRST_GUESS_PER_S = 200_000.0
BATCH_VOXELS = 100_000
MAX_AHEAD = 128
"""No more jobs than this are with one worker: each is an open descriptor and a message in a socket's buffer."""
SLOW = 10.0
"""A worker may take so many times longer than its rate promises before it counts as hung."""


class Lane:
    """A device with the jobs that were sent to its worker. Every call needs the scheduler's lock.

    A worker gets jobs ahead of their turn, so that it can prepare one cloud while the network runs on others and join
    those that stand ready: two jobs at least, and as many as make up the batch that runs and the one after it.

    Attributes:
        device: whose worker this is.
        state, reason: "loading", "ready" or "failed", and why.
        in_flight: jobs that the worker has, by their numbers.
        retries: jobs that a worker had when it was lost. Each is run alone, so that one that ends workers is known.
        rate: points a second.
        heard: `time.monotonic()` when the worker last said something, or got work after being idle.
        rss_bytes: resident memory of the worker, as last looked at.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.state, self.reason = "loading", "the models are being loaded"
        self.in_flight: dict[int, Job] = {}
        self.retries: deque[Job] = deque()
        self.rate = Rate(FIRST_GUESS_PER_S)
        self.heard = 0.0
        self.rss_bytes = 0
        self._patience_s = 0.0
        self._points = 0
        self._done_cost = 0
        self._counted = 0.0
        self._batch_voxels = BATCH_VOXELS
        self._voxels_a_point = Rate(1.0)
        self._memory: dict[str, Any] = {}

    def begin(self, ready: Message) -> None:
        """Note that a worker is ready, with what it said."""
        self.state, self.reason = "ready", ""
        self._batch_voxels = ready.get("batch_voxels", BATCH_VOXELS)

    def next_retry(self) -> Job | None:
        """Return the job to run again now, if there is one and the worker is free of all others."""
        return self.retries.popleft() if self.retries and not self.in_flight else None

    def has_room(self) -> bool:
        """Return whether the worker should get another job."""
        if self.retries or any(job.retried for job in self.in_flight.values()):
            return False
        if len(self.in_flight) >= MAX_AHEAD:
            return False
        return len(self.in_flight) < 2 or self._points * self._voxels_a_point.per_s() < 2 * self._batch_voxels

    def waiting(self) -> list[Job]:
        """Return the jobs that wait for the worker though they have left the queue.

        These are the ones to run again, and what was sent beyond the batch that may be running: which clouds are in
        that the worker decides, but they are hardly more than the first ones that a batch has room for.
        """
        left = self._batch_voxels / self._voxels_a_point.per_s()
        ahead: list[Job] = []
        for index, job in enumerate(self.in_flight.values()):
            left -= job.points
            if index and left < 0:
                ahead.append(job)
        return [*self.retries, *ahead]

    def load(self) -> float:
        """Return the seconds of work that the worker holds."""
        return sum(job.cost for job in self.in_flight.values()) / self.rate.per_s()

    def take(self, job: Job, now: float) -> None:
        """Note that a job was sent."""
        if not self.in_flight:
            self.heard = self._counted = now
        self.in_flight[job.number] = job
        self._points += job.points

    def finish(self, number: int, now: float) -> Job | None:
        """Note that a job was answered, and return it."""
        job = self.in_flight.pop(number, None)
        self.heard, self._patience_s = now, 0.0
        if job is not None:
            self._points -= job.points
            self._done_cost += job.cost
        return job

    def count(self, report: Message, now: float) -> None:
        """Learn from what the worker says of a batch, which it does after the batch's last answer."""
        # At least the batch's own time: new work may have come between its last answer and this.
        self.rate.add(self._done_cost, max(now - self._counted, report.get("seconds", 0.0)))
        self._done_cost, self._counted = 0, now
        self._voxels_a_point.add(report.get("voxels", 0), report.get("points", 0))
        self._batch_voxels = report.get("batch_voxels", self._batch_voxels)
        self._memory = report.get("memory", {})

    def wait(self, word: Message, now: float) -> None:
        """Note that the worker asks for patience: it loads a model, or is at long work, of which it says how far."""
        self.heard, self._patience_s = now, word["patience_s"]
        for number, done in word.get("done", {}).items():
            job = self.in_flight.get(int(number))
            if job is not None:
                job.done = done

    def progress(self) -> dict[str, float]:
        """Return what share of the work on a request is done, by the request's id, where the worker tells."""
        jobs = self.in_flight.values()
        return {str(job.message.get("request_id", "")): round(job.done, 4) for job in jobs if job.done > 0}

    def hangs(self, now: float, silence_s: float) -> bool:
        """Return whether the worker has been silent for longer than its work explains."""
        return bool(self.in_flight) and now - self.heard > silence_s + self._patience_s + SLOW * self.load()

    def empty(self) -> list[Job]:
        """Take every job back from a worker that was lost."""
        jobs = list(self.in_flight.values())
        self.in_flight.clear()
        self._points = self._done_cost = 0
        self._patience_s = 0.0
        return jobs

    def status(self) -> dict[str, Any]:
        """Return the state of the device and its worker, as JSON values."""
        return {
            "device": self.device.name,
            "state": self.state,
            "reason": self.reason,
            "pid": self.device.pid,
            "starts": self.device.starts,
            "in_flight": {"requests": len(self.in_flight), "points": self._points},
            "points_per_s": round(self.rate.per_s()),
            "rss_bytes": self.rss_bytes,
            "memory": self._memory,
        }
