"""Clouds whose model is not there wait for it, and no others with them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.engine import shared
from service.engine.channel import Channel, Message, close_all
from service.engine.pipeline import Pipeline
from service.errors import ServiceError, UnusableModel
from tests.engine.faulty_worker import LABEL, Faulty, cloud


class Loader:
    """Has the model "quick"; loads "slow" when it is let, and "broken" never."""

    def __init__(self) -> None:
        self.let, self.asked = threading.Event(), threading.Event()
        self.there = {"quick"}
        self.fetched: list[str] = []

    def has(self, model: str) -> bool:
        return model in self.there

    def fetch(self, model: str) -> ServiceError | None:
        self.fetched.append(model)
        self.asked.set()
        if model == "broken":
            return UnusableModel("its weights are of lead")
        assert self.let.wait(30)
        self.there.add(model)
        return None


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def engine(loader: Loader) -> Iterator[Channel]:
    """The engine's end of a worker whose models come later."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    labeller: Any = Faulty()
    pipeline = Pipeline(Channel(theirs), labeller, loader)
    thread = threading.Thread(target=pipeline.run, daemon=True)
    thread.start()
    channel = Channel(ours)
    yield channel
    loader.let.set()
    channel.close()
    thread.join(10)


def ask(channel: Channel, number: int, model: str) -> None:
    descriptor, layout = shared.pack({"coord": cloud(LABEL, points=10)})
    message = {"op": "label", "id": number, "model": model, "layout": layout, "deadline": time.monotonic() + 60}
    channel.send(message, (descriptor,))
    close_all([descriptor])


def words(channel: Channel, *kinds: str) -> Iterator[Message]:
    """Yield what the worker says, of these kinds."""
    while True:
        message, descriptors = channel.receive(time.monotonic() + 30)
        close_all(descriptors)
        if any(kind in message for kind in kinds):
            yield message


def test_others_are_answered_while_a_model_loads(engine: Channel, loader: Loader) -> None:
    said = words(engine, "id")
    ask(engine, 1, "slow")
    assert loader.asked.wait(10)
    for number, model in ((2, "slow"), (3, "quick"), (4, "quick")):
        ask(engine, number, model)
    assert sorted(next(said)["id"] for _ in range(2)) == [3, 4]
    loader.let.set()
    assert sorted(next(said)["id"] for _ in range(2)) == [1, 2]
    assert loader.fetched == ["slow"]
    ask(engine, 5, "slow")
    assert next(said)["id"] == 5


def test_while_a_model_loads_the_engine_hears_of_it(engine: Channel, loader: Loader) -> None:
    ask(engine, 1, "slow")
    said = words(engine, "patience_s")
    assert [next(said)["patience_s"] for _ in range(2)] == [0.0, 0.0]


def test_a_model_that_does_not_load_is_an_answer(engine: Channel, loader: Loader) -> None:
    ask(engine, 1, "broken")
    answer = next(words(engine, "id"))
    assert (answer["id"], answer["error"]["code"]) == (1, "unusable-model")
    assert answer["error"]["detail"] == "its weights are of lead"


def test_who_waits_for_a_model_can_be_cancelled(engine: Channel, loader: Loader) -> None:
    ask(engine, 1, "slow")
    assert loader.asked.wait(10)
    engine.send({"op": "cancel", "id": 1})
    ask(engine, 2, "quick")
    said = words(engine, "id")
    assert next(said)["id"] == 2
    loader.let.set()
    assert next(said)["cancelled"]
