"""The flat faces of an object, and the frame of the box that they are faces of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.measure import planes
from service.measure.planes import Floats, Mask, Plane, Rows

_MOST = 6
_LEAST, _LEAST_SHARE = 20, 0.03
_BEHIND = 0.85
_SQUARE = float(np.sin(np.radians(14)))
_SAME = float(np.cos(np.radians(14)))
_LEVEL_DEGREES = 5.0
_REACH = 0.35
_LEAST_NARROW = 12
_TURN_DEGREES = 6.0
_WIDE = 1.5
"""Spread of a narrow face's points along it, in theirs across it, from which they are one."""


@dataclass(frozen=True)
class Face:
    """One flat face of an object.

    Attributes:
        plane: its normal points out of the object.
        rows: (k,) which of the object's points lie on it.
    """

    plane: Plane
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)


def find(coord: Floats, tolerance: float, seen_from_zero: bool) -> list[Face]:
    """Return the flat faces of an object that may be one box's: at right angles, the one of most points first.

    Args:
        coord: (n, 3) metres.
        tolerance: metres from a plane within which points lie on it.
        seen_from_zero: whether the sensor stood at zero, so that every face it saw faces zero.
    """
    low, high = np.percentile(coord, [3, 97], axis=0)
    reach = _REACH * float(np.linalg.norm(high - low))
    left = np.arange(len(coord))
    found: list[Face] = []
    for _ in range(_MOST):
        if len(left) < max(_LEAST, _LEAST_SHARE * len(coord)):
            break
        best = planes.largest(coord[left], tolerance, reach)
        if best is None:
            break
        near = np.abs(best[0].height(coord[left])) < tolerance
        if near.sum() < max(_LEAST, _LEAST_SHARE * len(coord)):
            break
        plane = _outward(best[0], coord, tolerance, seen_from_zero)
        if plane is not None:
            found.append(Face(plane, left[near]))
        left = left[~near]
    return _square(found)


def _outward(plane: Plane, coord: Floats, tolerance: float, seen_from_zero: bool) -> Plane | None:
    """Return the plane with its normal out of the object; None where the object lies on both of its sides."""
    height = plane.height(coord)
    behind, before = float((height < tolerance).mean()), float((height > -tolerance).mean())
    if max(behind, before) < _BEHIND:
        return None
    if seen_from_zero:
        # Zero lies before a face that was seen from there.
        plane = plane if plane.offset < 0 else plane.flipped()
        return plane if (plane.height(coord) < tolerance).mean() >= _BEHIND else None
    return plane if behind >= before else plane.flipped()


def _square(found: Sequence[Face]) -> list[Face]:
    """Return the largest set of faces at right angles to one another, two on parallel planes united."""
    best: list[Face] = []
    for first in found:
        chosen = [first]
        for other in sorted(found, key=len, reverse=True):
            if other is not first and all(abs(other.plane.normal @ one.plane.normal) < _SQUARE for one in chosen):
                chosen.append(other)
        if sum(map(len, chosen)) > sum(map(len, best)):
            best = chosen
    return sorted(best, key=len, reverse=True)


def complete(
    coord: Floats, found: Sequence[Face], up: Floats | None, tolerance: float, seen_from_zero: bool
) -> list[Face]:
    """Return the faces and, where fewer than three are known, narrow ones that lie square to them.

    A plane through few points may lie at any angle; one whose normal the other faces give needs its place alone.

    Args:
        coord, tolerance, seen_from_zero: as in `find`, whose faces `found` are, at least one.
        up: (3,) normal of the support, where there is one.
    """
    made = list(found)
    while len(made) < 3:
        left = np.flatnonzero(~np.any([np.abs(face.plane.height(coord)) < tolerance for face in made], axis=0))
        if len(left) < max(_LEAST_NARROW, _LEAST_SHARE * len(coord)):
            break
        best: Face | None = None
        for normal in _square_to(made, up):
            face = _narrow(coord, left, normal, tolerance, seen_from_zero)
            if face is not None and (best is None or len(face) > len(best)):
                best = face
        if best is None:
            break
        made.append(best)
    return made


def _square_to(found: Sequence[Face], up: Floats | None) -> list[Floats]:
    """Return directions (3,) that are square to the one or two faces; upright ones alone, where such may be."""
    first = found[0].plane.normal
    if len(found) == 2:
        second = found[1].plane.normal
        cross = np.cross(first, second)
        return [cross, -cross]
    if up is not None and abs(first @ up) < _SQUARE:
        side = np.cross(up, first)
        return [up - (up @ first) * first, side, -side]
    across = np.eye(3)[np.abs(first).argmin()]
    across = np.cross(first, across)
    across /= np.linalg.norm(across)
    other = np.cross(first, across)
    angles = np.radians(np.arange(0.0, 360.0, _TURN_DEGREES))
    return [np.cos(angle) * across + np.sin(angle) * other for angle in angles.tolist()]


def _narrow(coord: Floats, left: Rows, normal: Floats, tolerance: float, seen_from_zero: bool) -> Face | None:
    """Return the face square to a direction that most of the points left lie on; None where there is none."""
    normal = normal / np.linalg.norm(normal)
    height = coord @ normal
    own = np.sort(height[left])
    count = np.searchsorted(own, own + 2 * tolerance) - np.arange(len(own))
    offset = float(own[int(count.argmax())]) + tolerance
    near = left[np.abs(height[left] - offset) < tolerance]
    if len(near) < max(_LEAST_NARROW, _LEAST_SHARE * len(coord)):
        return None
    plane = Plane(normal, float(np.median(height[near])))
    if (seen_from_zero and plane.offset > 0) or (height < plane.offset + tolerance).mean() < _BEHIND:
        return None
    # What is no face, as noise beside another one, is as thick as it is wide.
    near = left[np.abs(height[left] - plane.offset) < tolerance]
    spread = np.linalg.svd((coord[near] - coord[near].mean(axis=0)) @ _across(normal), compute_uv=False)
    wide = float(spread[-1]) / np.sqrt(len(near))
    return Face(plane, near) if wide > _WIDE * float(np.std(height[near])) else None


def _across(normal: Floats) -> Floats:
    """Return (3, 2) directions square to one (3,) and to each other."""
    first = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first)], axis=1)


@dataclass(frozen=True)
class Axes:
    """The frame of a box.

    Attributes:
        rows: (3, 3) unit axes; of a standing box the third is up.
        faces: for each axis the face seen at its end, if any, and 1 or -1: at which end.
        standing: whether it stands on the support; None: there is no support.
    """

    rows: Floats
    faces: tuple[tuple[Face, int] | None, ...]
    standing: bool | None


def frame(coord: Floats, found: Sequence[Face], up: Floats | None, tolerance: float) -> Axes:
    """Return the frame that fits the faces, at least one, and whether the box stands.

    Args:
        coord: (n, 3) metres, the object's. found: its faces.
        up: (3,) normal of the support, where there is one.
        tolerance: as in `find`.
    """
    normals = np.array([face.plane.normal for face in found])
    weight = np.array([_sureness(coord[face.rows], tolerance) for face in found])
    standing = None if up is None else _stands(normals, weight, up)
    third = up if standing and up is not None else None
    rows = _rotation(normals, weight, third)
    slots: list[tuple[Face, int] | None] = [None, None, None]
    for face, normal in zip(found, normals, strict=True):
        along = rows @ normal
        axis = int(np.abs(along).argmax())
        if slots[axis] is None:
            slots[axis] = (face, 1 if along[axis] > 0 else -1)
    return Axes(rows, tuple(slots), standing)


def _sureness(coord: Floats, tolerance: float) -> float:
    """Return how much a face's normal is worth: 1 / variance of its angle, which the sensor's bending bounds."""
    spread = np.linalg.eigvalsh(np.cov(coord.T))
    noise = max(float(spread[0]), (0.2 * tolerance) ** 2)
    # Neighbouring points err alike: a twentieth of them counts.
    variance = 20 * noise / (max(float(spread[1]), 1e-9) * len(coord))
    return 1.0 / (variance + np.radians(0.4) ** 2)


def _stands(normals: Floats, weight: Floats, up: Floats) -> bool:
    """Return whether faces with these normals are those of a box whose one axis is upright, as sure as they are."""
    upright = np.degrees(np.arcsin(np.abs(normals @ up).clip(max=1)))
    aslant = np.minimum(upright, 90 - upright)
    return bool((aslant < _LEVEL_DEGREES + 2 * np.degrees(weight**-0.5)).all())


def _rotation(normals: Floats, weight: Floats, third: Floats | None) -> Floats:
    """Return the (3, 3) axes nearest to the normals; with `third` that is the third of them.

    Source: the orthogonal Procrustes problem (Schoenemann 1966), normals assigned to axes beforehand.
    """
    if third is not None:
        across = np.abs(normals @ third) < 0.5
        if not across.any():
            first = np.zeros(3)
            first[np.abs(third).argmin()] = 1.0
        else:
            flat = normals[across] - np.outer(normals[across] @ third, third)
            flat /= np.linalg.norm(flat, axis=1, keepdims=True)
            base = flat[int(weight[across].argmax())]
            side = np.cross(third, base)
            angle = np.arctan2(flat @ side, flat @ base)
            # Angles count modulo a right angle.
            turn = float(np.angle((weight[across] * np.exp(4j * angle)).sum())) / 4
            first = np.cos(turn) * base + np.sin(turn) * side
        first = first - (first @ third) * third
        first /= np.linalg.norm(first)
        return np.stack([first, np.cross(third, first), third])
    first = normals[int(weight.argmax())]
    others = [normal for normal in normals if abs(normal @ first) < 0.5]
    second = others[0] if others else np.eye(3)[np.abs(first).argmin()]
    second = second - (second @ first) * first
    second /= np.linalg.norm(second)
    start = np.stack([first, second, np.cross(first, second)])
    along = normals @ start.T
    axis = np.abs(along).argmax(axis=1)
    sign = np.sign(along[np.arange(len(normals)), axis])
    target = start[axis] * sign[:, None]
    left, _values, right = np.linalg.svd((target * weight[:, None]).T @ normals + 1e-6 * np.eye(3) * weight.max())
    turn_back = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    found: Floats = start @ turn_back
    return found


def regrown(face: Face, coord: Floats, plane: Plane, tolerance: float) -> Face:
    """Return the face with all points (n, 3) that lie on a plane."""
    near: Mask = np.abs(plane.height(coord)) < tolerance
    return replace(face, plane=plane, rows=np.flatnonzero(near))
