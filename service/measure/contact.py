"""What touches a box: what stands on a face or against it hides where the face ends, without a step in depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.measure.edges import Strips
from service.measure.planes import Floats, Mask, Rows

_NEAR_M = 0.08
_ABOVE_M = 0.05
_BESIDE_M = 0.012
_BEHIND_M = 0.02
_BEHIND_SHARE = 0.03
_ENOUGH = 2


@dataclass(frozen=True)
class Company:
    """What is near a box and not of it.

    Attributes:
        coord: (m, 3) metres. owner: (m,) the object that each is of, -1: none.
    """

    coord: Floats
    owner: Rows


def near(own: Floats, coord: Floats, owner: Rows, number: int) -> Company:
    """Return the points (m, 3) near a box's (n, 3) that are not of the object `number`."""
    if len(own) == 0:
        return Company(own, owner[:0])
    low, high = own.min(axis=0) - _NEAR_M, own.max(axis=0) + _NEAR_M
    inside = ((coord > low) & (coord < high)).all(axis=1) & (owner != number)
    return Company(coord[inside], owner[inside])


def touched(
    company: Company, strips: Strips, axes: tuple[Floats, Floats, Floats], level: float, tolerance: float
) -> Mask:
    """Return at the end of which strips (k,) something rises from the face that has no part behind it.

    What has such a part stands beside the face, which then ends there.

    Args:
        company: what is near.
        strips: of the face.
        axes: towards the edge, along it, and out of the face.
        level: where the face is along the last of them, metres.
        tolerance: metres from the face within which points lie on it.
    """
    towards, along, out = (company.coord @ axis for axis in axes)
    blocked = np.zeros(len(strips.top), dtype=bool)
    above = out - level
    place = np.searchsorted(strips.along, along - strips.width / 2)
    place = np.clip(place, 0, len(strips.top) - 1)
    in_strip = np.abs(strips.along[place] - along) <= strips.width / 2
    reach = 2.5 * strips.gap + _BESIDE_M
    beyond = towards - strips.top[place]
    touching = in_strip & (beyond > -2 * strips.gap) & (beyond < reach) & (above > tolerance) & (above < _ABOVE_M)
    for number in np.unique(company.owner[touching]).tolist():
        own = company.owner == number
        if number >= 0 and (above[own] < -_BEHIND_M).mean() > _BEHIND_SHARE:
            continue
        blocked |= np.bincount(place[touching & own], minlength=len(blocked)) >= _ENOUGH
    return blocked
