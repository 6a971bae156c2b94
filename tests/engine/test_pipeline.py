"""A worker's threads: what is prepared ahead, what runs together, what is dropped."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.stub import Stub
from service.engine import shared
from service.engine.channel import MAX_MESSAGE_BYTES, Channel, Message, close_all
from service.engine.pipeline import Pipeline
from service.engine.pool import SMALLEST, Mappings, Piece
from service.errors import ServiceError, UnusableCloud
from service.values import ClassInfo, PointCloud, Segmentation
from tests.engine.fakes import wait_for

CLASSES = (ClassInfo(0, "only", (0, 0, 0)),)


class Slow(Stub):
    """A labeller that prepares and labels when the test lets it."""

    voxels = 100

    def __init__(self, window_s: float) -> None:
        super().__init__(window_s)
        self.may_prepare, self.may_label = threading.Semaphore(0), threading.Semaphore(0)
        self.prepared: list[int] = []
        self.batches: list[list[int]] = []
        self.more: dict[str, Any] = {}

    def wishes(self, message: Message) -> bool:
        return bool(message["bad"])

    def prepare(self, model: str, cloud: PointCloud, wishes: bool) -> tuple[int, int] | ServiceError:
        self.may_prepare.acquire()
        self.prepared.append(len(cloud))
        return UnusableCloud("bad") if wishes else (len(cloud), len(cloud))

    def label(
        self,
        model: str,
        clouds: Sequence[PointCloud],
        wishes: Sequence[Any],
        ready: Sequence[Any],
        tick: Callable[[float], None],
    ) -> list[Segmentation | ServiceError]:
        assert list(ready) == [len(cloud) for cloud in clouds]
        self.batches.append(list(ready))
        answers: list[Segmentation | ServiceError] = []
        while not self.may_label.acquire(timeout=0.01):
            try:
                tick(0.5)
            except ServiceError as error:
                return [error for _ in clouds]
        for cloud in clouds:
            answers.append(Segmentation(np.full(len(cloud), len(cloud), np.int32), CLASSES, model, **self.more))
        return answers


class Bench:
    """A pipeline in threads of this process, and the engine's end of its channel."""

    def __init__(self, window_s: float = 0.002) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel, self.labeller = Channel(ours), Slow(window_s)
        self._pipeline = Pipeline(Channel(theirs), self.labeller)
        self._thread = threading.Thread(target=self._pipeline.run, daemon=True)
        self._thread.start()
        self.reports: list[Message] = []

    def job(self, number: int, points: int, *, model: str = "m", patience_s: float = 30.0, bad: bool = False) -> None:
        descriptor, layout = shared.pack({"coord": np.zeros((points, 3), np.float32)})
        about = {"model": model, "layout": layout, "deadline": time.monotonic() + patience_s, "bad": bad}
        self.channel.send({"op": "label", "id": number, **about}, (descriptor,))
        os.close(descriptor)

    def on_their_way(self) -> int:
        """Return how many clouds have arrived and are not prepared."""
        return len(self._pipeline._incoming) + len(self._pipeline._preparing)

    def cancel(self, number: int) -> None:
        self.channel.send({"op": "cancel", "id": number})

    def answer(self) -> Message:
        """Return the next answer, with its labels' number as `label`."""
        while True:
            message, descriptors = self.channel.receive(time.monotonic() + 10)
            if "id" not in message or "report" in message:
                self.reports.append(message)
            if "id" in message:
                break
        if descriptors:
            message["label"] = int(shared.unpack(descriptors[0], message["layout"])["label"][0])
        close_all(descriptors)
        return message

    def close(self) -> None:
        self.channel.close()
        self.labeller.may_prepare.release(100)
        self.labeller.may_label.release(100)
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_cloud_is_prepared_while_another_is_labelled(bench: Bench) -> None:
    bench.job(1, 10)
    bench.labeller.may_prepare.release(2)
    wait_for(lambda: bench.labeller.batches == [[10]])
    bench.job(2, 20)
    wait_for(lambda: bench.labeller.prepared == [10, 20])
    assert bench.labeller.batches == [[10]]
    bench.labeller.may_label.release(2)
    assert [(message["id"], message["label"]) for message in (bench.answer(), bench.answer())] == [(1, 10), (2, 20)]


def test_what_stands_ready_runs_together_within_the_voxels(bench: Bench) -> None:
    bench.job(1, 10)
    bench.labeller.may_prepare.release(1)
    wait_for(lambda: bench.labeller.batches == [[10]])
    for number, points in enumerate((60, 50, 30, 10), 2):
        bench.job(number, points)
    bench.labeller.may_prepare.release(4)
    wait_for(lambda: len(bench.labeller.prepared) == 5)
    bench.labeller.may_label.release(3)
    found = {message["id"]: message["label"] for message in (bench.answer() for _ in range(5))}
    assert found == {1: 10, 2: 60, 3: 50, 4: 30, 5: 10}
    assert bench.labeller.batches == [[10], [60, 30, 10], [50]]
    assert [bench.reports[n]["report"]["clouds"] for n in (0, 1)] == [1, 3]


def test_models_do_not_mix(bench: Bench) -> None:
    bench.job(1, 10)
    bench.labeller.may_prepare.release(1)
    wait_for(lambda: bench.labeller.batches == [[10]])
    for number, model in enumerate("aba", 2):
        bench.job(number, 10 + number, model=model)
    bench.labeller.may_prepare.release(3)
    wait_for(lambda: len(bench.labeller.prepared) == 4)
    bench.labeller.may_label.release(3)
    for _ in range(4):
        bench.answer()
    assert bench.labeller.batches == [[10], [12, 14], [13]]


def test_a_free_device_waits_for_what_is_being_prepared_but_not_for_more() -> None:
    bench = Bench(window_s=5.0)
    bench.labeller.may_label.release(10)
    bench.labeller.may_prepare.release(1)
    started = time.monotonic()
    bench.job(1, 10)
    bench.answer()
    assert time.monotonic() - started < 4  # nothing else is on its way: no wait
    bench.job(2, 20)
    bench.job(3, 30)
    wait_for(lambda: bench.on_their_way() == 2)
    bench.labeller.may_prepare.release(1)
    wait_for(lambda: bench.labeller.prepared == [10, 20])
    time.sleep(0.1)
    assert bench.labeller.batches == [[10]]
    bench.labeller.may_prepare.release(1)
    assert {bench.answer()["id"], bench.answer()["id"]} == {2, 3}
    assert bench.labeller.batches == [[10], [20, 30]]
    bench.labeller.window_s = 0.3
    bench.job(4, 40)
    bench.job(5, 50)
    wait_for(lambda: bench.on_their_way() == 2)
    started = time.monotonic()
    bench.labeller.may_prepare.release(1)
    assert bench.answer()["id"] == 4
    assert time.monotonic() - started > 0.25  # the window is over, and the other not there yet
    bench.close()


def test_an_unusable_cloud_is_said_at_once(bench: Bench) -> None:
    bench.job(1, 10)
    bench.labeller.may_prepare.release(2)
    wait_for(lambda: bench.labeller.batches == [[10]])
    bench.job(2, 20, bad=True)
    message = bench.answer()
    assert (message["id"], message["error"]["code"]) == (2, "unusable-cloud")


@pytest.mark.parametrize("stage", ["incoming", "ready"])
def test_what_nobody_waits_for_is_not_labelled(bench: Bench, stage: str) -> None:
    bench.job(1, 10)
    bench.labeller.may_prepare.release(1)
    wait_for(lambda: bench.labeller.batches == [[10]])
    bench.job(2, 20)
    bench.job(3, 30, patience_s=1.0)
    wait_for(lambda: bench.on_their_way() == 2)
    if stage == "ready":
        bench.labeller.may_prepare.release(2)
        wait_for(lambda: len(bench.labeller.prepared) == 3)
    bench.cancel(2)
    time.sleep(1.1)  # the other one's deadline
    bench.labeller.may_prepare.release(2)
    bench.labeller.may_label.release(2)
    found = {message["id"]: message for message in (bench.answer() for _ in range(3))}
    assert found[1]["label"] == 10
    assert found[2]["cancelled"]
    assert found[3]["error"]["code"] == "deadline-exceeded"
    assert bench.labeller.batches == [[10]]


def test_long_work_stops_when_nobody_waits_and_says_that_it_lives(bench: Bench) -> None:
    bench.labeller.may_prepare.release(2)
    bench.job(1, 10)
    wait_for(lambda: bench.labeller.batches == [[10]])
    time.sleep(1.2)
    bench.cancel(1)
    assert bench.answer()["error"]["code"] == "cancelled"
    assert any(report.get("patience_s") == 0.0 for report in bench.reports)
    bench.job(2, 20, patience_s=0.3)
    assert bench.answer()["error"]["code"] == "deadline-exceeded"


def test_a_message_that_makes_no_sense_is_an_error_of_its_own(bench: Bench) -> None:
    descriptor, layout = shared.pack({"coord": np.zeros((3, 3)), "mystery": np.zeros(3)})
    about = {"model": "m", "layout": layout, "deadline": time.monotonic() + 10, "bad": False}
    bench.channel.send({"op": "label", "id": 7, **about}, (descriptor,))
    os.close(descriptor)
    message = bench.answer()
    assert (message["id"], message["error"]["code"]) == (7, "internal")
    bench.labeller.may_prepare.release(1)
    bench.labeller.may_label.release(1)
    bench.job(8, 5)
    assert bench.answer()["label"] == 5


def test_an_answer_that_is_too_long_is_an_error_of_its_own(bench: Bench) -> None:
    bench.labeller.may_prepare.release(2)
    bench.labeller.may_label.release(2)
    bench.labeller.more = {"warnings": ("x" * MAX_MESSAGE_BYTES,)}
    bench.job(1, 10)
    answer = bench.answer()
    assert answer["id"] == 1 and "16777216" in answer["error"]["detail"] and answer["report"]["clouds"] == 1
    bench.labeller.more = {}
    bench.job(2, 10)
    assert bench.answer()["label"] == 10


def test_memory_of_the_web_is_given_back_though_messages_keep_coming(bench: Bench) -> None:
    mappings = bench._pipeline._mappings = Mappings(idle_s=0.2)
    piece = Piece(SMALLEST)
    mappings.of(piece.descriptor)
    until = time.monotonic() + 3
    while mappings._bytes and time.monotonic() < until:
        bench.cancel(1)
        time.sleep(0.02)
    assert mappings._bytes == 0
