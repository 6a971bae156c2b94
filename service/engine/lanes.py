"""All devices together: what they are about, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.engine.lane import Lane
from service.engine.waiting import Job


class Lanes:
    """The lanes of one queue. Every call needs the scheduler's lock."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    def add(self, lane: Lane) -> None:
        """Take a further device in."""
        self._lanes.append(lane)

    def by_load(self) -> list[Lane]:
        """Return the lanes, the one with the least work first."""
        return sorted(self._lanes, key=Lane.load)

    def speaker(self) -> Lane:
        """Return the lane that speaks for all of them: all have the same models."""
        return next((lane for lane in self._lanes if lane.state == "ready"), self._lanes[0])

    def state(self) -> tuple[str, str]:
        """Return the best state that a lane is in, and its reason."""
        states = [lane.state for lane in self._lanes]
        for state in ("ready", "loading", "failed"):
            if state in states:
                return state, self._lanes[states.index(state)].reason
        raise AssertionError(states)

    def ready(self) -> int:
        """Return how many devices work, 1 at least: what waits is for one of them."""
        return max(1, sum(lane.state == "ready" for lane in self._lanes))

    def ahead(self) -> list[Job]:
        """Return the jobs that have left the queue and do not run yet."""
        return [job for lane in self._lanes for job in lane.waiting()]

    def cost_per_s(self) -> float:
        """Return what one device gets done, in points a second."""
        return sum(lane.rate.per_s() for lane in self._lanes) / len(self._lanes)

    def holder(self, job: Job) -> Lane | None:
        """Return the lane whose worker has a job."""
        return next((lane for lane in self._lanes if job.number in lane.in_flight), None)

    def status(self) -> dict[str, Any]:
        """Return devices, workers and models as JSON values."""
        first = self.speaker()
        return {
            "device": first.device.about,
            "environment": first.device.environment,
            "worker_pid": first.device.pid,
            "worker_starts": sum(lane.device.starts for lane in self._lanes),
            "models": first.device.cards,
            "workers": [lane.status() for lane in self._lanes],
            "progress": {name: done for lane in self._lanes for name, done in lane.progress().items()},
            "points_per_s": round(self.cost_per_s() * self.ready()),
        }
