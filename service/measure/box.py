"""The box that an object's faces are faces of: where each of its six sides is, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.measure import edges, faces
from service.measure.contact import Company, touched
from service.measure.edges import Edge, Strips
from service.measure.faces import Axes, Face
from service.measure.planes import Floats, Mask, Plane
from service.measure.sight import Sight, cut_off

_PATCH = 0.08
_GLANCE = 0.12
_AHEAD = (1.5, 3.0, 5.0, 7.5, 10.0, 15.0, 22.0, 33.0, 50.0, 75.0, 100.0)
"""Spacings beyond an edge at which to look for what hides it: shadows and lost points may lie between."""
_DIFFER_M = 0.008
_LOST = 0.95
"""Points by which a face reaches beyond its outermost ones: half of one by the spacing, the rest since sensors lose
points at edges; the median of generated scans."""
_LEAST_FREE = 0.25
_STRAIGHT, _FEW_STRAIGHT, _LEAST_MARGIN = 0.5, 0.75, 1.5
_APART_M = 0.012
_GAP_M, _GAP, _GAP_SIDES = 0.015, 5.0, 0.1
"""Width of a gap in a face, metres and spacings of points, and the least share of its points on either side."""
_OUTERMOST, _INWARD = (2, 98), 0.5
"""Percentiles between which a box's points surely are its own, and how far inward that is taken, in tolerances."""


@dataclass(frozen=True)
class Side:
    """Where one side of a box is.

    Attributes:
        position: metres along its axis, from zero.
        sigma: metres, by how much it may err.
        source: plane: its face was seen; edge: a neighbouring face ends there; support: it stands on something.
    """

    position: float
    sigma: float
    source: str


@dataclass(frozen=True)
class Sides:
    """What is known of a box's six sides.

    Attributes:
        axes: the box's frame.
        up: (3,) normal of the support; None: not known.
        low, high: for each axis the side at its end, None: not known.
        seen: for each axis from where to where it surely reaches, metres from zero.
        hidden: axes an end of which something in front hides. cut: the same of the edge of the view.
        straight: least share of straight edges of its largest face.
        explained: share of its points that lie on its faces.
        apart: whether a face ends elsewhere than where the one beside it begins, or has a gap that can be seen through.
    """

    axes: Axes
    up: Floats | None
    low: tuple[Side | None, ...]
    high: tuple[Side | None, ...]
    seen: tuple[tuple[float, float], ...]
    hidden: frozenset[int]
    cut: frozenset[int]
    straight: float
    explained: float
    apart: bool


def noise(coord: Floats) -> float:
    """Return the noise of points (n, 3) across their surface: that of its flat patches, metres."""
    seeds = coord[:: max(1, len(coord) // 60)]
    sample = coord[:: max(1, len(coord) // 4000)]
    low, high = np.percentile(sample, [3, 97], axis=0)
    extent = float(np.linalg.norm(high - low))
    found = []
    for seed in seeds:
        away = ((sample - seed) ** 2).sum(axis=1)
        patch = sample[away < (_PATCH * extent) ** 2]
        if len(patch) >= 10:
            found.append(float(np.linalg.eigvalsh(np.cov(patch.T))[0]))
    return float(max(float(np.percentile(found, 30)), 0.0) ** 0.5) if found else 0.002


def sides(
    coord: Floats,
    found: Sequence[Face],
    up: Floats | None,
    tolerance: float,
    sight: Sight | None,
    company: Company,
    ground: Plane | None,
) -> Sides:
    """Return what the object's own points tell of the box's sides.

    Args:
        coord: (n, 3) metres, the object's points.
        found: its faces, at least one.
        up: (3,) normal of the support.
        tolerance: metres from a face within which points lie on it.
        sight: what the sensor saw, where it stood at zero.
        company: what is near the object. ground: the support.
    """
    axes = faces.frame(coord, found, up, tolerance)
    on_faces = {axis: _flat(coord, slot[0], sight) for axis, slot in enumerate(axes.faces) if slot is not None}
    if len(on_faces) == 1:
        ((axis, flat),) = on_faces.items()
        # An upright face of a standing box and the support's normal make the frame already.
        if axis == 2 or not axes.standing:
            axes = _headed(axes, axis, flat.straight)
    low: list[Side | None] = [None, None, None]
    high: list[Side | None] = [None, None, None]
    blocked: dict[str, set[int]] = {"hidden": set(), "cut": set()}
    straight, apart = 1.0, False
    largest = max(on_faces, key=lambda axis: len(on_faces[axis].straight))
    for axis in range(3):
        slot = axes.faces[axis]
        for sign, ends in ((-1, low), (1, high)):
            found_edges = []
            for face_axis, flat in on_faces.items():
                if face_axis == axis:
                    continue
                edge, why = _edge(flat, axes, axis, sign, face_axis, tolerance, sight, company, ground)
                if why:
                    blocked[why].add(axis)
                if edge is not None:
                    found_edges.append(edge)
                    if face_axis == largest:
                        straight = min(straight, edge.straight)
            if slot is not None and slot[1] == sign:
                own = _plane_side(coord[slot[0].rows], axes.rows[axis])
                ends[axis] = own
                apart = apart or _apart(own.position * sign, found_edges, tolerance)
                continue
            if found_edges:
                ends[axis] = _edge_side(found_edges, sign)
    if sight is not None:
        apart = apart or any(_holed(flat.straight, axes, axis, tolerance, sight) for axis, flat in on_faces.items())
    explained = sum(len(face) for face in found) / len(coord)
    reach = np.percentile(coord[np.concatenate([face.rows for face in found])] @ axes.rows.T, _OUTERMOST, axis=0)
    inward = _INWARD * tolerance
    seen = tuple((float(begin) + inward, float(end) - inward) for begin, end in reach.T)
    unknown = {axis for axis in range(3) if low[axis] is None or high[axis] is None}
    hides, cuts = (frozenset(blocked[why] & unknown) for why in ("hidden", "cut"))
    return Sides(axes, up, tuple(low), tuple(high), seen, hides, cuts, straight, explained, apart)


@dataclass(frozen=True)
class Flat:
    """A face's points on its plane.

    Attributes:
        straight: (k, 3) metres, by the shortest way.
        beams: (k, 3) metres, along the beams they came by, which undoes the noise along those; None: not known.
    """

    straight: Floats
    beams: Floats | None

    def towards(self, direction: Floats) -> Floats:
        """Return the points (k, 3) for the edge that lies in a direction (3,).

        Beyond an edge that is turned to the sensor another face begins, and what is of that one must not be carried
        along a beam: it would lie outside.
        """
        if self.beams is None or direction @ self.straight.mean(axis=0) < 0:
            return self.straight
        return self.beams


def _flat(coord: Floats, face: Face, sight: Sight | None) -> Flat:
    """Return a face's points on its plane."""
    own = coord[face.rows]
    normal, offset = face.plane.normal, face.plane.offset
    away = own @ normal
    straight = own - np.outer(away - offset, normal)
    if sight is None:
        return Flat(straight, None)
    steep = np.abs(away) > _GLANCE * np.linalg.norm(own, axis=1)
    along = own * (offset / np.where(steep, away, 1.0))[:, None]
    return Flat(straight, np.where(steep[:, None], along, straight))


def _headed(axes: Axes, axis: int, flat: Floats) -> Axes:
    """Return the frame turned about the one face's normal until its outline is a rectangle along the others."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    place = np.stack([flat @ axes.rows[first], flat @ axes.rows[second]], axis=1)
    place = place - place.mean(axis=0)

    def turned(angle: float) -> Floats:
        c, s = float(np.cos(angle)), float(np.sin(angle))
        found: Floats = place @ np.array([[c, -s], [s, c]])
        return found

    def area(angle: float) -> float:
        span = np.subtract(*np.percentile(turned(angle), [99, 1], axis=0))
        return float(span[0] * span[1])

    best = min(np.radians(np.arange(0.0, 90.0, 3.0)).tolist(), key=area)
    for step in (1.0, 0.3):
        best = min((best + np.radians(np.arange(-4, 5) * step)).tolist(), key=area)
    for _ in range(3):
        best += _skew(turned(best))
    c, s = np.cos(best), np.sin(best)
    rows = axes.rows.copy()
    rows[first] = c * axes.rows[first] + s * axes.rows[second]
    rows[second] = -s * axes.rows[first] + c * axes.rows[second]
    return replace(axes, rows=rows)


def _skew(place: Floats) -> float:
    """Return the angle by which the edges of an outline (n, 2) are turned, on average, the surer ones more."""
    total, weights = 0.0, 0.0
    for axis, sign, turn in ((0, 1, -1), (0, -1, -1), (1, 1, 1), (1, -1, 1)):
        strips = edges.cut(sign * place[:, axis], place[:, 1 - axis])
        edge = None if strips is None else edges.settle(strips, np.ones(len(strips.top), dtype=bool), 0.0)
        if edge is not None:
            weight = edge.straight / edge.slope_sigma**2
            total += weight * turn * sign * edge.slope
            weights += weight
    return float(np.clip(total / weights, -0.05, 0.05)) if weights else 0.0


def _plane_side(coord: Floats, axis: Floats) -> Side:
    """Return the side whose face has these points (k, 3)."""
    along = coord @ axis
    position = float(np.median(along))
    spread = 1.4826 * float(np.median(np.abs(along - position)))
    kept = along[np.abs(along - position) < 3 * spread + 1e-6]
    # Neighbouring points err alike.
    return Side(float(kept.mean()), float(spread / np.sqrt(max(1.0, len(kept) / 20))), "plane")


def _edge(
    face: Flat,
    axes: Axes,
    axis: int,
    sign: int,
    face_axis: int,
    tolerance: float,
    sight: Sight | None,
    company: Company,
    ground: Plane | None,
) -> tuple[Edge | None, str]:
    """Return where a face ends along an axis, or what keeps that from being seen: hidden, cut, or nothing."""
    rows, slot = axes.rows, axes.faces[face_axis]
    assert slot is not None
    towards, beside, out = sign * rows[axis], rows[3 - axis - face_axis], slot[1] * rows[face_axis]
    flat = face.towards(towards)
    strips = edges.cut(flat @ towards, flat @ beside)
    if strips is None:
        return None, ""
    level = float(np.median(flat @ out))
    free = ~touched(company, strips, (towards, beside, out), level, tolerance)
    if sight is not None:
        foot = np.outer(strips.along, beside) + level * out
        inside = ~cut_off(sight, foot + np.outer(strips.top, towards))
        if inside.mean() < _LEAST_FREE:
            return None, "cut"
        free &= inside
        free &= ~_behind(strips, foot, towards, tolerance, sight, ground)
    edge = edges.settle(strips, free, 0.0 if sight is not None else 0.3 * tolerance)
    if edge is None:
        return None, "" if free.mean() >= _LEAST_FREE else "hidden"
    if free.mean() < _LEAST_FREE:
        # A few strips tell where the edge is if they agree and what hides the others lets none reach beyond.
        outermost = float(np.percentile(strips.top, 90)) - _LEAST_MARGIN * strips.gap
        return (edge, "") if edge.straight >= _FEW_STRAIGHT and edge.position > outermost else (None, "hidden")
    return (edge, "") if edge.straight >= _STRAIGHT else (None, "hidden")


def _behind(
    strips: Strips, foot: Floats, towards: Floats, tolerance: float, sight: Sight, ground: Plane | None
) -> Mask:
    """Return which strips (k,) end behind something: the first thing that is seen beyond their end is nearer.

    Args:
        strips: of a face. foot: (k, 3) where they are along the edge. towards: (3,) to the edge.
        tolerance: metres from the face within which points lie on it.
        sight: what the sensor saw. ground: the support.
    """
    hides = np.zeros(len(foot), dtype=bool)
    decided = np.zeros(len(foot), dtype=bool)
    for ahead in _AHEAD:
        beyond = foot + np.outer(strips.top + ahead * strips.gap, towards)
        depth, seen = sight.look(beyond)
        # A cell of the image spans some two points, and of a slanted face as much depth.
        slant = np.abs(depth - sight.look(beyond - 2.5 * strips.gap * towards)[0])
        clearance = 0.003 + tolerance + slant
        if ground is not None:
            # Where the ground begins the face ends, though the ground then lies before the face's plane.
            decided |= ground.height(beyond) < 0.5 * tolerance
        hides |= ~decided & (seen < depth - clearance)
        decided |= hides | (np.isfinite(seen) & (seen > depth + clearance))
    return hides


def _apart(plane: float, found: Sequence[Edge], tolerance: float) -> bool:
    """Return whether a face beside a plane reaches, surely, beyond it, or nowhere as far: they are not of one box."""
    for edge in found:
        margin = max(_APART_M, tolerance, 4 * edge.sigma) + _LOST * edge.gap
        if edge.position > plane + margin or edge.reach < plane - margin:
            return True
    return False


def _holed(flat: Floats, axes: Axes, axis: int, tolerance: float, sight: Sight) -> bool:
    """Return whether a gap runs right through a face's points (k, 3), and what is seen in it lies behind the face."""
    spacing = sight.pixel * float(np.linalg.norm(flat.mean(axis=0)))
    for other in range(3):
        if other == axis:
            continue
        order = np.argsort(flat @ axes.rows[other])
        along = flat[order] @ axes.rows[other]
        steps = np.diff(along)
        index = int(steps.argmax())
        sides = min(index + 1, len(order) - index - 1)
        if steps[index] < max(_GAP_M, _GAP * spacing) or sides < _GAP_SIDES * len(order):
            continue
        # Right between the two parts, over their whole width.
        before, after = flat[order[: index + 1]], flat[order[index + 1 :]]
        between = 3 - axis - other
        low, high = np.percentile(np.concatenate([before, after]) @ axes.rows[between], [10, 90])
        middle = before.mean(axis=0)
        middle = middle + ((along[index] + along[index + 1]) / 2 - middle @ axes.rows[other]) * axes.rows[other]
        steps_across = np.linspace(low, high, 9) - middle @ axes.rows[between]
        depth, seen = sight.look(middle + np.outer(steps_across, axes.rows[between]))
        if (np.isfinite(seen) & (seen > depth + 2 * tolerance + _APART_M)).mean() > 0.5:
            return True
    return False


def _edge_side(found: Sequence[Edge], sign: int) -> Side:
    """Return the side where faces end: their weighted mean, or the outermost where they disagree."""
    position = np.array([edge.position + _LOST * edge.gap for edge in found])
    sigma = np.array([np.hypot(edge.sigma, 0.4 * edge.gap) for edge in found])
    if np.ptp(position) > max(_DIFFER_M, 3 * float(np.hypot.reduce(sigma))):
        # Something unnoticed cuts a face short more often than anything makes it longer.
        keep = position > position.max() - 1e-9
        position, sigma = position[keep], sigma[keep]
    weight = 1 / sigma**2
    return Side(sign * float((weight * position).sum() / weight.sum()), float(1 / np.sqrt(weight.sum())), "edge")
