"""The queue's order and the forming of batches, on a clock that the tests turn."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batches import Batches, Item
from service.engine.lane import Lane
from service.engine.waiting import BASE_COST, Job, Queue
from service.errors import Overloaded
from tests.engine.fakes import FakeDevice

POINTS_PER_S = 100_000.0
LONG = 1e9


@dataclass
class Arrival:
    """A cloud that comes at a time, and what became of it."""

    at: float
    points: int
    job: Job = field(init=False)
    started: float = -1.0

    def __post_init__(self) -> None:
        self.job = Job({"model": "stub"}, -1, self.points, LONG)

    @property
    def takes(self) -> float:
        """Seconds that it keeps a device."""
        return self.job.cost / POINTS_PER_S


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        st.floats(0, 20, allow_nan=False),
        st.one_of(st.integers(1, 5_000), st.integers(50_000, 2_000_000)),
    ),
    min_size=1,
    max_size=25,
)


def simulate(arrivals: list[Arrival], devices: int) -> list[Arrival]:
    """Run clouds one at a time on each device; return them in the order in which they were started."""
    queue = Queue(10**12, 10**6)
    coming = sorted(arrivals, key=lambda one: one.at)
    by_job = {one.job.number: one for one in arrivals}
    free = [0.0] * devices
    order = []
    while coming or len(queue):
        now = heapq.heappop(free)
        if not len(queue) and coming and coming[0].at > now:
            now = coming[0].at
        while coming and coming[0].at <= now:
            one = coming.pop(0)
            queue.add(one.job, one.at, POINTS_PER_S)
        job = queue.pop()
        if job is not None:
            one = by_job[job.number]
            one.started = now
            order.append(one)
            now += one.takes
        heapq.heappush(free, now)
    return order


@given(ARRIVALS, st.integers(1, 3))
def test_a_large_cloud_is_overtaken_only_within_its_own_running_time(arrivals: list[Arrival], devices: int) -> None:
    order = simulate(arrivals, devices)
    assert len(order) == len(arrivals)
    for place, one in enumerate(order):
        for other in order[:place]:
            assert other.at <= one.at + one.takes


@given(ARRIVALS, st.integers(1, 3))
def test_a_small_cloud_goes_before_a_large_one_that_still_waits(arrivals: list[Arrival], devices: int) -> None:
    for one in (order := simulate(arrivals, devices)):
        for other in order:
            both_wait = max(one.at, other.at) < min(one.started, other.started)
            if both_wait and one.at + one.takes < other.at + other.takes:
                assert one.started <= other.started


@given(ARRIVALS)
def test_nobody_waits_longer_than_the_work_that_came_in_its_time(arrivals: list[Arrival]) -> None:
    for one in (order := simulate(arrivals, 1)):
        before = sum(other.takes for other in order if other is not one and other.at <= one.at + one.takes)
        assert one.started <= one.at + before + 1e-6


def test_a_stream_of_small_clouds_does_not_starve_a_large_one() -> None:
    large = Arrival(0.5, 1_000_000)
    small = [Arrival(n * 0.1, 5_000) for n in range(600)]  # as much as the device can do
    simulate([large, *small], 1)
    assert large.started <= 2 * large.takes + 1


def test_a_small_cloud_does_not_wait_for_large_ones() -> None:
    large = [Arrival(0.0, 1_000_000) for _ in range(5)]
    small = Arrival(0.1, 1_000)
    simulate([*large, small], 1)
    assert small.started <= large[0].takes + 0.1  # the one that ran already


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 2000), st.integers(1, 20))
def test_the_queue_is_bounded(sizes: list[int], max_points: int, max_requests: int) -> None:
    queue = Queue(max_points, max_requests)
    for points in sizes:
        job = Job({}, -1, points, LONG)
        room = len(queue) < max_requests and (queue.points + points <= max_points or not len(queue))
        if room:
            queue.add(job, 0.0, POINTS_PER_S)
        else:
            with pytest.raises(Overloaded) as caught:
                queue.add(job, 0.0, POINTS_PER_S)
            expected = max(1, round((queue.points + BASE_COST * len(queue)) / POINTS_PER_S))
            assert caught.value.retry_after_s == expected
    while queue.pop() is not None:
        pass
    assert (queue.points, queue.cost, len(queue)) == (0, 0, 0)


def item(number: int, model: str, voxels: int, deadline: float) -> Item:
    return Item(number, {}, model, None, None, voxels, deadline, None, voxels)


ITEMS = st.lists(
    st.builds(
        item,
        st.integers(),
        st.sampled_from("ab"),
        st.integers(1, 5000),
        st.one_of(st.just(LONG), st.floats(0, 0.1)),
    ),
    max_size=20,
)


@given(ITEMS, st.integers(1, 8000))
def test_a_batch_keeps_its_bounds(waiting: list[Item], max_voxels: int) -> None:
    batches = Batches()
    batch = batches.choose(waiting, max_voxels, 0.0)
    if not waiting:
        assert batch == []
        return
    assert batch[0] is waiting[0]
    assert len({one.model for one in batch}) == 1
    assert len(batch) == 1 or sum(one.voxels for one in batch) <= max_voxels
    assert [one for one in waiting if one in batch] == batch
    # Nobody is made late by company: who could have been in time without the others still is.
    per_s = batches.voxels_per_s.per_s()
    so_far = 0
    for one in batch:
        so_far += one.voxels
        in_time_by_then = so_far / per_s <= one.deadline
        in_time_at_the_end = sum(other.voxels for other in batch) / per_s <= one.deadline
        assert in_time_at_the_end or not in_time_by_then


@given(ITEMS, st.integers(1, 8000))
def test_everybody_gets_a_batch_after_at_most_those_before(waiting: list[Item], max_voxels: int) -> None:
    batches, left, rounds = Batches(), list(waiting), {}
    turn = 0
    while left:
        batch = batches.choose(left, max_voxels, 0.0)
        rounds.update({id(one): turn for one in batch})
        left = [one for one in left if one not in batch]
        turn += 1
    for place, one in enumerate(waiting):
        assert rounds[id(one)] <= place


@given(st.lists(st.integers(1, 300_000), min_size=1, max_size=30), st.integers(1, 500_000))
def test_a_worker_gets_the_batch_that_runs_and_the_next_one(sizes: list[int], batch_voxels: int) -> None:
    lane = Lane(FakeDevice())  # type: ignore[arg-type]
    lane.begin({"batch_voxels": batch_voxels})
    held: list[Job] = []
    for points in sizes:
        if lane.has_room():
            held.append(Job({}, -1, points, LONG))
            lane.take(held[-1], 0.0)
    assert len(held) >= min(2, len(sizes))
    assert len(held) <= 2 or sum(job.points for job in held[:-1]) < 2 * batch_voxels
    for job in held:
        assert lane.finish(job.number, 1.0) is job
    assert lane.load() == 0


def test_memory_of_a_job_is_looked_at_only_where_sizes_agree() -> None:
    from service.engine.waiting import Deadly

    def one(content: bytes, points: int, before: bytes = b"", after: bytes = b"") -> Job:
        descriptor = os.memfd_create("job")
        os.write(descriptor, before + content + after)
        layout = [{"name": "coord", "dtype": "|u1", "shape": [len(content)], "start": len(before)}]
        return Job({"model": "stub", "layout": layout}, descriptor, points, LONG)

    deadly = Deadly(remembered=2)
    bad, same, other, larger = one(b"bad", 5), one(b"bad", 5), one(b"good", 5), one(b"bad", 6)
    assert not deadly.add(bad, "killed by SIGSEGV")
    assert same not in deadly
    assert deadly.add(bad, "killed by SIGSEGV")
    assert same in deadly
    assert one(b"bad", 5, before=b"of an earlier one", after=b"too") in deadly
    assert other not in deadly
    larger.close()
    assert larger not in deadly  # or its closed descriptor would have been read
    for n in range(2):
        deadly.add(one(b"%d" % n, 7), "killed by SIGSEGV")
    assert same not in deadly  # the oldest is forgotten
