"""Model cards: read from the JSON beside a model's weights, without loading the model or torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.errors import InternalError, UnknownModel
from service.values import ClassInfo, ModelCard

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
NAMES = ("parcels",)
"""The models that come with the service; each is `<name>.json` and `<name>.safetensors` in one folder."""


def names(folder: Path = WEIGHTS) -> tuple[str, ...]:
    """Return the names of the models whose files are there."""
    return tuple(name for name in NAMES if (folder / f"{name}.json").is_file())


def description(name: str, folder: Path = WEIGHTS) -> dict[str, Any]:
    """Return a model's JSON: the card's fields, `recipe` and `network`.

    Raises:
        UnknownModel: no model of that name; the sentence lists the names.
        InternalError: the file is not JSON.
    """
    if name not in names(folder):
        known = ", ".join(names(folder)) or "none"
        raise UnknownModel(f"There is no model {name!r}; the models are: {known}.")
    path = folder / f"{name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InternalError(f"The card {path.name} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InternalError(f"The card {path.name} holds {type(values).__name__} where an object is wanted.")
    return values


def card(name: str, folder: Path = WEIGHTS) -> ModelCard:
    """Return a model's card; errors as in `description`, and InternalError when the card lacks a field."""
    return card_from(description(name, folder))


def cards(folder: Path = WEIGHTS) -> tuple[ModelCard, ...]:
    """Return the cards of all models that come with the service."""
    return tuple(card(name, folder) for name in names(folder))


def card_from(values: Mapping[str, Any]) -> ModelCard:
    """Return the card that `card_message` described, or that a model's JSON holds.

    Raises:
        InternalError: a field is missing or is not what it should be.
    """
    try:
        classes = tuple(ClassInfo(int(c["id"]), str(c["name"]), _color(c["color"])) for c in values["classes"])
        return ModelCard(
            name=str(values["name"]),
            title=str(values["title"]),
            family=str(values["family"]),
            classes=classes,
            inputs=tuple(str(name) for name in values["inputs"]),
            grid_size=float(values["grid_size"]),
            parameters=int(values["parameters"]),
            source=str(values["source"]),
            about=dict(values.get("about", {})),
            tasks=tuple(str(task) for task in values.get("tasks", ("segment",))),
        )
    except KeyError as error:
        raise InternalError(f"The card of model {values.get('name')!r} lacks the field {error}.") from error
    except (TypeError, ValueError) as error:
        raise InternalError(f"The card of model {values.get('name')!r} is malformed: {error}.") from error


def card_message(card: ModelCard) -> dict[str, Any]:
    """Return a card as plain JSON values."""
    values = asdict(card)
    values["classes"] = [{"id": c.id, "name": c.name, "color": list(c.color)} for c in card.classes]
    values["inputs"] = list(card.inputs)
    values["about"] = dict(card.about)
    values["tasks"] = list(card.tasks)
    return values


def _color(value: Any) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in value)
    return red, green, blue
