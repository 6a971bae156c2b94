"""The scheduler: deadlines, cancellation, admission, and what happens when a worker dies, hangs or eats memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.engine.scheduler import Scheduler
from service.errors import DeadlineExceeded, FatalCloud, InternalError, NotReady, Overloaded, UnusableCloud
from tests.engine.fakes import FakeDevice, closed, job, wait_for


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


def begin(*devices: FakeDevice, points: int = 100, requests: int = 50, **options: Any) -> Scheduler:
    made = Scheduler(devices, points, requests, **options)  # type: ignore[arg-type]
    wait_for(lambda: all(worker["state"] == "ready" for worker in made.status()["workers"]))
    return made


@pytest.fixture
def scheduler(device: FakeDevice) -> Iterator[Scheduler]:
    made = begin(device)
    yield made
    made.close()


def submit(scheduler: Scheduler, *jobs: Any) -> None:
    for one in jobs:
        scheduler.submit(one)


def test_a_worker_gets_work_ahead_of_its_turn_but_not_all(scheduler: Scheduler, device: FakeDevice) -> None:
    jobs = [job(n, points=1000) for n in range(5)]
    made = begin(other := FakeDevice(), points=10_000)
    submit(made, *jobs)
    assert other.names() == [0, 1]
    for n in range(5):
        other.answer(n)
        assert jobs[n].future.result(5)[0]["name"] == n
    assert other.names() == [0, 1, 2, 3, 4]
    made.close()


def test_small_clouds_fill_the_next_batch(device: FakeDevice) -> None:
    scheduler = begin(device, points=10_000)
    submit(scheduler, *(job(n, points=100) for n in range(30)))
    assert len(device.sent) == 20  # the voxels of two batches, where a point may be a voxel
    device.answer(*range(10))
    device.report(clouds=10, points=1000, voxels=500, seconds=0.1, batch_voxels=1000)
    wait_for(lambda: len(device.sent) == 30)  # now it is known that two points make a voxel
    assert scheduler.status()["batches"]["clouds"] == 10
    assert scheduler.status()["batches"]["sizes"]["16"] == 1
    scheduler.close()


def test_an_error_of_the_worker_reaches_the_submitter_alone(scheduler: Scheduler, device: FakeDevice) -> None:
    bad, good = job(1), job(2)
    submit(scheduler, bad, good)
    device.fail(1, UnusableCloud("no"))
    device.answer(2)
    with pytest.raises(UnusableCloud):
        bad.future.result(5)
    assert good.future.result(5)[0]["name"] == 2
    wait_for(lambda: closed(bad) and closed(good))
    assert device.starts == 1


def test_an_abandoned_job_never_runs(device: FakeDevice) -> None:
    scheduler = begin(device, points=10_000)
    first, second, dropped, last = (job(n, points=1000) for n in range(4))
    submit(scheduler, first, second, dropped, last)
    scheduler.abandon(dropped, "cancelled")
    assert closed(dropped)
    assert scheduler.status()["queue"] == {"requests": 2, "points": 2000}  # one of them is with the worker
    device.answer(0, 1)
    wait_for(lambda: device.names() == [0, 1, 3])
    assert scheduler.status()["counts"]["cancelled"] == 1
    scheduler.close()


def test_a_worker_hears_that_nobody_waits(scheduler: Scheduler, device: FakeDevice) -> None:
    dropped = job(1)
    submit(scheduler, dropped)
    scheduler.abandon(dropped, "cancelled")
    assert device.cancelled == [dropped.number]
    assert not closed(dropped)  # the worker may be reading it
    device.answer(1)
    wait_for(lambda: closed(dropped))


def test_a_job_past_its_deadline_never_runs(device: FakeDevice) -> None:
    scheduler = begin(device, points=10_000)
    first, second, late = job(1, 1000), job(2, 1000), job(3, 1000, patience_s=0.05)
    submit(scheduler, first, second, late)
    time.sleep(0.1)
    device.answer(1, 2)
    with pytest.raises(DeadlineExceeded):
        late.future.result(5)
    assert device.names() == [1, 2]
    assert closed(late)
    scheduler.close()


@pytest.mark.parametrize(("points", "requests"), [(100, 50), (10_000, 2)])
def test_what_is_over_the_limit_is_refused_with_a_time(device: FakeDevice, points: int, requests: int) -> None:
    scheduler = begin(device, points=points, requests=requests)
    running, waiting = [job(1, points=1000)], [job(n, points=45) for n in range(2, 4)]
    submit(scheduler, *running, *waiting)
    assert device.names() == [1, 2, 3]  # the worker has all of them, but those beyond its batch wait
    refused = job(9, points=30)
    with pytest.raises(Overloaded) as caught:
        scheduler.submit(refused)
    refused.close()  # a refused job stays the submitter's
    assert caught.value.retry_after_s is not None and caught.value.retry_after_s >= 1
    assert scheduler.status()["counts"]["refused"] == 1
    device.answer(1, 2, 3)
    for one in (*running, *waiting):
        one.future.result(5)
    scheduler.close()


def test_what_a_worker_has_ahead_of_its_turn_waits(device: FakeDevice) -> None:
    scheduler = begin(device, points=10_000, requests=4)
    jobs = [job(n, points=100) for n in range(14)]
    submit(scheduler, *jobs)
    assert len(device.sent) == 14  # ten make a batch, which may be running
    assert scheduler.status()["queue"] == {"requests": 4, "points": 400}
    refused = job(14, points=100)
    with pytest.raises(Overloaded, match="4 requests are waiting"):
        scheduler.submit(refused)
    device.answer(0)
    jobs[0].future.result(5)
    scheduler.submit(refused)
    device.die()  # those to be run again, one by one, wait as well
    wait_for(lambda: device.starts == 2 and len(device.sent) == 16)
    assert scheduler.status()["queue"]["requests"] == 13
    with pytest.raises(Overloaded):
        scheduler.check()
    scheduler.close()


def test_the_time_of_a_refusal_follows_the_rate(device: FakeDevice) -> None:
    scheduler = begin(device, points=10_000_000, requests=3)
    jobs = [job(n, points=1_000_000) for n in range(4)]
    submit(scheduler, *jobs)
    with pytest.raises(Overloaded) as before:
        scheduler.check()
    # A worker that has long been ten times slower than the first guess.
    for lane in scheduler._lanes:
        for _ in range(100):
            lane.rate.add(20_000, 1)
    with pytest.raises(Overloaded) as after:
        scheduler.check()
    assert (before.value.retry_after_s, after.value.retry_after_s) == (15, pytest.approx(150, rel=0.02))
    scheduler.close()


def test_one_cloud_larger_than_the_limit_still_gets_through_alone(scheduler: Scheduler, device: FakeDevice) -> None:
    large = job(1, points=1000)
    submit(scheduler, large)
    device.answer(1)
    assert large.future.result(5)


def test_a_lost_worker_is_replaced_and_its_jobs_run_again_one_by_one(scheduler: Scheduler, device: FakeDevice) -> None:
    jobs = [job(n) for n in range(3)]
    submit(scheduler, *jobs)
    device.answer(0)
    jobs[0].future.result(5)
    device.die()
    for n in (1, 2):
        wait_for(lambda n=n: device.names() == [0, 1, 2, *range(1, n + 1)])  # type: ignore[misc]
        time.sleep(0.02)
        assert device.names() == [0, 1, 2, *range(1, n + 1)]
        device.answer(n)
        assert jobs[n].future.result(5)[0]["name"] == n
    assert device.starts == 2
    assert scheduler.status()["counts"] == {"lost": 1, "retried": 2}


def test_the_guilty_one_is_found_and_remembered(scheduler: Scheduler, device: FakeDevice) -> None:
    innocent, deadly, next_one = job("innocent"), job("deadly", content=b"poison"), job("next")
    submit(scheduler, innocent, deadly)
    device.die()
    wait_for(lambda: device.names()[2:] == ["innocent"])
    submit(scheduler, next_one)
    device.answer("innocent")
    for starts in (2, 3):
        wait_for(lambda starts=starts: device.starts == starts and device.names()[-1] == "deadly")  # type: ignore[misc]
        device.die()
    with pytest.raises(FatalCloud, match="SIGSEGV"):
        deadly.future.result(5)
    wait_for(lambda: device.names()[-1] == "next")
    device.answer("next")
    next_one.future.result(5)
    assert innocent.future.result(5)

    again, other = job("deadly", content=b"poison"), job("other", content=b"healthy")
    with pytest.raises(FatalCloud):
        scheduler.submit(again)
    again.close()
    scheduler.submit(other)
    device.answer("other")
    assert other.future.result(5)
    wait_for(lambda: closed(deadly))
    assert scheduler.status()["counts"] == {"lost": 3, "retried": 3, "fatal": 1, "refused_fatal": 1}


def test_a_cloud_that_went_well_the_second_time_is_forgiven(scheduler: Scheduler, device: FakeDevice) -> None:
    for starts in (2, 3, 4):
        one = job(starts)
        submit(scheduler, one)
        device.die()
        wait_for(lambda starts=starts: device.names()[-2:] == [starts] * 2)  # type: ignore[misc]
        device.answer(starts)
        assert one.future.result(5)


def test_what_is_forgiven_is_the_cloud_and_not_what_lies_in_its_memory_afterwards(
    scheduler: Scheduler, device: FakeDevice
) -> None:
    for starts in (2, 3, 4):
        one = job(starts)
        # Whoever gets the answer may use the memory again at once.
        one.future.add_done_callback(lambda _done, one=one: os.pwrite(one.descriptor, b"other", 0))
        submit(scheduler, one)
        device.die()
        wait_for(lambda starts=starts: device.names()[-2:] == [starts] * 2)  # type: ignore[misc]
        device.answer(starts)
        assert one.future.result(5)


def test_kills_from_outside_are_hardly_held_against_a_cloud(scheduler: Scheduler, device: FakeDevice) -> None:
    one = job(1)
    submit(scheduler, one)
    for starts in (1, 2, 3):
        wait_for(lambda starts=starts: device.names() == [1] * starts)  # type: ignore[misc]
        device.die("killed by SIGKILL")
    wait_for(lambda: device.names() == [1] * 4)
    device.answer(1)
    assert one.future.result(5)


def test_a_worker_that_dies_idle_is_replaced(scheduler: Scheduler, device: FakeDevice) -> None:
    device.die()
    wait_for(lambda: device.starts == 2 and scheduler.status()["state"] == "ready")
    one = job(1)
    submit(scheduler, one)
    device.answer(1)
    assert one.future.result(5)


def test_a_silent_worker_is_ended(device: FakeDevice) -> None:
    scheduler = begin(device, silence_s=0.1)
    one = job(1)
    started = time.monotonic()
    submit(scheduler, one)
    wait_for(lambda: device.starts == 2 and device.names() == [1, 1])
    # Ten times what the work should take at the first guess, and the silence.
    assert 0.1 + 10 * one.cost / 200_000 <= time.monotonic() - started < 5
    device.say({"patience_s": 2.0})
    time.sleep(0.6)
    assert device.starts == 2
    device.answer(1)
    assert one.future.result(5)
    time.sleep(0.5)
    assert device.starts == 2  # nothing to do is no reason to be ended
    assert scheduler.status()["counts"]["hung"] == 1
    scheduler.close()


def test_a_worker_that_eats_memory_is_ended(device: FakeDevice) -> None:
    device.pid = os.getpid()
    scheduler = Scheduler([device], 100, 100, worker_memory_bytes=1 << 20)  # type: ignore[list-item]
    wait_for(lambda: scheduler.status()["counts"].get("out_of_memory", 0) >= 1)
    wait_for(lambda: device.starts >= 2)
    scheduler.close()


def test_a_worker_s_models_may_change(scheduler: Scheduler, device: FakeDevice) -> None:
    assert scheduler.models() == ["stub"]
    device.say({"cards": [{"name": "stub"}, {"name": "another"}]})
    wait_for(lambda: scheduler.models() == ["stub", "another"])
    assert [card["name"] for card in scheduler.status()["models"]] == ["stub", "another"]


def test_models_that_do_not_load_are_said_to_the_user(device: FakeDevice) -> None:
    device.start_error = UnusableCloud("no such weights")
    scheduler = Scheduler([device], 100, 100)  # type: ignore[list-item]
    wait_for(lambda: scheduler.status()["state"] == "failed")
    refused = job(1)
    with pytest.raises(NotReady, match="no such weights"):
        scheduler.submit(refused)
    refused.close()
    device.start_error = None
    wait_for(lambda: scheduler.status()["state"] == "ready")
    one = job(2)
    submit(scheduler, one)
    device.answer(2)
    assert one.future.result(5)
    scheduler.close()


def test_closing_refuses_what_waits(scheduler: Scheduler, device: FakeDevice) -> None:
    jobs = [job(n, points=1000) for n in range(3)]
    made = begin(other := FakeDevice(), points=10_000)
    submit(made, *jobs)
    assert len(other.sent) == 2
    made.close()
    for one in jobs:
        with pytest.raises(NotReady):
            one.future.result(5)
        assert closed(one)
    with pytest.raises(NotReady, match="shutting down"):
        made.check()


def test_draining_finishes_what_was_let_in(scheduler: Scheduler, device: FakeDevice) -> None:
    running, late = job(1), job(2)
    submit(scheduler, running)
    scheduler.drain()
    assert scheduler.status()["state"] == "stopping"
    submit(scheduler, late)  # it was being decoded when the end was announced
    device.answer(1, 2)
    assert running.future.result(5) and late.future.result(5)


def test_two_devices_share_one_queue() -> None:
    left, right = FakeDevice("left"), FakeDevice("right")
    scheduler = begin(left, right, points=10_000)
    jobs = [job(n, points=1000) for n in range(6)]
    submit(scheduler, *jobs)
    assert (left.names(), right.names()) == ([0, 2], [1, 3])
    right.answer(1)
    wait_for(lambda: right.names() == [1, 3, 4])
    left.die()  # its jobs wait for its own new worker, and the other device goes on
    right.answer(3)
    wait_for(lambda: right.names() == [1, 3, 4, 5])
    right.answer(4, 5)
    wait_for(lambda: left.names() == [0, 2, 0])
    left.answer(0)
    wait_for(lambda: left.names() == [0, 2, 0, 2])
    left.answer(2)
    for one in jobs:
        one.future.result(5)
    assert [worker["device"] for worker in scheduler.status()["workers"]] == ["left", "right"]
    scheduler.close()


def test_a_device_that_does_not_come_back_leaves_its_jobs_to_another() -> None:
    left, right = FakeDevice("left"), FakeDevice("right")
    scheduler = begin(left, right, points=10_000)
    jobs = [job(n, points=1000) for n in range(2)]
    submit(scheduler, *jobs)
    left.start_error = InternalError("the device is gone")
    left.die()
    wait_for(lambda: scheduler.status()["workers"][0]["state"] == "failed")
    right.answer(1)
    wait_for(lambda: right.names() == [1, 0])
    right.answer(0)
    for one in jobs:
        one.future.result(5)
    assert scheduler.status()["state"] == "ready"
    scheduler.close()


def test_auto_takes_the_devices_that_the_first_one_knows_of() -> None:
    first, second = FakeDevice("cuda:0"), FakeDevice("cuda:1")
    scheduler = Scheduler([first], 100, 100, siblings=lambda device: [second])  # type: ignore[list-item]
    wait_for(lambda: [worker["state"] for worker in scheduler.status()["workers"]] == ["ready"] * 2)
    first.die()
    wait_for(lambda: first.starts == 2)
    assert len(scheduler.status()["workers"]) == 2
    scheduler.close()
