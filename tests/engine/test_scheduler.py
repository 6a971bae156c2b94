"""The queue: order, deadlines, cancellation, admission, and what happens when the worker dies."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from service.engine.channel import Message
from service.engine.scheduler import Job, Outcome, Scheduler
from service.errors import DeadlineExceeded, NotReady, Overloaded, ServiceError, UnusableCloud, WorkerLost


class FakeDevice:
    """A device whose worker does as the test says."""

    def __init__(self) -> None:
        self.cards: list[dict[str, Any]] = [{"name": "stub"}]
        self.about: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.pid = None
        self.starts = 0
        self.up = False
        self.ran: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()
        self.losses = 0
        self.start_error: ServiceError | None = None

    def alive(self) -> bool:
        return self.up

    def start(self) -> None:
        self.starts += 1
        if self.start_error is not None:
            raise self.start_error
        self.up = True

    def run(self, message: Message, descriptor: int, deadline: float) -> Outcome:
        os.fstat(descriptor)  # the memory must still be there, however long the job waited
        self.ran.append(message["id"])
        assert self.gate.wait(10)
        if self.losses:
            self.losses -= 1
            self.up = False
            raise WorkerLost("killed by SIGKILL")
        if message.get("bad"):
            raise UnusableCloud("no")
        return {"id": message["id"]}, []

    def close(self) -> str:
        self.up = False
        return ""


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def scheduler(device: FakeDevice):  # type: ignore[no-untyped-def]
    made = Scheduler(device, max_queued_points=100)  # type: ignore[arg-type]
    wait_for(lambda: made.status()["state"] == "ready")
    yield made
    device.gate.set()
    made.close()


def wait_for(condition: Any, patience_s: float = 5.0) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.005)


def job(name: Any = 0, points: int = 10, patience_s: float = 10.0, **message: Any) -> Job:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    return Job({"id": name, **message}, descriptor, points, time.monotonic() + patience_s)


def closed(made: Job) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{made.descriptor}") != os.devnull
    except OSError:
        return True


def test_jobs_run_in_order(scheduler: Scheduler, device: FakeDevice) -> None:
    futures = [scheduler.submit(job(n)) for n in range(5)]
    assert [future.result(5)[0]["id"] for future in futures] == list(range(5)) == device.ran


def test_an_error_of_the_worker_reaches_the_submitter_alone(scheduler: Scheduler, device: FakeDevice) -> None:
    bad, good = scheduler.submit(job(1, bad=True)), scheduler.submit(job(2))
    with pytest.raises(UnusableCloud):
        bad.result(5)
    assert good.result(5)[0] == {"id": 2}
    assert device.starts == 1


def test_a_cancelled_job_never_runs(scheduler: Scheduler, device: FakeDevice) -> None:
    device.gate.clear()
    first = scheduler.submit(job(1))
    wait_for(lambda: device.ran == [1])
    dropped = job(2)
    assert scheduler.submit(dropped).cancel()
    last = scheduler.submit(job(3))
    device.gate.set()
    first.result(5)
    last.result(5)
    assert device.ran == [1, 3]
    assert closed(dropped)


def test_a_job_past_its_deadline_never_runs(scheduler: Scheduler, device: FakeDevice) -> None:
    device.gate.clear()
    first = scheduler.submit(job(1))
    wait_for(lambda: device.ran == [1])
    late = scheduler.submit(job(2, patience_s=0.01))
    time.sleep(0.05)
    device.gate.set()
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    first.result(5)
    assert device.ran == [1]


def test_points_over_the_limit_are_refused_with_a_time(scheduler: Scheduler, device: FakeDevice) -> None:
    device.gate.clear()
    running = scheduler.submit(job(1, points=80))
    wait_for(lambda: device.ran == [1])
    waiting = scheduler.submit(job(2, points=80))
    refused = job(3, points=30)
    with pytest.raises(Overloaded) as caught:
        scheduler.submit(refused)
    os.close(refused.descriptor)  # a refused job stays the submitter's
    assert caught.value.retry_after_s is not None and caught.value.retry_after_s >= 1
    device.gate.set()
    running.result(5)
    waiting.result(5)
    assert scheduler.submit(job(4, points=30)).result(5)


def test_one_cloud_larger_than_the_limit_still_gets_through_alone(scheduler: Scheduler) -> None:
    assert scheduler.submit(job(1, points=1000)).result(5)


def test_a_lost_worker_is_replaced_and_the_job_run_again(scheduler: Scheduler, device: FakeDevice) -> None:
    device.losses = 1
    assert scheduler.submit(job(1)).result(5)[0] == {"id": 1}
    assert (device.ran, device.starts) == ([1, 1], 2)


def test_a_job_that_loses_two_workers_is_given_up(scheduler: Scheduler, device: FakeDevice) -> None:
    device.losses = 2
    deadly, next_one = job(1), job(2)
    first, second = scheduler.submit(deadly), scheduler.submit(next_one)
    with pytest.raises(WorkerLost) as caught:
        first.result(5)
    assert caught.value.retry_after_s
    assert second.result(5)[0] == {"id": 2}
    wait_for(lambda: closed(deadly) and closed(next_one))


def test_a_worker_that_dies_idle_is_replaced(scheduler: Scheduler, device: FakeDevice) -> None:
    device.up = False
    wait_for(lambda: device.starts == 2 and device.up)
    assert scheduler.submit(job(1)).result(5)


def test_models_that_do_not_load_are_said_to_the_user(device: FakeDevice) -> None:
    device.start_error = UnusableCloud("no such weights")
    scheduler = Scheduler(device, 100)  # type: ignore[arg-type]
    wait_for(lambda: scheduler.status()["state"] == "failed")
    refused = job(1)
    with pytest.raises(NotReady, match="no such weights"):
        scheduler.submit(refused)
    os.close(refused.descriptor)
    device.start_error = None
    wait_for(lambda: scheduler.status()["state"] == "ready")
    assert scheduler.submit(job(2)).result(5)
    scheduler.close()


def test_closing_refuses_what_waits(scheduler: Scheduler, device: FakeDevice) -> None:
    device.gate.clear()
    scheduler.submit(job(1))
    wait_for(lambda: device.ran == [1])
    waiting = scheduler.submit(job(2))
    threading.Timer(0.1, device.gate.set).start()
    scheduler.close()
    with pytest.raises(NotReady):
        waiting.result(5)
