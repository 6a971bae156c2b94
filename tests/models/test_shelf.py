"""The shelf keeps its budget, lets the least recently used leave, and a model that fails stops no other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InternalError, NotReady, ServiceError, UnknownModel, UnusableModel
from service.models.layers.native import NativeEngine
from service.models.model import Model
from service.models.shelf import Shelf
from service.transforms import Recipe
from service.values import ClassInfo, ModelCard

CPU = torch.device("cpu")
CARD = ModelCard("", "Stub", "none", (ClassInfo(0, "all", (0, 0, 0)),), ("ones",), 0.1, 0, "nowhere")


class Made:
    """A source of a model that takes so many bytes, and its card tells as much or is an error."""

    def __init__(self, size: int, error: ServiceError | None = None) -> None:
        self.size, self.error = size, error

    def card_or_error(self) -> ModelCard | ServiceError:
        return self.error or replace(CARD, parameters=self.size // 4)


def shelf_of(
    sizes: dict[str, int], budget: int = 0, load: Callable[[str], None] = lambda name: None, **options: Any
) -> tuple[Shelf, list[str]]:
    """Return a shelf of models of these sizes in bytes, and the names in the order in which they are loaded."""
    loads: list[str] = []

    def make(name: str) -> Model:
        loads.append(name)
        load(name)
        network = torch.nn.Linear(sizes[name] // 4, 1, bias=False)
        return Model(network, replace(CARD, name=name), Recipe(0.1, ("ones",)), NativeEngine(CPU), CPU)

    sources = {name: Made(size) for name, size in sizes.items()}
    return Shelf(sources, make, CPU, budget, **options), loads


def states(shelf: Shelf) -> dict[str, str]:
    return {model["name"]: model["state"] for model in shelf.states()}


def test_models_are_loaded_once_and_when_they_are_wanted() -> None:
    shelf, loads = shelf_of({"a": 400, "b": 400})
    assert (states(shelf), shelf.peek("a"), loads) == ({"a": "waiting", "b": "waiting"}, None, [])
    first = shelf.get("b")
    assert shelf.get("b") is first is shelf.peek("b")
    assert (states(shelf), loads) == ({"a": "waiting", "b": "ready"}, ["b"])
    told = shelf.states()
    assert json.loads(json.dumps(told)) == told
    assert [(model["bytes"], model["reason"], model["title"]) for model in told] == [(0, "", "Stub"), (400, "", "Stub")]
    with pytest.raises(UnknownModel, match="there is no model 'c'; there are: a, b"):
        shelf.get("c")
    assert shelf.peek("c") is None


def test_the_least_recently_used_leaves_and_comes_back() -> None:
    shelf, loads = shelf_of({"a": 400, "b": 400, "c": 400}, budget=1000)
    for name in ("a", "b", "a", "c"):
        shelf.get(name)
    assert states(shelf) == {"a": "ready", "b": "evicted", "c": "ready"}
    assert shelf.peek("b") is None
    assert [model["bytes"] for model in shelf.states()] == [400, 0, 400]
    shelf.get("b")
    assert (states(shelf), loads) == ({"a": "evicted", "b": "ready", "c": "ready"}, ["a", "b", "c", "b"])


@given(st.lists(st.sampled_from("abcde"), max_size=30), st.integers(400, 1600))
@settings(max_examples=20, deadline=None)  # each eviction collects garbage, which takes a tenth of a second
def test_the_budget_holds_after_any_requests(names: list[str], budget: int) -> None:
    sizes = {"a": 40, "b": 120, "c": 200, "d": 280, "e": 400}
    shelf, _ = shelf_of(sizes, budget)
    recent: list[str] = []
    for name in names:
        assert shelf.get(name).bytes == sizes[name]
        recent = [name, *(other for other in recent if other != name)]
        loaded = {model["name"] for model in shelf.states() if model["state"] == "ready"}
        assert sum(sizes[one] for one in loaded) <= budget
        # Whatever is there was used more recently than whatever had to leave.
        assert loaded == set(recent[: len(loaded)])


def test_at_the_start_as_many_are_loaded_as_there_is_room_for() -> None:
    shelf, loads = shelf_of({"a": 400, "b": 800, "c": 400}, budget=1000)
    shelf.load_all()
    assert (states(shelf), loads) == ({"a": "ready", "b": "waiting", "c": "ready"}, ["a", "c"])


def test_a_model_that_fails_stops_no_other() -> None:
    def load(name: str) -> None:
        if name == "a":
            raise InternalError("its weights are of lead")
        if name == "b":
            raise RuntimeError("shape mismatch")

    shelf, loads = shelf_of({"a": 400, "b": 400, "c": 400}, load=load)
    shelf.load_all()
    assert states(shelf) == {"a": "failed", "b": "failed", "c": "ready"}
    reasons = {model["name"]: model["reason"] for model in shelf.states()}
    assert reasons == {"a": "its weights are of lead", "b": "it does not load: RuntimeError: shape mismatch", "c": ""}
    for _ in range(2):
        with pytest.raises(UnusableModel, match="the model a cannot be used: its weights are of lead"):
            shelf.get("a")
    assert loads == ["a", "b", "c"], "a model that failed is not tried for every request"


def test_a_source_without_a_card_is_a_model_that_failed() -> None:
    broken = {"a": Made(0, UnusableModel("config.py runs code")), "b": Made(8)}
    shelf = Shelf(broken, lambda name: pytest.fail("nothing is to be loaded"), CPU)
    first, second = shelf.states()
    assert (first["name"], first["state"], first["reason"]) == ("a", "failed", "config.py runs code")
    assert (first["classes"], first["title"], first.keys()) == ([], "", second.keys())
    assert (second["name"], second["parameters"]) == ("b", 2)
    with pytest.raises(UnusableModel, match=r"config\.py runs code"):
        shelf.get("a")


def test_a_model_larger_than_the_budget_is_refused_in_figures() -> None:
    shelf, _ = shelf_of({"a": 8 << 20, "b": 1 << 20}, budget=4 << 20)
    shelf.get("b")
    with pytest.raises(UnusableModel, match="it takes 8 MB, and MODEL_MEMORY_BYTES allows 4 MB"):
        shelf.get("a")
    assert states(shelf) == {"a": "failed", "b": "ready"}, "what cannot come need not be made room for"


def test_without_room_on_the_device_the_others_leave_and_then_it_is_asked_to_wait() -> None:
    crowded = True

    def load(name: str) -> None:
        if name == "c" and crowded:
            raise torch.cuda.OutOfMemoryError("no room")

    shelf, _ = shelf_of({"a": 400, "b": 400, "c": 400}, load=load)
    shelf.get("a")
    with pytest.raises(NotReady, match="no room for the model c now") as caught:
        shelf.get("c")
    assert caught.value.retry_after_s == 30
    assert states(shelf) == {"a": "evicted", "b": "waiting", "c": "waiting"}
    crowded = False
    shelf.get("c")
    assert states(shelf)["c"] == "ready"


def test_states_can_be_read_while_a_model_loads() -> None:
    entered, leave = threading.Event(), threading.Event()
    seen: list[str] = []

    def load(_name: str) -> None:
        entered.set()
        assert leave.wait(10)

    shelf, loads = shelf_of({"a": 400}, load=load, changed=lambda: note())

    def note() -> None:
        seen.append(states(shelf)["a"])

    threads = [threading.Thread(target=shelf.get, args=("a",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    assert states(shelf) == {"a": "loading"}
    leave.set()
    for thread in threads:
        thread.join(10)
    assert (loads, seen) == (["a"], ["loading", "ready"])
