"""Planes through points: the one of least squares, and the one that most of them lie on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]

_TRIPLES = 400
_SAMPLE = 2000


@dataclass(frozen=True)
class Plane:
    """The plane of all x with normal @ x = offset, metres.

    Attributes:
        normal: (3,) of length 1.
        offset: distance from zero along the normal.
    """

    normal: Floats
    offset: float

    def height(self, coord: Floats) -> Floats:
        """Return the signed distances (n,) of points (n, 3) along the normal."""
        found: Floats = coord @ self.normal - self.offset
        return found

    def flipped(self) -> Plane:
        """Return the same plane with its normal the other way."""
        return Plane(-self.normal, -self.offset)


def through(coord: Floats, weight: Floats | None = None) -> Plane:
    """Return the plane of least squares through points (n, 3), n >= 3, with weights (n,) where there are such."""
    middle = np.average(coord, axis=0, weights=weight)
    away = coord - middle
    spread = (away if weight is None else away * weight[:, None]).T @ away
    normal = np.linalg.eigh(spread)[1][:, 0]
    return Plane(normal, float(normal @ middle))


def refine(coord: Floats, plane: Plane, tolerance: float, rounds: int = 4) -> tuple[Plane, Mask]:
    """Return the plane fitted again and again to the points within the tolerance, and which those are, (n,)."""
    near: Mask = np.abs(plane.height(coord)) < tolerance
    for _ in range(rounds):
        if near.sum() < 3:
            break
        plane = through(coord[near])
        again = np.abs(plane.height(coord)) < tolerance
        if np.array_equal(again, near):
            break
        near = again
    return plane, near


def largest(coord: Floats, tolerance: float, reach: float | None = None) -> tuple[Plane, int] | None:
    """Return the plane that most points (n, 3) lie on within the tolerance, and how many do; None for fewer than 3.

    Triples of points propose planes (RANSAC, Fischler and Bolles 1981); they come from a fixed sequence, so that the
    same points have the same plane.

    Args:
        coord: metres. tolerance: metres.
        reach: metres within which the points of a triple lie; None: anywhere.
    """
    if len(coord) < 3:
        return None
    sample = coord[:: max(1, len(coord) // _SAMPLE)]
    rows = np.floor(_sequence(_TRIPLES) * len(sample)).astype(np.int64)
    first, second, third = (sample[rows[:, i]] for i in range(3))
    if reach is not None:
        # Points further away are drawn nearer along the way, to the sample's point that is closest there.
        second, third = (_near(sample, first, other, reach) for other in (second, third))
    normal = np.cross(second - first, third - first)
    length = np.linalg.norm(normal, axis=1)
    good = length > (0.1 * tolerance) ** 2 + 1e-12
    if not good.any():
        return None
    normal, first = normal[good] / length[good, None], first[good]
    offset = (normal * first).sum(axis=1)
    votes = (np.abs(sample @ normal.T - offset) < tolerance).sum(axis=0)
    best = int(votes.argmax())
    plane, near = refine(coord, Plane(normal[best], float(offset[best])), tolerance)
    return plane, int(near.sum())


def thin(coord: Floats, cell_m: float) -> Floats:
    """Return one of the points (n, 3) of each cell of a grid, in their order."""
    if len(coord) == 0:
        return coord
    cells = np.floor((coord - coord.min(axis=0)) / cell_m).astype(np.int64)
    width = cells.max(axis=0) + 1
    _, first = np.unique((cells[:, 0] * width[1] + cells[:, 1]) * width[2] + cells[:, 2], return_index=True)
    return coord[np.sort(first)]


def _near(sample: Floats, first: Floats, other: Floats, reach: float) -> Floats:
    away = other - first
    far = np.linalg.norm(away, axis=1, keepdims=True)
    wanted = first + away * np.minimum(1.0, reach / np.maximum(far, 1e-9))
    square = (sample**2).sum(axis=1) - 2 * wanted @ sample.T
    chosen: Floats = sample[square.argmin(axis=1)]
    return chosen


def _sequence(count: int) -> Floats:
    """Return (count, 3) numbers in 0..1: Roberts' R3 sequence, spread evenly and the same on every machine."""
    step = np.arange(1, count + 1)[:, None]
    found: Floats = np.mod(step * np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019703]), 1.0)
    return found
