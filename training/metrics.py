"""How well labels agree."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Found:
    """How the objects found in some clouds agree with the true ones.

    Attributes:
        sure: of each object found, how sure the model was of it.
        hit: of each, its intersection over union with the true object that it meets; 0 where it meets none.
        truth: how many objects there are.
        best: of each of these, the largest intersection over union with one that was found.
    """

    sure: tuple[float, ...]
    hit: tuple[float, ...]
    truth: int
    best: tuple[float, ...]

    def __add__(self, other: Found) -> Found:
        return Found(self.sure + other.sure, self.hit + other.hit, self.truth + other.truth, self.best + other.best)

    def recall(self, least: float = 0.5) -> float:
        """Return the share of the true objects that were found with more than this intersection over union."""
        return sum(hit > least for hit in self.best) / self.truth if self.truth else 1.0

    def precision(self, least: float = 0.5) -> float:
        """Return the share of the found objects that are true ones."""
        return sum(hit > least for hit in self.hit) / len(self.hit) if self.hit else 1.0

    def average_precision(self, least: float = 0.5) -> float:
        """Return the area under precision over recall, with precision made falling, as ScanNet and COCO have it.

        From a half on no two found objects can meet one true one, so each that meets one is its only one.

        Raises:
            ValueError: `least` is below a half.
        """
        if least < 0.5:
            raise ValueError(f"An intersection over union of {least} may be met twice; a half is the least.")
        if not self.truth:
            return 1.0
        order = np.argsort(-np.asarray(self.sure), kind="stable")
        right = (np.asarray(self.hit)[order] > least).astype(float)
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        return float((falling * right).sum() / self.truth)


NOT_COUNTED = -2
"""True object of a point of which nobody says what it belongs to."""


def compare(
    found: NDArray[np.int64], sure: Mapping[int, float], truth: NDArray[np.int64], least_points: int = 100
) -> Found:
    """Return how the objects found (n,) agree with the true ones (n,); -1 is a point of none.

    Points that are NOT_COUNTED are left out, and so are true objects of fewer points than `least_points` and what was
    found mostly on either, as in ScanNet's evaluation.

    Args:
        found: which object each point was said to be of.
        sure: how sure the model was of each of these.
        truth: which object each point is of.
        least_points: points of the smallest true object that counts.

    Raises:
        ValueError: arrays of different lengths.
    """
    if found.shape != truth.shape:
        raise ValueError(f"{found.shape} objects cannot be compared with {truth.shape} true ones.")
    ids, sizes = np.unique(truth[truth >= 0], return_counts=True)
    small = np.isin(truth, ids[sizes < least_points])
    counted = (truth != NOT_COUNTED) & ~small
    there = {int(number): int(size) for number, size in zip(ids, sizes, strict=True) if size >= least_points}
    best = dict.fromkeys(there, 0.0)
    kept: list[tuple[float, float]] = []
    for number in np.unique(found[found >= 0]).tolist():
        mine = found == number
        size = int(np.count_nonzero(mine & counted))
        if size <= np.count_nonzero(mine) / 2:
            continue
        met, common = np.unique(truth[mine & counted], return_counts=True)
        overlaps = {
            int(other): int(both) / (there[int(other)] + size - int(both))
            for other, both in zip(met, common, strict=True)
            if other >= 0
        }
        for other, overlap in overlaps.items():
            best[other] = max(best[other], overlap)
        kept.append((float(sure[number]), max(overlaps.values(), default=0.0)))
    return Found(tuple(s for s, _ in kept), tuple(h for _, h in kept), len(there), tuple(best.values()))
