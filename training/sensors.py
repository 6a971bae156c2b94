"""Sensors that look at scenes: how their beams go, and what their electronics do to the distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import interpolate

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
    clean = {"step": 0.0, "jitter": 0.0, "flying": 0.0, "loss": 0.0, "smooth": 0.0}
    drawn = float(np.exp(rng.normal(0, 0.35)))
    if family == "structured":
        # Kinect: 1.5 mm at 0.8 m growing with the square, rounded to 1/8 pixel of disparity at 580 px * 7.5 cm.
        return Sensor(
            family, shape, columns * float(rng.uniform(0.78, 0.95)), 0.075 * float(rng.choice((-1, 1))),
            0.0018 * drawn, 2.0, float(rng.uniform(0.5, 0.95)), 0.125 if rng.random() < 0.8 else 0.0,
            float(rng.uniform(0.3, 1.2)), float(rng.choice((0.0, rng.uniform(0, 0.4)))), float(rng.uniform(0.1, 0.9)),
            float(rng.uniform(0.08, 0.3)), (0.35, far),
        )  # fmt: skip
    if family == "stereo":
        return Sensor(
            family, shape, columns * float(rng.uniform(0.6, 1.0)), 0.05 * float(rng.choice((-1, 1))),
            0.003 * drawn, 2.0, float(rng.uniform(0.7, 0.97)), 0.0, float(rng.uniform(0.8, 2.5)),
            float(rng.uniform(0, 0.5)), float(rng.uniform(0, 0.6)), float(rng.uniform(0.05, 0.2)), (0.2, far),
        )  # fmt: skip
    if family == "flight":
        return Sensor(
            family, shape, columns * float(rng.uniform(0.65, 1.0)), 0.0, 0.0022 * drawn, 1.0,
            float(rng.uniform(0, 0.5)), 0.0, float(rng.uniform(0, 0.7)), float(rng.uniform(0.2, 0.9)),
            float(rng.uniform(0, 0.4)), float(rng.uniform(0.05, 0.2)), (0.3, far),
        )  # fmt: skip
    noise = 0.0 if rng.random() < 0.3 else 0.0012 * drawn
    return Sensor(
        family, shape, columns / float(rng.uniform(1.0, 2.2)), 0.0, noise, 0.3, glance=0.03, span=(0.1, 30.0),
        **{**clean, "flying": float(rng.uniform(0, 0.5))},
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


def ragged(sensors: Sequence[Sensor], depth: Tensor, carried: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return depth and what it carries as read a fraction of a pixel aside, so that edges are ragged.

    Args:
        depth: (V, rows, columns). carried: (V, rows, columns), taken along.
    """
    views, rows, columns = depth.shape
    coarse = torch.randn((views, 2, rows // 3, columns // 3), device=depth.device, generator=random)
    shift = interpolate(coarse, (rows, columns), mode="bilinear") + 0.4 * torch.randn(
        (views, 2, rows, columns), device=depth.device, generator=random
    )
    shift = shift * column(sensors, "jitter", depth)[..., None]
    y = torch.arange(rows, device=depth.device)[None, :, None] + shift[:, 0].round()
    x = torch.arange(columns, device=depth.device)[None, None] + shift[:, 1].round()
    index = y.clamp(0, rows - 1).long() * columns + x.clamp(0, columns - 1).long()
    index = index.flatten(1)
    return depth.flatten(1).gather(1, index).view_as(depth), carried.flatten(1).gather(1, index).view_as(carried)


def electronics(sensors: Sequence[Sensor], depth: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the depths as the sensor reports them, and where it reports one.

    Args:
        depth: (V, rows, columns) metres, infinite where a beam met nothing.

    Returns:
        depth: (V, rows, columns) with noise, rounding and flying pixels.
        kept: (V, rows, columns) bool.
    """
    views, rows, columns = depth.shape

    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=depth.device, generator=random)

    def chance(name: str) -> Tensor:
        return torch.rand(depth.shape, device=depth.device, generator=random) < column(sensors, name, depth)

    smooth = column(sensors, "smooth", depth)
    shared = interpolate(draw(views, 1, rows // 5, columns // 5), (rows, columns), mode="bicubic")[:, 0]
    noise = (smooth.sqrt() * shared + (1 - smooth).sqrt() * draw(views, rows, columns)) * column(
        sensors, "noise_m", depth
    )
    met = depth.isfinite()
    depth = torch.where(met, depth, 0.0)
    noisy = depth + noise * depth.clamp(min=1e-3) ** column(sensors, "growth", depth)

    # Edges: where the nearest and the farthest of the eight neighbours differ by more than a slope can.
    filled = torch.where(met, depth, 1e3)[:, None]
    far = torch.nn.functional.max_pool2d(filled, 3, 1, 1)[:, 0]
    near = -torch.nn.functional.max_pool2d(-filled, 3, 1, 1)[:, 0]
    edge = (far - near) > 0.03 + 0.04 * depth
    blend = torch.rand(depth.shape, device=depth.device, generator=random)
    between = near + (far - near) * blend
    noisy = torch.where(edge & chance("flying") & (far < 30), between, noisy)

    # Disparity d = f b / z, rounded to its step; the product is the Kinect's, 580 px times 7.5 cm.
    step = column(sensors, "step", depth)
    disparity = 43.5 / noisy.clamp(min=0.05)
    rounded = 43.5 / ((disparity / step.clamp(min=1e-6)).round() * step).clamp(min=1e-3)
    noisy = torch.where(step > 0, rounded, noisy)
    low, high = (depth.new_tensor([one.span[i] for one in sensors])[:, None, None] for i in (0, 1))
    return noisy, met & (noisy > low) & (noisy < high) & ~(edge & chance("loss"))


def patches(views: int, shape: tuple[int, int], device: torch.device, random: torch.Generator) -> Tensor:
    """Return (V, rows, columns) in 0..1 that changes slowly over the image: dark surfaces are lost in patches."""
    rows, columns = shape
    coarse = torch.rand((views, 1, max(2, rows // 24), max(2, columns // 24)), device=device, generator=random)
    return interpolate(coarse, shape, mode="bilinear")[:, 0]


def warp(points: Tensor, normal: Tensor, bulge: Tensor, direction: Tensor) -> Tensor:
    """Return by how much t shrinks where a surface stands out by `bulge` (B, N) metres along its normal (B, N, 3)."""
    facing = -(normal * direction.transpose(1, 2)).sum(2)
    return bulge / facing.clamp(min=0.25) * (facing > 0.05)


__all__ = [
    "FAMILIES", "SHAPES", "SHARES", "Family", "Sensor", "beams", "electronics", "patches", "pose", "ragged",
    "sensor", "warp",
]  # fmt: skip
