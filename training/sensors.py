"""Sensors that look at scenes: how their beams go, and what their electronics do to the distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from training.objects import turn
from training.scenes import Scene
from training.solids import CUBOID

Family = Literal["structured", "stereo", "flight", "scanner"]


@dataclass(frozen=True)
class Sensor:
    """What one view's sensor is like.

    Attributes:
        family: structured light (Kinect of 2010), active stereo, time of flight, or a scanner with a turning mirror.
        shape: (rows, columns) of its image.
        focal: pixels; of a scanner: pixels a radian.
        baseline_m: distance from its projector to its camera; 0 casts no shadows.
        noise_m: standard deviation of a distance at 1 m.
        growth: power of the distance with which the noise grows.
        smooth: share of the noise that neighbouring pixels have in common.
        bend: standard deviation of the error that changes slowly over the image, as a share of the distance.
        step: disparity step in pixels to which it rounds; 0 does not round.
        jitter: pixels by which edges are ragged.
        flying: chance that a pixel on an edge lies between front and back.
        loss: chance that a pixel on an edge is lost.
        glance: cosine between beam and surface under which nothing comes back.
        span: (near, far) metres it can see.
    """

    family: Family
    shape: tuple[int, int]
    focal: float
    baseline_m: float
    noise_m: float
    growth: float
    smooth: float
    bend: float
    step: float
    jitter: float
    flying: float
    loss: float
    glance: float
    span: tuple[float, float]


SHAPES: dict[Family, tuple[tuple[int, int], ...]] = {
    "structured": ((480, 640), (480, 640), (240, 320)),
    "stereo": ((360, 640), (240, 424), (480, 640)),
    "flight": ((424, 512), (240, 320), (288, 352)),
    "scanner": ((320, 640), (480, 640)),
}
FAMILIES: tuple[Family, ...] = ("structured", "stereo", "flight", "scanner")
SHARES = (0.5, 0.18, 0.17, 0.15)


def sensor(rng: Generator, family: Family, shape: tuple[int, int], distance: float) -> Sensor:
    """Return a sensor of the family with an image of the shape, its figures drawn within what such sensors do."""
    columns = shape[1]
    far = distance * float(rng.uniform(1.15, 2.5)) if rng.random() < 0.5 else 8.0
    drawn = float(np.exp(rng.normal(0, 0.35)))
    bent = float(np.exp(rng.normal(0, 0.5)))
    side = float(rng.choice((-1, 1)))
    if family == "structured":
        # Kinect: 1.2 mm at 0.8 m growing with the square, rounded to 1/8 pixel of disparity at 580 px * 7.5 cm; flat
        # walls come out bent by some 0.2 % of the distance (Teichman, Miller and Thrun, RSS 2013).
        return Sensor(
            family, shape,
            focal=columns * float(rng.uniform(0.78, 0.95)), baseline_m=0.075 * side,
            noise_m=0.0018 * drawn, growth=2.0, smooth=float(rng.uniform(0.5, 0.95)),
            bend=0.002 * bent, step=0.125 if rng.random() < 0.8 else 0.0,
            jitter=float(rng.uniform(0.3, 1.2)), flying=float(rng.choice((0.0, rng.uniform(0, 0.4)))),
            loss=float(rng.uniform(0.1, 0.9)), glance=float(rng.uniform(0.08, 0.3)), span=(0.35, far),
        )  # fmt: skip
    if family == "stereo":
        return Sensor(
            family, shape,
            focal=columns * float(rng.uniform(0.6, 1.0)), baseline_m=0.05 * side,
            noise_m=0.003 * drawn, growth=2.0, smooth=float(rng.uniform(0.7, 0.97)), bend=0.003 * bent, step=0.0,
            jitter=float(rng.uniform(0.8, 2.5)), flying=float(rng.uniform(0, 0.5)), loss=float(rng.uniform(0, 0.6)),
            glance=float(rng.uniform(0.05, 0.2)), span=(0.2, far),
        )  # fmt: skip
    if family == "flight":
        return Sensor(
            family, shape,
            focal=columns * float(rng.uniform(0.65, 1.0)), baseline_m=0.0,
            noise_m=0.0022 * drawn, growth=1.0, smooth=float(rng.uniform(0, 0.5)), bend=0.002 * bent, step=0.0,
            jitter=float(rng.uniform(0, 0.7)), flying=float(rng.uniform(0.2, 0.9)), loss=float(rng.uniform(0, 0.4)),
            glance=float(rng.uniform(0.05, 0.2)), span=(0.3, far),
        )  # fmt: skip
    return Sensor(
        family, shape,
        focal=columns / float(rng.uniform(1.0, 2.2)), baseline_m=0.0,
        noise_m=0.0 if rng.random() < 0.3 else 0.0012 * drawn, growth=0.3, smooth=0.0, bend=0.0, step=0.0,
        jitter=0.0, flying=float(rng.uniform(0, 0.5)), loss=0.0, glance=0.03, span=(0.1, 30.0),
    )  # fmt: skip


def pose(rng: Generator, scene: Scene, high: bool = False) -> tuple[np.ndarray, np.ndarray, float]:
    """Return where a sensor stands that looks at the scene.

    Returns:
        eye: (3,) metres. axes: (3, 3), rows right, down, forward. distance: from the eye to the focus.
    """
    for _ in range(20):
        eye, target, distance = _stand(rng, scene, high)
        if not blocked(scene, eye, target):
            break
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right = right / np.linalg.norm(right) if np.linalg.norm(right) > 1e-3 else np.array((1.0, 0.0, 0.0))
    axes = np.stack((right, np.cross(forward, right), forward))
    roll = rng.normal(0, 0.12) if rng.random() < 0.8 else rng.uniform(0, 2 * np.pi)
    return eye, turn(2, roll) @ axes, distance


def _stand(rng: Generator, scene: Scene, high: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Return eye (3,), target (3,) and the distance between them, within what the scene allows."""
    low, most = scene.elevation
    elevation = np.radians(rng.uniform(low, most))
    azimuth = rng.uniform(0, 2 * np.pi)
    near, far = scene.distance
    distance = float(np.exp(rng.uniform(np.log(near), np.log(far)))) * (1.8 if high else 1.0)
    away = np.array((np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)))
    target = scene.focus + rng.normal(0, 0.12, 3) * scene.reach * (1, 1, 0.3)
    eye = target + distance * away
    eye[2] = max(eye[2], 0.1)
    return eye, target, distance


def blocked(scene: Scene, eye: np.ndarray, target: np.ndarray) -> bool:
    """Return whether a wall or another large cuboid stands between the eye (3,) and the target (3,), or around it."""
    for part in scene.parts:
        if part.kind != CUBOID or part.half.max() < 0.5:
            continue
        start, along = part.axes @ (eye - part.center), part.axes @ (target - eye)
        along = np.where(np.abs(along) < 1e-9, 1e-9, along)
        one, other = (-part.half - start) / along, (part.half - start) / along
        if max(np.minimum(one, other).max(), 0.0) < min(np.maximum(one, other).min(), 0.9):
            return True
    return False


def beams(sensors: Sequence[Sensor], device: torch.device) -> Tensor:
    """Return the sensors' beams in their own frames.

    Returns:
        (V, 3, rows * columns) float32. A camera's beams have z = 1, so that t along them is its depth; a scanner's
        are unit vectors, so that t is its range.
    """
    rows, columns = sensors[0].shape
    y = torch.arange(rows, device=device, dtype=torch.float32) - (rows - 1) / 2
    x = torch.arange(columns, device=device, dtype=torch.float32) - (columns - 1) / 2
    y, x = (plane.flatten() for plane in torch.meshgrid(y, x, indexing="ij"))
    views = []
    for one in sensors:
        u, v = x / one.focal, y / one.focal
        if one.family == "scanner":
            views.append(torch.stack((u.sin() * v.cos(), v.sin(), u.cos() * v.cos())))
        else:
            views.append(torch.stack((u, v, torch.ones_like(u))))
    return torch.stack(views)


def column(sensors: Sequence[Sensor], name: str, like: Tensor) -> Tensor:
    """Return one figure of each view's sensor as (V, 1, 1)."""
    return like.new_tensor([float(getattr(one, name)) for one in sensors])[:, None, None]
