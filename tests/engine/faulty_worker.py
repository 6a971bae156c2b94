"""A worker without models whose clouds say what it shall do: the z of the first point is a word, its x an amount.

0: label. 1: end by SIGSEGV. 2: hang. 3: take x MB of memory. 4: work for x seconds. 5: fail.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np

from benchmarks import stub
from service.errors import ServiceError, UnusableCloud
from service.settings import settings
from service.values import PointCloud, Segmentation

LABEL, END, HANG, EAT, WORK, FAIL = range(6)


def cloud(word: int, amount: float = 0.0, points: int = 1000, seed: int = 0) -> np.ndarray:
    """Return (points, 3) float64 that make the worker do as the word says."""
    made = np.random.default_rng(seed).uniform(0, 1, (points, 3))
    made[0] = (amount, 0, word)
    return made


def expected(coord: np.ndarray) -> np.ndarray:
    """Return the labels that the worker gives."""
    return (coord[:, 2] > 0.5).astype(np.int32)


class Faulty(stub.Stub):
    """The worker as a `pipeline.Labeller`."""

    card = replace(stub.CARD, name="faulty", title="Does as its clouds say")
    voxels = 4000

    def __init__(self) -> None:
        super().__init__(window_s=0.002)
        self.device = settings().device

    def answer(self, cloud: PointCloud) -> Segmentation | ServiceError:
        amount, _y, word = cloud.coord[0]
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
        return super().answer(cloud)


def main() -> None:
    """Serve until the engine goes away."""
    stub.serve(Faulty())


if __name__ == "__main__":
    main()
