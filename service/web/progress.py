"""GET /v1/progress/<request id>: how far the work on a request is."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import current_app
from pydantic import BaseModel, Field

from service.engine.client import EngineClient

blueprint = APIBlueprint("progress", __name__, tag="Segmentation")


class ProgressAnswer(BaseModel):
    """How far a request is."""

    request_id: str
    done: float | None = Field(
        description="Share of the work on the device that is done, 0 to 1; null: it has not begun, is over, or the "
        "service does not know the request."
    )


@blueprint.get("/v1/progress/<request_id>")
@blueprint.output(ProgressAnswer)
@blueprint.doc(summary="How far a request is", operation_id="progress")
def progress(request_id: str) -> dict[str, Any]:
    """Return how far the work on a request is, by the X-Request-ID that it was sent with."""
    engine: EngineClient = current_app.extensions["engine"]
    return {"request_id": request_id, "done": engine.status().get("progress", {}).get(request_id)}
