"""The worker that serves benchmarks/stub_model.py, for figures of the service itself.

STUB_MS=20 python -m service.engine.server benchmarks.stub
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from benchmarks.stub_model import labels
from service.engine.channel import ChannelClosed, Message
from service.engine.child import inherited_channel
from service.engine.pipeline import Pipeline
from service.errors import ServiceError
from service.logs import configure
from service.models.cards import card_message
from service.settings import settings
from service.values import ClassInfo, ModelCard, PointCloud, Segmentation

NAME = "stub"
CLASSES = (ClassInfo(0, "low", (128, 128, 128)), ClassInfo(1, "high", (230, 120, 30)))
CARD = ModelCard(NAME, "A stand-in", "none", CLASSES, ("coord",), 0.01, 0, "benchmarks/stub.py")


class Stub:
    """The stand-in as a `pipeline.Labeller`."""

    intakes = 1

    def __init__(self) -> None:
        self.window_s = settings().batch_window_ms / 1e3

    def ready(self) -> Message:
        about = {"device": "stub", "name": "stub", "threads": 1, "torch": None, "cuda": None, "engines": {NAME: "stub"}}
        limit = self.max_voxels(NAME)
        return {
            "ready": True,
            "cards": [card_message(CARD)],
            "models": {NAME: {"state": "ready", "reason": ""}},
            "device": about,
            "environment": {},
            "batch_voxels": limit,
        }

    def enter(self, role: Literal["intake", "main"]) -> None:
        pass

    def wishes(self, message: Message) -> None:
        return None

    def prepare(self, model: str, cloud: PointCloud, wishes: Any) -> tuple[None, int] | ServiceError:
        return None, len(cloud)

    def max_voxels(self, model: str) -> int:
        return 400_000

    def label(
        self,
        model: str,
        clouds: Sequence[PointCloud],
        wishes: Sequence[Any],
        ready: Sequence[Any],
        tick: Callable[[float], None],
    ) -> list[Segmentation | ServiceError]:
        return [Segmentation(labels(cloud.coord), CLASSES, NAME) for cloud in clouds]

    def memory(self) -> dict[str, Any]:
        return {}


def main() -> None:
    """Serve until the engine goes away."""
    configure("worker", settings().log_level)
    channel = inherited_channel()
    stub = Stub()
    with contextlib.suppress(ChannelClosed):
        channel.send(stub.ready())
        Pipeline(channel, stub).run()


if __name__ == "__main__":
    main()
