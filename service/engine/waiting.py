"""Clouds that wait for a device, and the order in which they get one."""

from __future__ import annotations

import hashlib
import itertools
import os
from bisect import insort
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from service.engine import shared
from service.engine.channel import Message
from service.errors import Overloaded

Outcome = tuple[Message, list[int]]
BASE_COST = 5_000
"""What a request costs beside its points, in points: a cloud of three points takes longer than a thousandth of one of
three thousand."""
SHOT = ("killed by SIGKILL", "killed by SIGTERM")
_numbers = itertools.count()


@dataclass(eq=False)
class Job:
    """One cloud to label.

    Attributes:
        message: what the worker gets; `model` is in it.
        descriptor: the cloud's shared memory. It is the job's own: the submitter may stop waiting, and close its
            descriptor, while the job is still to be run.
        points: size of the cloud.
        deadline: `time.monotonic()` after which nobody waits for the answer.
        passes: how often the network sees the cloud; more than 1 with test-time augmentation.
        future: the answer: the reply and its descriptors, or a ServiceError.
        number: tells it from all others of this process.
        place: where it stands in the queue; see `Queue`.
        retried: whether it was in a worker's hands when that was lost.
        abandoned: whether nobody waits for the answer any more.
        done: what share of the work on it is done, where its worker tells: during the test-time procedure.
    """

    message: Message
    descriptor: int
    points: int
    deadline: float
    passes: int = 1
    future: Future[Outcome] = field(default_factory=Future)
    number: int = field(default_factory=lambda: next(_numbers))
    place: float = 0.0
    retried: bool = False
    abandoned: bool = False
    done: float = 0.0

    @property
    def cost(self) -> int:
        """What running it takes, in points."""
        return (self.points + BASE_COST) * self.passes

    def close(self) -> None:
        """Give the cloud's memory back."""
        os.close(self.descriptor)


class Queue:
    """The jobs that no device has yet, in the order in which they will get one. Not safe to use from many threads.

    The rule: a job's place is its arrival plus the time that running it is expected to take, and the first place is
    served first. So a small cloud that comes soon after a large one goes before it, and does not wait for it; and a
    large cloud is overtaken only by what arrives within its own running time after it, however many small ones keep
    coming.

    Args:
        max_points: more points than this never wait at the same time, but for a single cloud that has more.
        max_requests: more clouds than this never wait; those that a worker got ahead of their turn count too.
    """

    def __init__(self, max_points: int, max_requests: int) -> None:
        self._max_points, self._max_requests = max_points, max_requests
        self._jobs: list[tuple[float, int, Job]] = []
        self.points = 0
        self.cost = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job, now: float, cost_per_s: float, devices: int = 1, ahead: Sequence[Job] = ()) -> None:
        """Take a job in.

        Args:
            job: what to run.
            now: `time.monotonic()`.
            cost_per_s: what one device gets done, in points a second; it tells how long the job will take.
            devices: how many there are.
            ahead: jobs that wait too, though no longer here.

        Raises:
            Overloaded: the queue is full.
        """
        self.check(job.points, cost_per_s * devices, ahead)
        job.place = now + job.cost / cost_per_s
        insort(self._jobs, (job.place, job.number, job))
        self.points += job.points
        self.cost += job.cost

    def check(self, points: int, cost_per_s: float, ahead: Sequence[Job] = ()) -> None:
        """Refuse points for which there is no room.

        Raises:
            Overloaded: with the time that all devices together need for what waits.
        """
        requests = len(self._jobs) + len(ahead)
        waiting = self.points + sum(job.points for job in ahead)
        if requests >= self._max_requests:
            full = f"{requests} requests are waiting and the limit is {self._max_requests}"
        elif requests and waiting + points > self._max_points:
            full = f"{waiting} points are waiting and {points} more are over the limit of {self._max_points}"
        else:
            return
        cost = self.cost + sum(job.cost for job in ahead)
        raise Overloaded(full, retry_after_s=max(1.0, round(cost / cost_per_s)))

    def pop(self) -> Job | None:
        """Return the job whose turn it is, or None when none waits."""
        return self._forget(0) if self._jobs else None

    def remove(self, job: Job) -> bool:
        """Take a job out; return whether it was there."""
        for index, (_place, _number, waiting) in enumerate(self._jobs):
            if waiting is job:
                self._forget(index)
                return True
        return False

    def _forget(self, index: int) -> Job:
        _place, _number, job = self._jobs.pop(index)
        self.points -= job.points
        self.cost -= job.cost
        return job


class Rate:
    """How much gets done in a second: the ratio of what was done lately to the time it took.

    Args:
        amount: the first guess, as if it had been done in one second.
    """

    MEMORY = 0.9

    def __init__(self, amount: float) -> None:
        self._amount, self._seconds = amount, 1.0

    def add(self, amount: float, seconds: float) -> None:
        """Count what was done in so much time."""
        self._amount = self.MEMORY * self._amount + amount
        self._seconds = self.MEMORY * self._seconds + max(seconds, 1e-6)

    def per_s(self) -> float:
        """Return the rate."""
        return self._amount / self._seconds


class Deadly:
    """Clouds in whose hands a worker ended, by the digest of their bytes; two such ends and a cloud is refused.

    An end by SIGKILL or SIGTERM that the service did not send may be somebody else's doing: it counts for a half.

    Args:
        remembered: how many are kept; the oldest is forgotten.
    """

    LIMIT = 2.0

    def __init__(self, remembered: int = 256) -> None:
        self._remembered = remembered
        self._ends: OrderedDict[tuple[int, bytes], float] = OrderedDict()

    def add(self, job: Job, ending: str) -> bool:
        """Count a worker that ended so while it held this job alone; return whether the job is to be given up."""
        key = self._key(job)
        self._ends[key] = self._ends.pop(key, 0) + (0.5 if ending in SHOT else 1)
        if len(self._ends) > self._remembered:
            self._ends.popitem(last=False)
        return self._ends[key] >= self.LIMIT

    def forgive(self, job: Job) -> None:
        """Forget a job that went well after all: its worker was ended by something else."""
        self._ends.pop(self._key(job), None)

    def __contains__(self, job: Job) -> bool:
        """Tell whether the job is known to end workers; its bytes are looked at only where another had as many."""
        if not any(size == job.points for size, _digest in self._ends):
            return False
        return self._ends.get(self._key(job), 0) >= self.LIMIT

    @staticmethod
    def _key(job: Job) -> tuple[int, bytes]:
        wishes = [job.message.get(name) for name in ("model", "tta", "condition")]
        digest = hashlib.blake2b(repr(wishes).encode(), digest_size=16)
        content = shared.view(job.descriptor)
        for entry in job.message["layout"]:
            digest.update(repr([entry[what] for what in ("name", "dtype", "shape")]).encode())
            # Not what else lies there: the memory may have been used before.
            digest.update(content[entry["start"] :][: shared.size(entry)])
        return job.points, digest.digest()
