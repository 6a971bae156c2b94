"""How well labels agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Score:
    """Agreement of one class over points.

    Attributes:
        hits: points that are of the class and were called so.
        extra: points that were called so and are not.
        missed: points of the class that were called otherwise.
    """

    hits: int
    extra: int
    missed: int

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where the class neither occurs nor is called."""
        union = self.hits + self.extra + self.missed
        return self.hits / union if union else 1.0

    @property
    def precision(self) -> float:
        """Share of the called points that are of the class; 1 where none was called."""
        called = self.hits + self.extra
        return self.hits / called if called else 1.0

    @property
    def recall(self) -> float:
        """Share of the class's points that were called so; 1 where it has none."""
        there = self.hits + self.missed
        return self.hits / there if there else 1.0

    def __add__(self, other: Score) -> Score:
        return Score(self.hits + other.hits, self.extra + other.extra, self.missed + other.missed)


def score(label: NDArray[np.int64], truth: NDArray[np.int64], of: int = 1) -> Score:
    """Return how the labels (n,) agree with the truth (n,) on the class `of`; points with a truth below 0 are left out.

    Raises:
        ValueError: arrays of different lengths.
    """
    if label.shape != truth.shape:
        raise ValueError(f"{label.shape} labels cannot be compared with {truth.shape} true ones.")
    counted = truth >= 0
    called, there = (label == of) & counted, (truth == of) & counted
    hits = int(np.count_nonzero(called & there))
    return Score(hits, int(np.count_nonzero(called)) - hits, int(np.count_nonzero(there)) - hits)
