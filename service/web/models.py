"""GET /v1/models and /v1/models/<name>: what is served."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import current_app

from service.engine.client import EngineClient
from service.errors import NotReady
from service.web.choice import find_model
from service.web.schemas import CardAnswer, ModelsAnswer
from service.wire.json_v1 import hex_color

blueprint = APIBlueprint("models", __name__, tag="Models")


def _cards(engine: EngineClient) -> list[dict[str, Any]]:
    status = engine.status()
    if not status["models"]:
        raise NotReady(status["reason"], retry_after_s=5)
    return [
        {**card, "classes": [{**c, "color": hex_color(c["color"])} for c in card["classes"]], "default": index == 0}
        for index, card in enumerate(status["models"])
    ]


@blueprint.get("/v1/models")
@blueprint.output(ModelsAnswer)
@blueprint.doc(summary="The models that are served", operation_id="models")
def models() -> dict[str, Any]:
    """Return the card of every model."""
    return {"models": _cards(current_app.extensions["engine"])}


@blueprint.get("/v1/models/<name>")
@blueprint.output(CardAnswer)
@blueprint.doc(summary="One model", operation_id="model")
def model(name: str) -> dict[str, Any]:
    """Return the card of one model."""
    engine: EngineClient = current_app.extensions["engine"]
    chosen = find_model(engine, name)["name"]
    return next(card for card in _cards(engine) if card["name"] == chosen)
