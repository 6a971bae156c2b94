"""Scenes: a place (table, floor, belt, pallet, shelf, nothing), boxes arranged on it, clutter. One seed, one scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training import arrangements, objects
from training.objects import Parts, cuboid, cylinder, move, turn
from training.solids import BACKGROUND

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """A scene before any sensor looks at it; z is up, metres.

    Attributes:
        parts: its solids.
        focus: (3,) the middle of what matters.
        reach: how far around the focus things stand.
        distance: least and most metres from which a depth camera looks.
        elevation: least and most angle in degrees at which it looks down.
    """

    parts: tuple[objects.Part, ...]
    focus: Array
    reach: float
    distance: tuple[float, float]
    elevation: tuple[float, float] = (12.0, 85.0)


class Layout:
    """Objects put down on a surface one after another, none inside another."""

    def __init__(self, rng: Generator, halves: Array, height: float) -> None:
        self.rng, self.halves, self.height = rng, halves, height
        self.parts: Parts = []
        self._taken: list[tuple[Array, float]] = []
        self._objects = 0

    def focus(self) -> Array:
        """Return where somebody would point a camera: mostly at one of the objects, else at the middle."""
        if not self._taken or self.rng.random() < 0.2:
            return np.append(self.rng.uniform(-0.25, 0.25, 2) * self.halves, self.height)
        spot, radius = self._taken[int(self.rng.integers(len(self._taken)))]
        return np.append(spot * self.rng.uniform(0.3, 1.0), self.height + 0.3 * radius)

    def put(self, parts: Parts, *, spread: float = 1.0, whole: bool = True) -> bool:
        """Put the object down where there is room, turned at random; return whether there was room.

        Args:
            parts: the object, about the origin.
            spread: share of the surface over which it may stand.
            whole: number it as one object; otherwise its parts keep their numbers, counted on from the last.
        """
        radius = max(float(np.hypot(*(np.abs(p.center) + np.abs(p.axes.T) @ p.half)[:2])) for p in parts)
        for _ in range(12):
            spot = self.rng.uniform(-1, 1, 2) * self.halves * spread
            # Footprints are not discs: letting the discs overlap by a third leaves few objects that touch.
            if all(np.hypot(*(spot - other)) > 0.68 * (radius + taken) for other, taken in self._taken):
                break
        else:
            return False
        self._taken.append((spot, radius))
        placed = move(parts, turn(2, self.rng.uniform(0, 2 * np.pi)), (*spot, self.height))
        first = self._objects + 1
        placed = [replace(part, number=first if whole else first + part.number) for part in placed]
        self._objects = max(part.number for part in placed)
        dark = float(self.rng.uniform(0.1, 0.9)) if self.rng.random() < 0.06 else 0.0
        self.parts.extend(replace(part, dark=dark) for part in placed)
        return True


def furnish(rng: Generator, layout: Layout, bounds: tuple[float, float], kinds: Sequence[objects.Clutter]) -> None:
    """Put boxes and clutter on the layout: mostly both, sometimes only the one or the other."""
    theme = rng.random()
    boxes = 0 if theme < 0.06 else int(rng.integers(1, 6))
    others = 0 if theme > 0.78 else int(rng.integers(1, 8))
    spread = float(rng.uniform(0.35, 1.0))
    order = rng.permutation([True] * boxes + [False] * others)
    for wanted in order:
        if wanted:
            # Small boxes stand among large ones as often as not.
            least, most = bounds if rng.random() < 0.8 else (bounds[0] * 0.5, bounds[0])
            parts = arrangements.arrange(rng, max(least, 0.04), most)
            if rng.random() < 0.08:
                top = max(float(p.center[2] + np.abs(p.axes[:, 2]) @ p.half) for p in parts)
                count = max(p.number for p in parts) + 1
                parts = parts + arrangements.numbered(
                    count, move(objects.clutter(rng, objects.SMALL, 0.12), np.eye(3), (0, 0, top))
                )
            layout.put(parts, spread=spread, whole=False)
        else:
            layout.put(objects.clutter(rng, kinds, float(np.sqrt(bounds[0] * bounds[1]))), spread=spread)


def room(rng: Generator, near: float, *, walls: bool = True) -> Parts:
    """Return a floor at z = 0 and up to three walls at least `near` from the origin, some with a skirting."""
    parts = [cuboid((12, 12, 0.1), (0, 0, -0.1))]
    if walls:
        for quarter in rng.permutation(4)[: int(rng.integers(0, 4))]:
            away = near + float(rng.exponential(0.8))
            wall = [cuboid((0.1, 12, 3), (away + 0.05, 0, 0))]
            if rng.random() < 0.3:
                wall.append(cuboid((0.015, 12, 0.08), (away - 0.007, 0, 0)))
            parts += move(wall, turn(2, quarter * np.pi / 2 + rng.normal(0, 0.05)), (0, 0, 0))
    return parts


def tabletop(rng: Generator) -> Scene:
    """Boxes of 6 to 45 cm on a table, a desk or a counter."""
    halves = rng.uniform((0.3, 0.3), (1.2, 0.8))
    height, board = float(rng.uniform(0.4, 1.1)), float(rng.uniform(0.015, 0.06))
    parts = move(room(rng, float(halves.max())), turn(2, rng.uniform(0, 6.3)), rng.uniform(-0.2, 0.2, 3) * (1, 1, 0))
    if rng.random() < 0.25:
        parts.append(cuboid((*2 * halves, height)))  # a counter: solid down to the floor
    else:
        parts.append(cuboid((*2 * halves, board), (0, 0, height - board)))
        spots = [(sx * (halves[0] - 0.06), sy * (halves[1] - 0.06), 0) for sx in (-1, 1) for sy in (-1, 1)]
        parts += [cuboid((0.05, 0.05, height - board), spot) for spot in spots]
    layout = Layout(rng, halves * 0.85, height)
    furnish(rng, layout, (0.1, 0.45) if rng.random() < 0.75 else (0.05, 0.2), objects.SMALL)
    around = Layout(rng, halves + 1.0, 0.0)
    for _ in range(int(rng.integers(0, 4))):
        around.put(objects.clutter(rng, objects.LARGE, 0.5))
    outside = [part for part in around.parts if np.any(np.abs(part.center[:2]) > halves + 0.25)]
    focus = layout.focus()
    return Scene((*parts, *layout.parts, *outside), focus, float(halves.max()), (0.45, 1.9), (15, 85))


def floor(rng: Generator) -> Scene:
    """Boxes of 12 to 80 cm on the floor of a room with furniture."""
    halves = rng.uniform(0.5, 2.0, 2)
    parts = room(rng, float(halves.max()) * 0.8)
    layout = Layout(rng, halves, 0.0)
    furnish(rng, layout, (0.18, 0.8), objects.LARGE + objects.SMALL[:6])
    focus = layout.focus()
    return Scene((*parts, *layout.parts), focus, float(halves.max()), (1.0, 4.0), (10, 80))


def belt(rng: Generator) -> Scene:
    """Boxes on a conveyor belt with rails, seen from above."""
    halves = np.array((rng.uniform(0.8, 2.0), rng.uniform(0.2, 0.6)))
    height = float(rng.uniform(0.3, 1.0))
    parts = room(rng, 1.5)
    if rng.random() < 0.4:  # rollers
        pitch = float(rng.uniform(0.06, 0.12))
        roller = move([cylinder(0.025, 2 * halves[1], (0, 0, -halves[1]))], turn(0, np.pi / 2), (0, 0, height - 0.025))
        for x in np.arange(-halves[0], halves[0], pitch):
            parts += move(roller, np.eye(3), (x, 0, 0))
    else:
        parts.append(cuboid((*2 * halves, 0.08), (0, 0, height - 0.08)))
    rail = float(rng.uniform(-0.02, 0.12))
    for side in (-1, 1):
        parts.append(cuboid((2 * halves[0], 0.04, 0.15), (0, side * (halves[1] + 0.02), height - 0.15 + rail)))
    layout = Layout(rng, halves * (0.8, 0.6), height)
    furnish(rng, layout, (0.12, 0.6), objects.SMALL[:7])
    return Scene((*parts, *layout.parts), layout.focus(), float(halves[1]) * 1.5, (0.7, 2.5), (45, 90))


def pallet(rng: Generator) -> Scene:
    """Layers of boxes on a pallet, on a warehouse's floor."""
    wide, deep = rng.choice(((1.2, 0.8), (1.2, 1.0), (0.8, 0.6)))
    parts = room(rng, 1.2)
    for y in np.linspace(-deep / 2 + 0.05, deep / 2 - 0.05, 3):
        parts.append(cuboid((wide, 0.1, 0.1), (0, y, 0)))
    for x in np.linspace(-wide / 2 + 0.05, wide / 2 - 0.05, int(rng.integers(5, 8))):
        parts.append(cuboid((0.1, deep, 0.022), (x, 0, 0.1)))
    top = 0.122
    size = np.array((wide, deep, 0)) / (*rng.integers(1, 5, 2), 1) + (0, 0, rng.uniform(0.1, 0.5))
    counts = np.maximum(1, np.round(np.array((wide, deep, rng.uniform(0.2, 1.4))) / size)).astype(int)
    layers = float(rng.uniform(0.0, 0.6))
    load: Parts = []
    if rng.random() < 0.45:  # boxes of all sizes, packed as they come
        tall = float(rng.uniform(0.15, 0.6))
        mixed = arrangements.heap(
            rng, tall * 0.4, tall, area=np.array((wide, deep)) / 2, count=int(rng.integers(3, 16))
        )
        load = [replace(part, number=part.number + 1) for part in move(mixed, np.eye(3), (0, 0, top))]
    for index in np.ndindex(*counts) if not load else ():
        if index[2] == counts[2] - 1 and rng.random() < layers:
            continue
        at = (np.array(index) - (counts - 1) / 2 * (1, 1, 0)) * size + (*rng.normal(0, 0.006, 2), top)
        body = objects.closed_box(rng, size * (rng.uniform(0.95, 0.995), rng.uniform(0.95, 0.995), 1))
        load += arrangements.numbered(len(load) + 1, move(body, turn(2, rng.normal(0, 0.01)), at))
    around = Layout(rng, np.array((2.0, 2.0)), 0.0)
    for _ in range(int(rng.integers(0, 4))):
        around.put(objects.clutter(rng, objects.LARGE, 0.6))
    outside = [part for part in around.parts if np.any(np.abs(part.center[:2]) > np.array((wide, deep)) / 2 + 0.3)]
    reach = max((float(part.center[2] + np.abs(part.axes[:, 2]) @ part.half) for part in load), default=top)
    return Scene((*parts, *load, *outside), np.array((0, 0, reach / 2)), 1.0, (1.4, 3.5), (10, 70))


def shelf(rng: Generator) -> Scene:
    """Boxes and clutter on the boards of a shelf, seen from the front."""
    wide, deep = rng.uniform(0.7, 1.8), rng.uniform(0.3, 0.6)
    boards = np.cumsum(np.append(rng.uniform(0.1, 0.4), rng.uniform(0.3, 0.6, int(rng.integers(1, 4)))))
    parts = room(rng, 0.0, walls=False)
    if rng.random() < 0.7:
        parts.append(cuboid((12, 0.1, 3), (0, deep / 2 + 0.08, 0)))
    tall = float(boards[-1]) + 0.4
    parts += [cuboid((wide, deep, 0.02), (0, 0, z - 0.02)) for z in boards]
    parts += [cuboid((0.03, deep, tall), (side * (wide / 2 + 0.015), 0, 0)) for side in (-1, 1)]
    placed: Parts = []
    for z in boards:
        layout = Layout(rng, np.array((wide / 2 - 0.1, 0.05)), float(z))
        for _ in range(int(rng.integers(1, 5))):
            if rng.random() < 0.65:
                layout.put(objects.box(rng, np.minimum(objects.box_size(rng, 0.1, 0.4), (0.4, deep, 0.3))))
            else:
                layout.put(objects.clutter(rng, objects.SMALL[:7], 0.15))
        count = max((p.number for p in placed), default=0)
        placed += [replace(part, number=part.number + count) for part in layout.parts]
    focus = np.array((0, 0, float(boards.mean()) + 0.1))
    return Scene((*parts, *placed), focus, wide / 2, (0.9, 2.5), (-5, 35))


def nothing(rng: Generator) -> Scene:
    """Boxes and clutter with nothing under them, as when somebody removed the table."""
    layout = Layout(rng, rng.uniform(0.15, 0.5, 2), 0.0)
    furnish(rng, layout, (0.1, 0.5), objects.SMALL)
    if not layout.parts:
        layout.put(arrangements.lone(rng, 0.1, 0.5))
    return Scene(tuple(layout.parts), np.zeros(3), 0.4, (0.5, 2.0), (0, 85))


Place = Callable[[Generator], Scene]
PLACES: tuple[Place, ...] = (tabletop, floor, belt, pallet, shelf, nothing)
SHARES = (0.50, 0.19, 0.11, 0.08, 0.08, 0.04)


def scene(seed: Sequence[int], place: Place | None = None) -> Scene:
    """Return the scene of the seed: always the same one for the same numbers."""
    rng = np.random.default_rng(list(seed))
    pick = PLACES[int(rng.choice(len(PLACES), p=SHARES))]
    return (place or pick)(rng)


def boxes_of(made: Scene) -> int:
    """Return how many boxes stand in the scene."""
    return len({part.number for part in made.parts if part.label != BACKGROUND})
