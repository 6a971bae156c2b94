"""Things that stand in a scene: boxes, and clutter that is none. Each stands on z = 0 about the origin.

What counts as a box: six flat faces at right angles, every edge at least 2.5 cm and none above 1 m, closed or with its
lid open. Sheets, boards and books thinner than 1.3 cm, furniture and walls are background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.solids import BOX, CUBOID, CYLINDER, ELLIPSOID, Part

Array = NDArray[np.float64]
Parts = list[Part]


def turn(axis: int, angle: float) -> Array:
    """Return the (3, 3) matrix that turns column vectors about the axis by the angle, in radians."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def tumble(rng: Generator) -> Array:
    """Return a (3, 3) rotation drawn evenly from all rotations."""
    q = rng.standard_normal(4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def move(parts: Sequence[Part], matrix: Array, shift: Array | Sequence[float]) -> Parts:
    """Return the parts turned by the matrix about the origin, then shifted."""
    shift = np.asarray(shift, dtype=float)
    return [replace(part, center=matrix @ part.center + shift, axes=part.axes @ matrix.T) for part in parts]


def lowest(parts: Sequence[Part]) -> float:
    """Return the least z of the parts (of the ellipsoids and cylinders: of the cuboid about them)."""
    return float(min(part.center[2] - np.abs(part.axes[:, 2]) @ part.half for part in parts))


def settle(parts: Sequence[Part], matrix: Array, shift: Array | Sequence[float]) -> Parts:
    """Return the parts turned, shifted, and lowered or lifted until their lowest point is at the shift's z."""
    turned = move(parts, matrix, (0.0, 0.0, 0.0))
    return move(turned, np.eye(3), np.asarray(shift, dtype=float) - (0.0, 0.0, lowest(turned)))


def cuboid(size: Sequence[float] | Array, at: Sequence[float] = (0.0, 0.0, 0.0)) -> Part:
    """Return a cuboid of the size (x, y, z) whose bottom's middle is at the point."""
    half = np.asarray(size, dtype=float) / 2
    return Part(CUBOID, np.asarray(at, dtype=float) + (0.0, 0.0, half[2]), half, np.eye(3))


def cylinder(radius: float, height: float, at: Sequence[float] = (0.0, 0.0, 0.0)) -> Part:
    """Return an upright cylinder whose bottom's middle is at the point."""
    half = np.array((radius, radius, height / 2))
    return Part(CYLINDER, np.asarray(at, dtype=float) + (0.0, 0.0, half[2]), half, np.eye(3))


def ellipsoid(half: Sequence[float] | NDArray[Any], at: Sequence[float] | NDArray[Any] = (0.0, 0.0, 0.0)) -> Part:
    """Return an ellipsoid with these half axes whose lowest point is at the point."""
    size = np.asarray(half, dtype=float)
    return Part(ELLIPSOID, np.asarray(at, dtype=float) + (0.0, 0.0, size[2]), size, np.eye(3))


def rod(start: Array, end: Array, radius: float) -> Parts:
    """Return a cylinder with round ends from one point to the other."""
    along = end - start
    length = float(np.linalg.norm(along))
    along = along / max(length, 1e-9)
    side = np.cross(along, (1.0, 0.0, 0.0) if abs(along[0]) < 0.8 else (0.0, 1.0, 0.0))
    side /= np.linalg.norm(side)
    axes = np.stack((side, np.cross(along, side), along))
    ends = [Part(ELLIPSOID, point, np.full(3, radius), np.eye(3)) for point in (start, end)]
    return [Part(CYLINDER, (start + end) / 2, np.array((radius, radius, length / 2)), axes), *ends]


def box_size(rng: Generator, least: float, most: float) -> Array:
    """Return edges (3,) of a box: the longest between the bounds, the others in the proportions of real parcels."""
    longest = float(np.exp(rng.uniform(np.log(least), np.log(most))))
    size = longest * np.array((1.0, rng.uniform(0.3, 1.0), rng.uniform(0.15, 0.95)))
    return rng.permutation(np.clip(size, 0.025, 1.0))


def closed_box(rng: Generator, size: Array) -> Parts:
    """Return a closed box, now and then with bulging or dented faces."""
    bulge = float(rng.normal(0, 0.02) * size.min()) if rng.random() < 0.4 else 0.0
    return [replace(cuboid(size), label=BOX, bulge=bulge)]


def open_box(rng: Generator, size: Array) -> Parts:
    """Return a box without its lid: a bottom, four walls, and now and then the lid's flaps."""
    x, y, z = size
    wall = rng.uniform(0.003, 0.008)
    parts = [cuboid((x, y, wall))]
    for sign in (-1, 1):
        parts.append(cuboid((wall, y, z), (sign * (x - wall) / 2, 0, 0)))
        parts.append(cuboid((x, wall, z), (0, sign * (y - wall) / 2, 0)))
        if rng.random() < 0.5:
            flap = cuboid((y / 2, x, wall), (y / 4, 0, 0))
            swung = move([flap], turn(2, sign * np.pi / 2) @ turn(1, rng.uniform(-1.2, 1.2)), (0, sign * y / 2, z))
            parts.extend(swung)
    return [replace(part, label=BOX) for part in parts]


def box(rng: Generator, size: Array) -> Parts:
    """Return a box of the size, closed or open."""
    roomy = size.min() > 0.08
    return open_box(rng, size) if roomy and rng.random() < 0.1 else closed_box(rng, size)


def ball(rng: Generator, scale: float) -> Parts:
    return [ellipsoid(np.full(3, scale * rng.uniform(0.1, 0.5)))]


def bottle(rng: Generator, scale: float) -> Parts:
    radius, height = scale * rng.uniform(0.1, 0.25), scale * rng.uniform(0.5, 1.0)
    body = cylinder(radius, height * 0.65)
    shoulder = ellipsoid((radius, radius, radius), (0, 0, height * 0.65 - radius))
    return [body, shoulder, cylinder(radius * 0.35, height * 0.4, (0, 0, height * 0.6))]


def can(rng: Generator, scale: float) -> Parts:
    return [cylinder(scale * rng.uniform(0.1, 0.4), scale * rng.uniform(0.2, 0.9))]


def cup(rng: Generator, scale: float) -> Parts:
    radius, height = scale * rng.uniform(0.12, 0.25), scale * rng.uniform(0.25, 0.45)
    a, b = np.array((radius, 0, height * 0.25)), np.array((radius, 0, height * 0.75))
    return [cylinder(radius, height), *rod(a + (radius * 0.5, 0, 0), b + (radius * 0.5, 0, 0), radius * 0.15)]


def bowl(rng: Generator, scale: float) -> Parts:
    wide = scale * rng.uniform(0.2, 0.5)
    return [ellipsoid((wide, wide * rng.uniform(0.8, 1), wide * rng.uniform(0.3, 0.7)))]


def bag(rng: Generator, scale: float) -> Parts:
    """A bag or a heap of cloth: ellipsoids that run into each other."""
    parts = []
    for _ in range(int(rng.integers(2, 6))):
        half = scale * rng.uniform(0.15, 0.4, 3) * (1, 1, 0.6)
        at = np.append(rng.normal(0, 0.15 * scale, 2), 0)
        parts.extend(move([ellipsoid(half)], turn(2, rng.uniform(0, 6.3)) @ turn(0, rng.normal(0, 0.3)), at))
    return parts


def tube(rng: Generator, scale: float) -> Parts:
    radius = scale * rng.uniform(0.05, 0.2)
    half = scale * rng.uniform(0.3, 0.8)
    return rod(np.array((-half, 0, radius)), np.array((half, 0, radius)), radius)


def sheet(rng: Generator, scale: float) -> Parts:
    """Paper, a tablet, a thin book."""
    return [cuboid((scale * rng.uniform(0.5, 1.3), scale * rng.uniform(0.4, 1.0), rng.uniform(0.001, 0.013)))]


def laptop(rng: Generator, scale: float) -> Parts:
    wide, deep = scale * rng.uniform(0.9, 1.3), scale * rng.uniform(0.6, 0.9)
    lid = move([cuboid((wide, 0.008, deep))], turn(0, -rng.uniform(-0.2, 0.6)), (0, deep / 2, 0.01))
    return [cuboid((wide, deep, 0.015)), *lid]


def monitor(rng: Generator, scale: float) -> Parts:
    wide, tall = scale * rng.uniform(1.2, 2.0), scale * rng.uniform(0.7, 1.2)
    foot, pole = cylinder(tall * 0.3, 0.012), cuboid((0.04, 0.02, tall * 0.5), (0, 0.03, 0))
    return [foot, pole, cuboid((wide, 0.012, tall), (0, 0, tall * 0.3))]


def lamp(rng: Generator, scale: float) -> Parts:
    tall = scale * rng.uniform(1.0, 2.0)
    return [
        cylinder(tall * 0.15, 0.02),
        cylinder(0.01, tall),
        ellipsoid((0.2 * tall, 0.2 * tall, 0.15 * tall), (0, 0, tall)),
    ]


def plant(rng: Generator, scale: float) -> Parts:
    pot = cylinder(scale * 0.25, scale * 0.4)
    leaves = [
        ellipsoid(scale * rng.uniform(0.05, 0.25, 3), np.append(rng.normal(0, 0.2, 2), rng.uniform(0.4, 1.1)) * scale)
        for _ in range(int(rng.integers(5, 12)))
    ]
    return [pot, *leaves]


def arm(rng: Generator, scale: float) -> Parts:
    """A hand and a forearm that reach into the picture."""
    heading = rng.uniform(0, 2 * np.pi)
    away = np.array((np.cos(heading), np.sin(heading), rng.uniform(0.1, 0.8)))
    hand = np.array((0, 0, rng.uniform(0.03, 0.4)))
    parts = rod(hand, hand + 0.5 * away, rng.uniform(0.03, 0.05))
    for _ in range(4):
        parts.extend(rod(hand, hand - 0.09 * away + rng.normal(0, 0.03, 3), 0.01))
    return parts


def stool(rng: Generator, scale: float) -> Parts:
    """A chair or a small table: a board on four legs, with or without a back."""
    wide, deep, tall = scale * rng.uniform((0.8, 0.8, 0.8), (1.6, 1.3, 1.5))
    board = rng.uniform(0.01, 0.04)
    leg = rng.uniform(0.02, 0.05)
    spots = [(sx * (wide - leg) / 2, sy * (deep - leg) / 2, 0) for sx in (-1, 1) for sy in (-1, 1)]
    parts = [cuboid((wide, deep, board), (0, 0, tall)), *(cuboid((leg, leg, tall), spot) for spot in spots)]
    if rng.random() < 0.6:
        parts.append(cuboid((wide, board, tall), (0, deep / 2, tall)))
    return parts


def cabinet(rng: Generator, scale: float) -> Parts:
    return [cuboid((scale * rng.uniform(1.5, 4), scale * rng.uniform(0.8, 1.6), max(1.05, scale * rng.uniform(2, 5))))]


def bin_(rng: Generator, scale: float) -> Parts:
    return [cylinder(scale * rng.uniform(0.3, 0.6), scale * rng.uniform(0.8, 1.5))]


def person(rng: Generator, scale: float) -> Parts:
    """Someone who stands there, 1.5 to 1.9 m tall whatever the scale."""
    tall = rng.uniform(1.5, 1.9)
    hip, neck = 0.5 * tall, 0.82 * tall
    parts = [ellipsoid((0.09, 0.1, 0.12), (0, 0, 0.86 * tall)), ellipsoid((0.14, 0.22, 0.3), (0, 0, hip - 0.05))]
    for side in (-1, 1):
        foot, shoulder = np.array((rng.normal(0, 0.15), side * 0.12, 0.05)), np.array((0, side * 0.2, neck - 0.08))
        hand = np.array((rng.uniform(-0.2, 0.6), side * rng.uniform(0.1, 0.45), rng.uniform(0.8, 1.3)))
        parts += rod(np.array((0, side * 0.1, hip)), foot, 0.075) + rod(shoulder, hand, 0.045)
    return parts


Clutter = Callable[[Generator, float], Parts]
SMALL: tuple[Clutter, ...] = (ball, bottle, can, cup, bowl, bag, tube, sheet, laptop, monitor, lamp, plant, arm)
LARGE: tuple[Clutter, ...] = (stool, stool, cabinet, bin_, person, bag, tube, ball, plant)


def clutter(rng: Generator, kinds: Sequence[Clutter], scale: float) -> Parts:
    """Return one object that is no box, about as large as the scale in metres."""
    return kinds[int(rng.integers(len(kinds)))](rng, scale * float(rng.uniform(0.6, 1.4)))
