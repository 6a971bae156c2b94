"""Which model a request means."""

from __future__ import annotations

from typing import Any

from service.engine.client import EngineClient
from service.errors import MalformedRequest, NotReady, UnknownModel, UnusableModel


def choose_model(engine: EngineClient, wanted: str | None, task: str) -> str:
    """Return the name of the model to use for a task out of `service.values.TASKS`.

    Raises:
        MalformedRequest: it is no model for that.
        UnusableModel, UnknownModel, NotReady: as `usable_model`.
    """
    card = usable_model(engine, wanted, task)
    name: str = card["name"]
    if task not in tasks(card):
        routes = ", ".join(f"POST /v1/{one}" for one in tasks(card))
        raise MalformedRequest(f"the model {name} cannot {task}; it serves {routes}")
    return name


def usable_model(engine: EngineClient, wanted: str | None, task: str = "segment") -> dict[str, Any]:
    """Return the card of a model that may work.

    Raises:
        UnusableModel: it is known not to work, and why.
        UnknownModel, NotReady: as `find_model`.
    """
    card = find_model(engine, wanted, task)
    if card.get("state") == "failed":
        raise UnusableModel(f"the model {card['name']} cannot be used: {card['reason']}")
    return card


def find_model(engine: EngineClient, wanted: str | None, task: str = "segment") -> dict[str, Any]:
    """Return the card of a model as the engine has it, whatever its state.

    Where none is named, it is the first one that can do the task, or else the first one.

    Raises:
        UnknownModel: it is not served.
        NotReady: no model is known yet, or the service is about to end.
    """
    status = engine.recent_status()
    if status["state"] == "stopping":
        raise NotReady(status["reason"], retry_after_s=5)
    cards: dict[str, dict[str, Any]] = {card["name"]: card for card in status["models"]}
    if not cards:
        raise NotReady(status["reason"], retry_after_s=5)
    if wanted is not None and wanted not in cards:
        raise UnknownModel(f"there is no model {wanted!r}; there are: {', '.join(cards)}")
    if wanted is not None:
        return cards[wanted]
    return next((card for card in cards.values() if task in tasks(card)), next(iter(cards.values())))


def tasks(card: dict[str, Any]) -> list[str]:
    """Return what the model of a card can do, out of `service.values.TASKS`."""
    return list(card.get("tasks", ("segment",)))
