"""A worker without models whose clouds say what it shall do: the z of the first point is a word, its x an amount.

0: label. 1: end by SIGSEGV. 2: hang. 3: take x MB of memory. 4: work for x seconds. 5: fail.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from service.engine.channel import ChannelClosed, Message
from service.engine.child import inherited_channel
from service.engine.pipeline import Pipeline
from service.errors import ServiceError, UnusableCloud
from service.models.cards import card_message
from service.settings import settings
from service.values import ClassInfo, ModelCard, PointCloud, Segmentation

LABEL, END, HANG, EAT, WORK, FAIL = range(6)
CLASSES = (ClassInfo(0, "low", (128, 128, 128)), ClassInfo(1, "high", (230, 120, 30)))
CARD = ModelCard("faulty", "Does as its clouds say", "none", CLASSES, ("coord",), 0.01, 0, "here")


def cloud(word: int, amount: float = 0.0, points: int = 1000, seed: int = 0) -> np.ndarray:
    """Return (points, 3) float64 that make the worker do as the word says."""
    made = np.random.default_rng(seed).uniform(0, 1, (points, 3))
    made[0] = (amount, 0, word)
    return made


def expected(coord: np.ndarray) -> np.ndarray:
    """Return the labels that the worker gives."""
    return (coord[:, 2] > 0.5).astype(np.int32)


class Faulty:
    """The worker as a `pipeline.Labeller`."""

    intakes = 1
    window_s = 0.002

    def ready(self) -> Message:
        about = {"device": settings().device, "name": "stub"}
        card = card_message(CARD)
        models = {"faulty": {"state": "ready", "reason": ""}}
        more = {"environment": {}, "batch_voxels": self.max_voxels(CARD.name)}
        return {"ready": True, "cards": [card], "models": models, "device": about, **more}

    def enter(self, role: Literal["intake", "main"]) -> None:
        pass

    def wishes(self, message: Message) -> None:
        return None

    def prepare(self, model: str, cloud: PointCloud, wishes: Any) -> tuple[None, int] | ServiceError:
        return None, len(cloud)

    def max_voxels(self, model: str) -> int:
        return 4000

    def label(
        self,
        model: str,
        clouds: Sequence[PointCloud],
        wishes: Sequence[Any],
        ready: Sequence[Any],
        tick: Callable[[float], None],
    ) -> list[Segmentation | ServiceError]:
        return [self._one(each.coord) for each in clouds]

    def _one(self, coord: np.ndarray) -> Segmentation | ServiceError:
        amount, _y, word = coord[0]
        if word == END:
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == HANG:
            time.sleep(3600)
        if word == EAT:
            eaten = np.ones(int(amount) << 17)
            time.sleep(3600)
            del eaten
        if word == WORK:
            time.sleep(amount)
        if word == FAIL:
            return UnusableCloud("as it was asked to")
        return Segmentation(expected(coord), CLASSES, CARD.name)

    def memory(self) -> dict[str, Any]:
        return {}


def main() -> None:
    """Serve until the engine goes away."""
    channel, worker = inherited_channel(), Faulty()
    with contextlib.suppress(ChannelClosed):
        channel.send(worker.ready())
        Pipeline(channel, worker).run()


if __name__ == "__main__":
    main()
