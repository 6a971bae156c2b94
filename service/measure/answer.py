"""The answer for one object: numbers with their uncertainty in the file's frame, or why some are not known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.measure.box import Side, Sides
from service.measure.frame import Frame
from service.measure.planes import Floats
from service.values import BoxPart, BoxSize, Instance, MeasuredBox

_AROUND = ((-1, -1), (1, -1), (1, 1), (-1, 1))
_POSES = {None: "unknown", True: "standing", False: "leaning"}
_NAMES = ("length", "width", "height")
_LARGEST_M, _SMALLEST_M, _THINNEST_M = 5.0, 0.02, 0.005
_WIDTH = {"edge": 2.6, "plane": 2.9, "support": 1.9}
_BENT = 0.011
"""Half the width of a 90 % interval, for a side's sigma and as a share of an edge's length: by quantile regression on
generated scans with seeds from 1000 on. Sensors bend what they see, which no box's own points tell."""


def refuse(instance: Instance, sides: Sides | None, reason: str) -> MeasuredBox:
    """Return the answer for an object of which nothing can be measured, and why."""
    if sides is None:
        return MeasuredBox(instance, None, None, reason, (), "unknown")
    known = [
        high.position - low.position if low is not None and high is not None else np.inf
        for low, high in zip(sides.low, sides.high, strict=True)
    ]
    names = _faces_seen(sides, *_upright(sides, np.array(known)))
    return MeasuredBox(instance, None, None, reason, names, _POSES[sides.axes.standing])


def answer(
    instance: Instance,
    sides: Sides,
    low: Sequence[Side | None],
    high: Sequence[Side | None],
    zero: Floats,
    frame: Frame,
) -> MeasuredBox:
    """Return the answer for an object whose sides are these.

    Args:
        instance: the object. sides: its frame and faces.
        low, high: for each axis its ends; None: not known.
        zero: (3,) metres, where the frame of the measurement has its zero in the file's.
        frame: the file's.
    """
    pairs = list(zip(low, high, strict=True))
    ends = [(begin, end) for begin, end in pairs if begin is not None and end is not None]
    known = np.array([begin is not None and end is not None for begin, end in pairs])
    size = np.full(3, np.inf)
    size[known] = [end.position - begin.position for begin, end in ends]
    if size.min() < _THINNEST_M:
        return refuse(instance, sides, f"it would be {1000 * size.min():.1f} mm thin, less than can be told from noise")
    least = np.array([_least(*pair, seen) for pair, seen in zip(pairs, sides.seen, strict=True)])
    some = np.where(known, size, least)
    if (reason := implausible(float(some.max()), frame)) is not None:
        return refuse(instance, sides, reason)
    unsure = np.full(3, np.inf)
    own = [sum((_WIDTH[side.source] * side.sigma) ** 2 for side in pair) for pair in ends]
    unsure[known] = np.sqrt(np.array(own) + (_BENT * size[known]) ** 2)
    height, above = _upright(sides, size)
    order, rotation = _ordered(sides.axes.rows, some, height, above)
    names = _faces_seen(sides, height, above)
    pose = _POSES[sides.axes.standing]
    if not known.any():
        # Where nothing is sure, what the points span is no bound either.
        return MeasuredBox(instance, None, None, _unknown(sides, order), names, pose)
    if not known.all():
        part = _part(size[order], unsure[order], least[order], rotation)
        return MeasuredBox(instance, None, part, _unknown(sides, order, part.at_least_m), names, pose)
    middle = np.array([(begin.position + end.position) / 2 for begin, end in ends])
    center = middle @ sides.axes.rows + zero
    return MeasuredBox(instance, _size(size[order], unsure[order], center, rotation, frame), None, None, names, pose)


def _size(size: Floats, unsure: Floats, center: Floats, rotation: Floats, frame: Frame) -> BoxSize:
    """Return what is said of a box all of whose edges are known."""
    signs = np.array([(*pair, height) for height in (-1, 1) for pair in _AROUND])
    corners = center + (signs * size / 2) @ rotation
    volume = float(size.prod())
    unit = frame.metres_per_unit
    return BoxSize(
        tuple(size.tolist()),
        tuple(unsure.tolist()),
        volume,
        volume * float(np.sqrt(((unsure / size) ** 2).sum())),
        tuple((center / unit).tolist()),
        tuple(tuple(row) for row in rotation.tolist()),
        tuple(tuple(row) for row in (corners / unit).tolist()),
    )


def _part(size: Floats, unsure: Floats, least: Floats, rotation: Floats) -> BoxPart:
    """Return what is said of a box some of whose edges, those of size inf, are not known."""
    known = np.isfinite(size)
    floor = least.copy()
    floor[known] = np.maximum(size[known] - unsure[known], 0.0)
    return BoxPart(
        tuple(one if there else None for one, there in zip(size.tolist(), known, strict=True)),
        tuple(one if there else None for one, there in zip(unsure.tolist(), known, strict=True)),
        tuple(None if there else one for one, there in zip(least.tolist(), known, strict=True)),
        float(floor.prod()),
        tuple(tuple(row) for row in rotation.tolist()),
    )


def _least(low: Side | None, high: Side | None, seen: tuple[float, float]) -> float:
    """Return what an edge has at least, metres: from the end that is known, or the outermost point, to the other."""
    begin = seen[0] if low is None else low.position + _WIDTH[low.source] * low.sigma
    end = seen[1] if high is None else high.position - _WIDTH[high.source] * high.sigma
    return max(0.0, end - begin)


def _upright(sides: Sides, size: Floats) -> tuple[int, int]:
    """Return the axis of the height, and 1 or -1: which of its ends is above.

    Where nothing says which way is up the height is the shortest edge, and a face that is seen at its end is the top.
    """
    up = sides.up
    if up is not None:
        along = sides.axes.rows @ up
        axis = 2 if sides.axes.standing else int(np.abs(along).argmax())
        return axis, 1 if along[axis] >= 0 else -1
    axis = int(size.argmin())
    slot = sides.axes.faces[axis]
    return axis, 1 if slot is None else slot[1]


def _ordered(rows: Floats, size: Floats, height: int, above: int) -> tuple[list[int], Floats]:
    """Return which axes are length, width and height, and these as a right-handed frame."""
    first, second = (axis for axis in range(3) if axis != height)
    length, width = (first, second) if size[first] >= size[second] else (second, first)
    up = rows[height] * above
    return [length, width, height], np.stack([rows[length], np.cross(up, rows[length]), up])


def _faces_seen(sides: Sides, height: int, above: int) -> tuple[str, ...]:
    """Return the names of the faces that were seen; front is the side of most points, the others follow from it."""
    rows = sides.axes.rows
    seen = [(len(slot[0]), axis, slot[1]) for axis, slot in enumerate(sides.axes.faces) if slot is not None]
    front: Floats | None = None
    names = []
    for _points, axis, sign in sorted(seen, reverse=True):
        normal = sign * rows[axis]
        if axis == height:
            names.append("top" if sign == above else "bottom")
        elif front is None:
            front = normal
            names.append("front")
        else:
            right = np.cross(-front, above * rows[height])
            names.append("right" if normal @ right > 0 else "left")
    return tuple(names)


def _unknown(sides: Sides, order: Sequence[int], at_least: Sequence[float | None] = (0.0, 0.0, 0.0)) -> str:
    """Return why edges of a box are not known, those that have a bound, and what they have at least."""
    said: dict[str, list[str]] = {}
    for name, axis, least in zip(_NAMES, order, at_least, strict=True):
        if least is None:
            continue
        if axis in sides.cut:
            why = "the edge of the view cuts it off"
        elif axis in sides.hidden:
            why = "something in front hides where it ends"
        else:
            why = "too few of its faces are seen to know its size in every direction"
        said.setdefault(why, []).append(f"{name} at least {1000 * least:.0f} mm" if least > _THINNEST_M else name)
    return "; ".join(f"{why}: {', '.join(edges)}" for why, edges in said.items())


def implausible(extent_m: float, frame: Frame) -> str | None:
    """Return why nothing of this extent in metres is a parcel, or None."""
    unit = f"with {frame.metres_per_unit:g} m per unit"
    if extent_m > _LARGEST_M:
        return f"it would be {extent_m:.3g} m long {unit}: are the coordinates in millimetres? Then say units=mm"
    if extent_m < _SMALLEST_M:
        return f"it would be {1000 * extent_m:.2g} mm long {unit}: are the coordinates in metres? Then say units=m"
    return None
