"""The plane that boxes stand on, and what is beneath each box."""

from __future__ import annotations

import numpy as np

from service.measure import planes
from service.measure.planes import Floats, Plane, Rows

_TOLERANCE_M = 0.012
_CANDIDATES = 4
_LEAST = 60
_THIN_M = 0.012
_AROUND_M = 0.3
_BENEATH_M = 0.03
_ALIKE = float(np.cos(np.radians(25)))
_RING_M = 0.1


def find(rest: Floats, boxes: Floats, owner: Rows, up: Floats | None) -> Plane | None:
    """Return the plane that most of the boxes stand on, its normal towards them; None where there is none.

    Args:
        rest: (m, 3) metres, points of no box.
        boxes: (n, 3) metres, points of boxes. owner: (n,) which box each is of.
        up: (3,) about the plane's normal, where the user says so.
    """
    left = planes.thin(_around(rest, boxes), _THIN_M)
    best: tuple[float, Plane] | None = None
    for _ in range(_CANDIDATES):
        found = planes.largest(left, _TOLERANCE_M)
        if found is None or found[1] < _LEAST:
            break
        plane, count = found
        left = left[np.abs(plane.height(left)) > _TOLERANCE_M]
        plane = _turned(plane, boxes, left, up)
        if up is not None and plane.normal @ up < _ALIKE:
            continue
        score = count * _carries(plane, boxes, owner)
        if score > 0 and (best is None or score > best[0]):
            best = (score, plane)
    if best is None:
        return None
    near = _around(rest, boxes)
    plane, _ = planes.refine(near, best[1], _TOLERANCE_M)
    return plane if plane.normal @ best[1].normal > 0 else plane.flipped()


def _around(rest: Floats, boxes: Floats) -> Floats:
    """Return the points near the boxes, or all where there are too few or no boxes."""
    if len(boxes) == 0:
        return rest
    low, high = boxes.min(axis=0), boxes.max(axis=0)
    reach = np.maximum(_AROUND_M, 0.3 * (high - low).max())
    near = rest[((rest > low - reach) & (rest < high + reach)).all(axis=1)]
    return near if len(near) >= 5 * _LEAST else rest


def _turned(plane: Plane, boxes: Floats, rest: Floats, up: Floats | None) -> Plane:
    """Return the plane with its normal up: as the user says, towards the boxes, or towards most of the rest."""
    if up is not None:
        return plane if plane.normal @ up > 0 else plane.flipped()
    towards = plane.height(boxes if len(boxes) else rest)
    return plane if len(towards) == 0 or np.median(towards) >= 0 else plane.flipped()


def _carries(plane: Plane, boxes: Floats, owner: Rows) -> float:
    """Return how well the boxes stand on the plane, 0 to 1: none may be beneath, and they should reach it."""
    if len(boxes) == 0:
        return 1.0
    height = plane.height(boxes)
    if (height < -2 * _TOLERANCE_M).mean() > 0.1:
        return 0.0
    reached = [np.percentile(height[owner == one], 3) < _BENEATH_M for one in np.unique(owner)]
    return 0.2 + 0.8 * float(np.mean(reached))


def beside(rest: Floats, support: Plane, center: Floats, reach: float, tolerance: float) -> float:
    """Return the support's height at a box, metres: a sensor bends planes, so that what is near the box counts.

    Args:
        rest: (m, 3) metres, points of no box.
        support: the plane that heights count from.
        center: (3,) the box's middle. reach: metres from there to its outermost corner.
        tolerance: how far from the plane points of it lie.
    """
    away = rest - center
    height = support.height(rest)
    across = np.linalg.norm(away - np.outer(away @ support.normal, support.normal), axis=1)
    ring = height[(across < reach + _RING_M) & (np.abs(height) < tolerance)]
    return float(np.median(ring)) if len(ring) >= 30 else 0.0
