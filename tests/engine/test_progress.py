"""How far long work is: from the pass in the worker to the engine's status."""

from __future__ import annotations

from tests.engine.fakes import FakeDevice, job, wait_for
from tests.engine.test_scheduler import begin


def test_a_worker_tells_how_far_it_is_with_a_request() -> None:
    device = FakeDevice()
    scheduler = begin(device)
    waiting = job("slow")
    waiting.message["request_id"] = "r-1"
    scheduler.submit(waiting)
    wait_for(lambda: device.names() == ["slow"])
    assert scheduler.status()["progress"] == {}
    device.say({"patience_s": 0.0, "done": {str(waiting.number): 0.25, "987654": 0.5}})
    wait_for(lambda: scheduler.status()["progress"] == {"r-1": 0.25})
    device.answer("slow")
    wait_for(lambda: scheduler.status()["progress"] == {})
    scheduler.close()
