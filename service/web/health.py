"""GET /health: can the service answer now, and if not, why."""

from __future__ import annotations

import os
import platform
from typing import Any

from apiflask import APIBlueprint
from flask import current_app, request

from service import __version__
from service.engine.client import EngineClient
from service.errors import NotReady, ServiceError
from service.web.schemas import HealthAnswer, VerboseHealthAnswer

blueprint = APIBlueprint("health", __name__, tag="Health")


def _warnings(card: dict[str, Any]) -> list[str]:
    """Return what an operator should know of a model."""
    failed = [f"it cannot be used: {card['reason']}"] if card.get("state") == "failed" else []
    return [*failed, *card.get("about", {}).get("warnings", ())]


@blueprint.get("/health")
@blueprint.output(HealthAnswer)
@blueprint.doc(summary="Readiness", operation_id="health", responses={503: "Loading, or failed; the reason says why."})
def health() -> tuple[HealthAnswer, int, dict[str, str]]:
    """Return 200 when the service is ready, 503 with the reason when it is not; `?verbose` tells more."""
    engine: EngineClient = current_app.extensions["engine"]
    try:
        status = engine.status()
    except ServiceError as error:
        # Where there is no engine its parent starts one: no failure, and right after the start the rule.
        state = "loading" if isinstance(error, NotReady) else "failed"
        status = {"state": state, "reason": error.detail, "models": [], "device": {}, "queue": {}}
    shown: dict[str, Any] = {
        "status": status["state"],
        "reason": status["reason"],
        "version": __version__,
        "models": [card["name"] for card in status["models"]],
        "model_states": {card["name"]: card.get("state", "ready") for card in status["models"]},
        "warnings": [f"{card['name']}: {warning}" for card in status["models"] for warning in _warnings(card)],
        "device": status["device"],
        "queue": status["queue"],
    }
    answer = HealthAnswer(**shown)
    if "verbose" in request.args:
        answer = VerboseHealthAnswer(
            **shown,
            # The worker's own words: this process has no torch to ask. Before there is a worker, what this one knows.
            environment=status.get("environment")
            or {"python": platform.python_version(), "platform": platform.platform()},
            processes={
                "web_pid": os.getpid(),
                **{name: status.get(name) for name in ("engine_pid", "worker_pid", "worker_starts", "readers")},
            },
            workers=status.get("workers") or [],
            batches=status.get("batches") or {},
            counts=status.get("counts") or {},
        )
    ready = status["state"] == "ready"
    return answer, (200 if ready else 503), ({} if ready else {"Retry-After": "2"})
