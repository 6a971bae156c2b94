"""How boxes stand together: alone, piled, bridged, leaning, in blocks, in heaps; each stands on z = 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training import objects
from training.objects import Parts, move, settle, turn

Array = NDArray[np.float64]


def numbered(number: int, parts: Sequence[objects.Part]) -> Parts:
    return [replace(part, number=number) for part in parts]


def lone(rng: Generator, least: float, most: float) -> Parts:
    """Return one box on any of its sides, seldom on an edge or a corner."""
    parts = objects.box(rng, objects.box_size(rng, least, most))
    if rng.random() < 0.08:
        return settle(parts, objects.tumble(rng), (0, 0, 0))
    return parts


def pile(rng: Generator, least: float, most: float) -> Parts:
    """Return a stack of two to five boxes, each standing over the middle of the one below."""
    count = int(rng.integers(2, 5))
    sizes = sorted((objects.box_size(rng, least, most) for _ in range(count)), key=lambda size: -size[0] * size[1])
    if rng.random() < 0.4:
        sizes = [sizes[int(i)] for i in rng.permutation(count)]
    parts: Parts = []
    at, heading, below = np.zeros(3), 0.0, sizes[0]
    for number, size in enumerate(sizes):
        if number:
            room = np.minimum(size, below)[:2] * 0.4
            offset = turn(2, heading) @ np.append(rng.uniform(-1, 1, 2) * room, 0)
            at = at + offset + (0, 0, below[2])
            heading += float(rng.normal(0, 0.15) if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi))
        body = objects.closed_box(rng, size) if number + 1 < count else objects.box(rng, size)
        parts += numbered(number, move(body, turn(2, heading), at))
        below = size
    return parts


def bridge(rng: Generator, least: float, most: float) -> Parts:
    """Return a box that lies across two standing ones of one height."""
    left, right, top = (objects.box_size(rng, least, most) for _ in range(3))
    right[2] = left[2]
    gap = float(rng.uniform(0, 0.5) * top[0])
    parts = numbered(0, move(objects.closed_box(rng, left), np.eye(3), (-(gap + left[0]) / 2, rng.normal(0, 0.02), 0)))
    parts += numbered(
        1, move(objects.closed_box(rng, right), np.eye(3), ((gap + right[0]) / 2, rng.normal(0, 0.02), 0))
    )
    parts += numbered(2, move(objects.box(rng, top), turn(2, rng.normal(0, 0.4)), (0, 0, left[2])))
    return parts


def leaning(rng: Generator, least: float, most: float) -> Parts:
    """Return a box that leans against another one, or on nothing that is seen."""
    stand = objects.box_size(rng, least, most)
    size = objects.box_size(rng, least, most)
    angle = float(rng.uniform(0.15, 1.1))
    tilted = settle(objects.closed_box(rng, size), turn(1, angle), (0, 0, 0))
    reach = max(float(p.center[0] + np.abs(p.axes[:, 0]) @ p.half[:]) for p in tilted)
    tilted = move(tilted, np.eye(3), (-reach - stand[0] / 2 + 0.5 * float(size[2] * np.sin(angle)), 0, 0))
    return numbered(0, objects.closed_box(rng, stand)) + numbered(1, tilted)


def block(rng: Generator, least: float, most: float) -> Parts:
    """Return boxes of one size set side by side in layers, some missing in the top layer, small gaps between."""
    size = objects.box_size(rng, least, most)
    counts = np.clip(rng.integers(1, 5, 3), 1, np.maximum(1, (1.4 / size)).astype(int))
    parts: Parts = []
    for index in np.ndindex(*counts):
        if index[2] == counts[2] - 1 and rng.random() < 0.3:
            continue
        at = (np.array(index) - (counts - 1) / 2 * (1, 1, 0)) * size * (1.01, 1.01, 1)
        at = at + (*rng.normal(0, 0.004, 2), 0)
        parts += numbered(len(parts), move(objects.closed_box(rng, size * 0.995), turn(2, rng.normal(0, 0.015)), at))
    return parts or objects.closed_box(rng, size)


@dataclass(frozen=True)
class _Footprint:
    """Where a box of a heap stands: middle (2,), heading, half edges (2,), heights of its bottom and top."""

    middle: Array
    heading: float
    half: Array
    bottom: float
    top: float

    def axes(self) -> Array:
        c, s = np.cos(self.heading), np.sin(self.heading)
        return np.array(((c, s), (-s, c)))

    def covers(self, point: Array) -> bool:
        return bool(np.all(np.abs(self.axes() @ (point - self.middle)) <= self.half))

    def overlaps(self, other: _Footprint) -> bool:
        """Return whether the rectangles have a common area: no edge's direction separates them."""
        away = other.middle - self.middle
        for axis in (*self.axes(), *other.axes()):
            reach = np.abs(self.axes() @ axis) @ self.half + np.abs(other.axes() @ axis) @ other.half
            if abs(axis @ away) >= reach - 1e-4:
                return False
        return True


def heap(rng: Generator, least: float, most: float, *, area: Array | None = None, count: int | None = None) -> Parts:
    """Return boxes set down one after another, often flush against one another, on the ground or on those below.

    Args:
        least, most: bounds of a box's longest edge.
        area: (2,) half edges of the rectangle on which they must stand; None: as wide as they come.
        count: boxes to set down, fewer where there is no room; None: two to eight.
    """
    count = int(rng.integers(2, 9)) if count is None else count
    alike = objects.box_size(rng, least, most) if rng.random() < 0.3 else None
    flush, highest = float(rng.uniform(0.3, 0.95)), float(rng.uniform(1.0, 3.5)) * most
    parts: Parts = []
    placed: list[_Footprint] = []
    for _ in range(count):
        size = objects.box_size(rng, least, most) if alike is None else rng.permutation(alike)
        spot = _room_in_heap(rng, placed, size, flush, highest, area)
        if spot is None:
            continue
        body = objects.closed_box(rng, size)
        parts += numbered(len(placed), move(body, turn(2, spot.heading), (*spot.middle, spot.bottom)))
        placed.append(spot)
    return parts or objects.closed_box(rng, objects.box_size(rng, least, most))


def _room_in_heap(
    rng: Generator, placed: Sequence[_Footprint], size: Array, flush: float, highest: float, area: Array | None
) -> _Footprint | None:
    """Return where the next box of the size (3,) can stand without falling, or None after ten tries."""
    half = size[:2] / 2
    for _ in range(10):
        if placed and rng.random() < flush:
            anchor = placed[int(rng.integers(len(placed)))]
            heading = anchor.heading + float(rng.normal(0, 0.03) if rng.random() < 0.3 else 0.0)
            side = int(rng.integers(2))
            gap = float(rng.exponential(0.003)) + 0.5 * abs(heading - anchor.heading) * float(half.max())
            local = rng.uniform(-1, 1, 2) * (anchor.half + half)
            if rng.random() < 0.4:  # the two are aligned, at one edge or the other
                local[1 - side] = rng.choice((-1, 1)) * (anchor.half - half)[1 - side]
            local[side] = rng.choice((-1, 1)) * (anchor.half[side] + half[side] + gap)
            middle = anchor.middle + anchor.axes().T @ local
        elif area is not None:
            middle, heading = rng.uniform(-1, 1, 2) * np.maximum(area - half, 0), float(rng.normal(0, 0.02))
        else:
            wide = 0.6 * max((float(p.half.max()) for p in placed), default=0.0)
            middle = rng.normal(0, 1, 2) * wide + (placed[0].middle if placed else 0.0)
            heading = float(rng.uniform(0, 2 * np.pi))
        if area is not None and np.any(np.abs(middle) + half > area + 0.03):
            continue
        flat = _Footprint(middle, heading, half, 0.0, 0.0)
        below = [other for other in placed if flat.overlaps(other)]
        bottom = max((other.top for other in below), default=0.0)
        if bottom + size[2] > max(highest, float(size[2])):
            continue
        if not below or any(other.covers(middle) and other.top > bottom - 1e-6 for other in below):
            return _Footprint(middle, heading, half, bottom, bottom + float(size[2]))
    return None


Arrangement = Callable[[Generator, float, float], Parts]
ARRANGEMENTS: tuple[Arrangement, ...] = (lone, pile, bridge, leaning, block, heap)
SHARES = (0.44, 0.17, 0.06, 0.10, 0.07, 0.16)


def arrange(rng: Generator, least: float, most: float) -> Parts:
    """Return one of the arrangements, of boxes whose longest edges lie between the bounds in metres."""
    return ARRANGEMENTS[int(rng.choice(len(ARRANGEMENTS), p=SHARES))](rng, least, most)
