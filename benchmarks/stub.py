"""The worker that serves benchmarks/stub_model.py, for figures of the service itself; the tests' workers begin with it.

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
    """The stand-in as a `pipeline.Labeller`: a point is a voxel, nothing is prepared."""

    intakes = 1
    card = CARD
    device = "stub"
    voxels = 400_000

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s

    def ready(self) -> Message:
        name = self.card.name
        engines = {name: "stub"}
        return {
            "ready": True,
            "cards": [card_message(self.card)],
            "models": {name: {"state": "ready", "reason": ""}},
            "device": {
                "device": self.device, "name": "stub", "threads": 1, "torch": None, "cuda": None, "engines": engines,
            },
            "environment": {},
            "batch_voxels": self.voxels,
        }  # fmt: skip

    def enter(self, role: Literal["intake", "main"]) -> None:
        pass

    def wishes(self, message: Message) -> Any:
        return None

    def prepare(self, model: str, cloud: PointCloud, wishes: Any) -> tuple[Any, int] | ServiceError:
        return None, len(cloud)

    def max_voxels(self, model: str) -> int:
        return self.voxels

    def label(
        self,
        model: str,
        clouds: Sequence[PointCloud],
        wishes: Sequence[Any],
        ready: Sequence[Any],
        tick: Callable[[float], None],
    ) -> list[Segmentation | ServiceError]:
        return [self.answer(cloud) for cloud in clouds]

    def answer(self, cloud: PointCloud) -> Segmentation | ServiceError:
        """Return what one cloud gets."""
        return Segmentation(labels(cloud.coord), CLASSES, self.card.name)

    def memory(self) -> dict[str, Any]:
        return {}


def serve(stub: Stub) -> None:
    """Serve until the engine goes away."""
    channel = inherited_channel()
    with contextlib.suppress(ChannelClosed):
        channel.send(stub.ready())
        Pipeline(channel, stub).run()


def main() -> None:
    """Serve the stand-in."""
    configure("worker", settings().log_level)
    serve(Stub(settings().batch_window_ms / 1e3))


if __name__ == "__main__":
    main()
