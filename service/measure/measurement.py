"""The boxes of a labelled cloud: one measurement for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.measure import box, contact, faces, support
from service.measure import sight as sights
from service.measure.answer import answer, implausible, refuse
from service.measure.box import Side, Sides
from service.measure.contact import Company
from service.measure.frame import Frame
from service.measure.planes import Floats, Plane, Rows
from service.measure.sight import Sight
from service.values import Instance, MeasuredBox, Measurement, Segmentation, Support

_LEAST_POINTS = 30
_TOLERANCE_M = (0.004, 0.02)
_SUPPORT_TOLERANCE_M = 0.02
_BELOW_M = 0.015
_SNAP_M = 0.008
_CONTACT_M, _CONTACT = 0.025, 0.15
_SEEN_M, _SEEN = 0.005, 12
_LOWEST = 3
_OVERLAP = 0.25
_FLAT = 0.55
_STRAIGHT = 0.4


@dataclass(frozen=True)
class Part:
    """What is known of one object before the others are looked at.

    Attributes:
        instance: the object.
        coord: (n, 3) metres, its points.
        tolerance: metres from its faces within which points lie on them.
        company: what is near it.
        sides: what its points tell; None: it has no faces.
        reason: why it cannot be measured, as far as its points alone tell.
    """

    instance: Instance
    coord: Floats
    tolerance: float
    company: Company
    sides: Sides | None
    reason: str | None


def measure(coord: NDArray[np.float64], segmentation: Segmentation, frame: Frame) -> Measurement:
    """Return the boxes of a cloud.

    Args:
        coord: (N, 3) metres; rows that are NaN or all zero, as depth cameras write pixels without depth, are no points.
        segmentation: with `instance`.
        frame: the file's.
    """
    assert segmentation.instance is not None
    valid = np.isfinite(coord).all(axis=1) & (coord != 0).any(axis=1)
    coord, owner = coord[valid], segmentation.instance[valid].astype(np.int64)
    said = frame.viewpoint is not None
    zero = np.asarray(frame.viewpoint, np.float64) * frame.metres_per_unit if said else np.zeros(3)
    sight = sights.view(coord - zero, owner, said) if len(coord) and frame.one_sensor else None
    if sight is None and len(coord):
        zero = coord.mean(axis=0)
    coord = coord - zero
    rest, boxes = coord[owner < 0], coord[owner >= 0]
    wanted = None if frame.up is None else _unit(frame.up)
    plane = support.find(rest, boxes, owner[owner >= 0], wanted)
    up = wanted if plane is None else plane.normal
    warnings = _warnings(segmentation, plane)
    parts = [_look(coord, owner, one, up, plane, sight, frame) for one in segmentation.instances]
    made = tuple(_finish(part, parts, rest, plane, sight, zero, frame) for part in parts)
    return Measurement(
        made,
        frame.metres_per_unit,
        None if up is None else tuple(up.tolist()),
        None if plane is None else _describe(plane, rest, zero, frame),
        tuple(warnings),
    )


def _unit(direction: Sequence[float]) -> Floats:
    """Return a direction (3,) at length 1, whatever its own, whose square may be no number."""
    found = np.asarray(direction, np.float64)
    found = found / np.abs(found).max()
    unit: Floats = found / np.linalg.norm(found)
    return unit


def _warnings(segmentation: Segmentation, plane: Plane | None) -> list[str]:
    if not segmentation.instances:
        return ["No box was found."]
    if plane is None:
        return [
            "No plane was found that the boxes stand on: heights come from the boxes' own faces, and which way is up "
            "is known only if you say so (up=x,y,z)."
        ]
    return []


def _describe(plane: Plane, rest: Floats, zero: Floats, frame: Frame) -> Support:
    near = rest[np.abs(plane.height(rest)) < _SUPPORT_TOLERANCE_M]
    near = near if len(near) else plane.normal[None] * plane.offset
    height = plane.height(near)
    foot = near.mean(axis=0) - height.mean() * plane.normal
    return Support(
        tuple(((foot + zero) / frame.metres_per_unit).tolist()),
        tuple(plane.normal.tolist()),
        float(np.sqrt((height**2).mean())),
    )


def _look(
    cloud: Floats,
    owner: Rows,
    instance: Instance,
    up: Floats | None,
    ground: Plane | None,
    sight: Sight | None,
    frame: Frame,
) -> Part:
    """Return what an object's own points tell, and those around it."""
    coord = cloud[owner == instance.id]
    company = contact.near(coord, cloud, owner, instance.id)
    if len(coord) < _LEAST_POINTS:
        return Part(
            instance, coord, 0.0, company, None, f"it has {len(coord)} points; at least {_LEAST_POINTS} are needed"
        )
    low, high = np.percentile(coord, [2, 98], axis=0)
    if (unlikely := implausible(float(np.linalg.norm(high - low)), frame)) is not None:
        return Part(instance, coord, 0.0, company, None, unlikely)
    tolerance = float(np.clip(3 * box.noise(coord) + 0.001, *_TOLERANCE_M))
    found = faces.find(coord, tolerance, sight is not None)
    if not found:
        return Part(instance, coord, tolerance, company, None, "it shows no flat face")
    found = faces.complete(coord, found, up, tolerance, sight is not None)
    sides = box.sides(coord, found, up, tolerance, sight, company, ground)
    reason = ""
    if sides.explained < _FLAT:
        reason = f"it is no box: only {sides.explained:.0%} of its points lie on flat faces that stand at right angles"
    elif sides.apart:
        reason = "its faces do not meet where those of one box would: it may be more than one"
    elif len(found) == 1 and sides.straight < _STRAIGHT:
        reason = "the one face that is seen is no rectangle"
    return Part(instance, coord, tolerance, company, sides, reason or None)


def _finish(
    part: Part,
    parts: Sequence[Part],
    rest: Floats,
    plane: Plane | None,
    sight: Sight | None,
    zero: Floats,
    frame: Frame,
) -> MeasuredBox:
    """Return the measurement of an object, now that the others are known."""
    if part.sides is None or part.reason is not None:
        return refuse(part.instance, part.sides, part.reason or "")
    sides = part.sides
    low, high = list(sides.low), list(sides.high)
    if sides.axes.standing and plane is not None:
        low[2] = _bottom(part, parts, rest, plane, low[2], high[2])
    return answer(part.instance, sides, low, high, zero, frame)


def _bottom(
    part: Part, parts: Sequence[Part], rest: Floats, plane: Plane, own: Side | None, top: Side | None
) -> Side | None:
    """Return where a standing box ends below: on the support, on a box beneath, or where its own sides end."""
    assert part.sides is not None
    center = part.coord.mean(axis=0)
    reach = float(np.linalg.norm(part.coord - center, axis=1).max())
    ground = plane.offset + support.beside(rest, plane, center, reach, _SUPPORT_TOLERANCE_M)
    spread = 0.25 * part.tolerance
    heights = part.coord @ plane.normal
    lowest = float(np.percentile(heights, _LOWEST))
    highest = top.position if top is not None else float(np.percentile(heights, 100 - _LOWEST))
    tops = (_top_beneath(other, part, plane, highest) for other in parts if other is not part)
    # What its sides reach below it does not stand on.
    beneath_it = [level for level in tops if level is not None and level < lowest + part.tolerance]
    levels = [Side(level, spread, "support") for level in (ground, *beneath_it)]
    tall = highest - max(level.position for level in levels)
    reach_m = min(_CONTACT_M, 0.005 + _CONTACT * tall) + part.tolerance
    if own is not None:
        nearest = min(levels, key=lambda one: abs(one.position - own.position))
        # Nothing is below the support; above it a gap may be a thin thing that the box stands on.
        above = own.position - nearest.position
        if -reach_m < above < min(reach_m, _SNAP_M + 2 * own.sigma + 0.5 * part.tolerance):
            return nearest
        # It stands on something else, a pallet or a shelf, of which something is to be seen beside it.
        beside = np.abs(part.company.coord @ plane.normal - own.position) < _SEEN_M + part.tolerance
        return own if beside.sum() >= _SEEN else None
    beneath = max(levels, key=lambda one: one.position)
    sides = [slot[0] for slot in part.sides.axes.faces[:2] if slot is not None]
    if sides:
        lowest = min(float(np.percentile(part.coord[face.rows] @ plane.normal, 3)) for face in sides)
        if lowest - beneath.position > reach_m:
            return None
    return beneath


def _top_beneath(other: Part, part: Part, plane: Plane, highest: float) -> float | None:
    """Return how high the top of another box is on which this one may stand, along the support's normal."""
    assert part.sides is not None
    if other.sides is None or not other.sides.axes.standing or other.sides.axes.faces[2] is None:
        return None
    level = other.sides.high[2]
    if level is None or level.position > highest - _BELOW_M:
        return None
    # How much of this box's footprint lies over the other's.
    place = _footprint(part.sides)
    inside = np.ones(len(place), dtype=bool)
    for axis in (0, 1):
        along = place @ other.sides.axes.rows[axis]
        begin, end = _span(other.sides, axis)
        inside &= (along > begin) & (along < end)
    return level.position if inside.mean() > _OVERLAP else None


def _footprint(sides: Sides) -> Floats:
    """Return points (36, 3) all over a standing box's footprint, at any height."""
    steps = (np.arange(6) + 0.5) / 6
    begin, end = _span(sides, 0)
    first = begin + steps * (end - begin)
    begin, end = _span(sides, 1)
    second = begin + steps * (end - begin)
    found: Floats = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2) @ sides.axes.rows[:2]
    return found


def _span(sides: Sides, axis: int) -> tuple[float, float]:
    """Return from where to where a box reaches along an axis, as far as is known."""
    low, high, seen = sides.low[axis], sides.high[axis], sides.seen[axis]
    return seen[0] if low is None else low.position, seen[1] if high is None else high.position
