"""Messages that do not reach a worker: it takes none, or they are too long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.engine.channel import ChannelStuck, Message
from service.engine.scheduler import Scheduler
from service.errors import InternalError
from tests.engine.fakes import FakeDevice, closed, job, wait_for


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def scheduler(device: FakeDevice) -> Iterator[Scheduler]:
    made = Scheduler([device], 100, 50)  # type: ignore[list-item]
    wait_for(lambda: made.status()["state"] == "ready")
    yield made
    made.close()


def test_a_worker_that_takes_no_messages_is_ended_and_its_jobs_run_again(
    scheduler: Scheduler, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = job(1), job(2)
    scheduler.submit(first)
    send, endings = device.send, []

    def stick(message: Message, descriptors: tuple[int, ...] = ()) -> None:
        monkeypatch.setattr(device, "send", send)
        raise ChannelStuck("full")

    monkeypatch.setattr(device, "send", stick)
    monkeypatch.setattr(device, "kill", lambda why: (endings.append(why), device.die(why)))
    scheduler.submit(second)
    wait_for(lambda: device.starts == 2)
    assert endings == ["killed because it took no messages"]
    for one, names in ((second, [1, 2]), (first, [1, 2, 1])):  # one by one
        wait_for(lambda names=names: device.names() == names)  # type: ignore[misc]
        device.answer(names[-1])
        assert one.future.result(5)
        wait_for(lambda one=one: closed(one))  # type: ignore[misc]


def test_a_message_that_is_too_long_is_an_error_of_its_own_job(
    scheduler: Scheduler, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, good = job("long"), job("good")
    send = device.send

    def refuse(message: Message, descriptors: tuple[int, ...] = ()) -> None:
        if message["name"] == "long":
            raise InternalError("too long")
        send(message, descriptors)

    monkeypatch.setattr(device, "send", refuse)
    scheduler.submit(long)
    scheduler.submit(good)
    with pytest.raises(InternalError, match="too long"):
        long.future.result(5)
    device.answer("good")
    assert good.future.result(5)
    assert closed(long) and device.starts == 1
