"""A depth camera without faults but noise, over solids whose sizes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from service.measure import Frame, measure
from service.values import ClassInfo, Instance, Measurement, Segmentation
from training import objects, solids
from training.solids import BOX, Part

CLASSES = (ClassInfo(0, "background", (128, 128, 128)), ClassInfo(1, "box", (230, 126, 34)))
TABLE = objects.cuboid((1.6, 1.6, 0.03), (0, 0, -0.03))
FLOOR = objects.cuboid((12, 12, 0.1), (0, 0, -0.1))


@dataclass(frozen=True)
class Seen:
    """What the camera saw: (n, 3) metres in its own frame, x right, y down, z forward; and of which object, 0: none."""

    coord: NDArray[np.float64]
    number: NDArray[np.int64]

    def measure(self, frame: Frame | None = None, scale: float = 1.0) -> Measurement:
        """Return the measurement of the objects as they truly are; `scale` is of the coordinates given to it."""
        return measure(self.coord * scale, segmentation(self.number), frame or Frame())

    def only(self, mask: NDArray[np.bool_]) -> Seen:
        """Return the points of a mask (n,)."""
        return Seen(self.coord[mask], self.number[mask])


def segmentation(number: NDArray[np.int64]) -> Segmentation:
    """Return what a perfect model says of points of these objects (n,), 0: none."""
    own = (number - 1).astype(np.int32)
    instances = tuple(Instance(i, 1, 1.0, int((own == i).sum())) for i in range(int(own.max(initial=-1)) + 1))
    return Segmentation((own >= 0).astype(np.int32), CLASSES, "true", instance=own, instances=instances)


def box(
    number: int, size: Sequence[float], at: Sequence[float] = (0.0, 0.0, 0.0), degrees: float = 0.0, lean: float = 0.0
) -> Part:
    """Return a box of the size (x, y, z), its bottom's middle at the point, turned about z and leaning about its y."""
    made = objects.settle([objects.cuboid(size)], objects.turn(1, np.radians(lean)), (0, 0, 0))
    (part,) = objects.move(made, objects.turn(2, np.radians(degrees)), at)
    return replace(part, label=BOX, number=number)


def look(
    parts: Sequence[Part],
    eye: Sequence[float] = (0.9, -0.6, 0.9),
    target: Sequence[float] = (0.0, 0.0, 0.05),
    noise_m: float = 0.0005,
    shape: tuple[int, int] = (240, 320),
    focal: float = 280.0,
) -> Seen:
    """Return what a camera at `eye` sees of solids, in rows of its image."""
    rows, columns = shape
    start, end = np.asarray(eye, float), np.asarray(target, float)
    forward = (end - start) / np.linalg.norm(end - start)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    x, y = np.meshgrid((np.arange(columns) - columns / 2) / focal, (np.arange(rows) - rows / 2) / focal)
    beams = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    built = solids.stack([list(parts)], torch.device("cpu"))
    direction = torch.from_numpy((beams @ axes).T.astype(np.float32))[None]
    distance, met = solids.cast(built, torch.from_numpy(start.astype(np.float32))[None], direction)
    depth, part = distance[0].double().numpy(), met[0].numpy()
    hit = part >= 0
    depth[hit] += np.random.default_rng(0).normal(0, noise_m, int(hit.sum()))
    number = built.number[0].numpy()[part.clip(min=0)]
    return Seen(beams[hit] * depth[hit, None], number[hit].astype(np.int64))
