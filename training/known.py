"""Scans of boxes whose sizes are known, for measuring: closed boxes of 5 to 80 cm, a depth camera at 0.6 to 2.5 m."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from training import arrangements, clouds, objects, sensors
from training.boxes import Box
from training.objects import Parts, cuboid
from training.scenes import Layout, Scene, room
from training.solids import BOX

CAMERAS: tuple[sensors.Family, ...] = ("structured", "stereo", "flight")
SHARES = (0.5, 0.25, 0.25)
NEAREST_M, FARTHEST_M = 0.6, 2.5
SMALLEST_M, LARGEST_M = 0.05, 0.8
LEAST_POINTS = 150
_LEAST_ON_FACE, _SHARE_ON_FACE = 25, 0.04


@dataclass(frozen=True)
class Known:
    """A scan with what is true of it.

    Attributes:
        coord: (n, 3) float64 metres, in the camera's frame: x right, y down, z forward.
        number: (n,) int64, the box each point lies on; 0: none.
        boxes: those of at least LEAST_POINTS points, in the camera's frame too.
        faces: how many faces of each of them were seen.
        family: kind of the camera.
        distance_m: from the camera to what it looks at.
    """

    coord: NDArray[np.float64]
    number: NDArray[np.int64]
    boxes: tuple[Box, ...]
    faces: tuple[int, ...]
    family: sensors.Family
    distance_m: float


def scan(seed: int) -> Known:
    """Return the scan of the seed: always the same one for the same number."""
    rng = np.random.default_rng((seed, 5))
    family = CAMERAS[int(rng.choice(len(CAMERAS), p=SHARES))]
    shapes = sensors.SHAPES[family]
    shape = shapes[int(rng.integers(len(shapes)))]
    cloud = clouds.generate((seed, 6), 1, torch.device("cpu"), place=counter, family=family, shape=shape, fuse=1)[0]
    coord = clouds.in_camera(cloud).double().numpy()
    eye, axes = cloud.eye.double().numpy(), cloud.axes.double().numpy()
    number = np.where(cloud.label.numpy() == 1, cloud.number.numpy(), 0)
    boxes, faces = [], []
    for box in cloud.boxes:
        own = coord[number == box.number]
        if len(own) < LEAST_POINTS or not SMALLEST_M <= 2 * box.half.max() <= LARGEST_M:
            continue
        boxes.append(Box(box.number, axes @ (box.center - eye), box.axes @ axes.T, box.half))
        faces.append(_faces(boxes[-1], own))
    distance = float(np.linalg.norm(cloud.focus.numpy() - cloud.eye.numpy()))
    return Known(coord, number, tuple(boxes), tuple(faces), family, distance)


def counter(rng: Generator) -> Scene:
    """Return boxes, alone, piled, heaped or leaning, on a table, a floor or a belt, now and then with clutter."""
    distance = float(rng.uniform(NEAREST_M, FARTHEST_M))
    longest = float(np.exp(rng.uniform(np.log(1.5 * SMALLEST_M), np.log(min(LARGEST_M, 0.5 * distance)))))
    height = 0.0 if rng.random() < 0.35 else float(rng.uniform(0.4, 1.0))
    halves = rng.uniform(0.5, 1.0, 2) if height else np.array([1.5, 1.5])
    parts = room(rng, 1.5, walls=bool(rng.random() < 0.5))
    if height:
        parts.append(cuboid((*2 * halves, 0.04), (0, 0, height - 0.04)))
    layout = Layout(rng, np.minimum(0.8 * halves, 0.3 * distance), height)
    for _ in range(int(rng.integers(1, 4))):
        arrange = _ARRANGEMENTS[int(rng.choice(len(_ARRANGEMENTS), p=_ARRANGEMENT_SHARES))]
        layout.put(_closed(arrange, rng, max(SMALLEST_M, 0.5 * longest), longest), whole=False)
    if rng.random() < 0.3:
        layout.put(objects.clutter(rng, objects.SMALL[:7], longest))
    boxes = [part for part in layout.parts if part.label == BOX]
    focus = boxes[int(rng.integers(len(boxes)))].center
    return Scene((*parts, *layout.parts), focus, 0.1, (distance, distance), (20, 85))


def _lone(rng: Generator, least: float, most: float) -> Parts:
    return objects.closed_box(rng, objects.box_size(rng, least, most))


_ARRANGEMENTS: tuple[Callable[[Generator, float, float], Parts], ...] = (
    _lone,
    arrangements.pile,
    arrangements.heap,
    arrangements.leaning,
)
_ARRANGEMENT_SHARES = (0.6, 0.13, 0.15, 0.12)


def _closed(arrange: Callable[[Generator, float, float], Parts], rng: Generator, least: float, most: float) -> Parts:
    """Return an arrangement of closed boxes: drawn again where one is open, which is made of several parts."""
    while True:
        parts = arrange(rng, least, most)
        if len({part.number for part in parts}) == len(parts):
            return parts


def _faces(box: Box, coord: NDArray[np.float64]) -> int:
    """Return how many faces of the box have points (n, 3)."""
    own = (coord - box.center) @ box.axes.T / box.half
    side = np.abs(own).argmax(axis=1)
    face = 2 * side + (own[np.arange(len(own)), side] > 0)
    count = np.bincount(face, minlength=6)
    return int(((count >= _LEAST_ON_FACE) & (count >= _SHARE_ON_FACE * len(coord))).sum())
