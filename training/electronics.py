"""What a sensor's electronics do to the distances: noise, rounding, ragged edges, flying pixels, losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from training.sensors import Sensor, column


def ragged(used: Sequence[Sensor], depth: Tensor, carried: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return depth and what it carries as read a fraction of a pixel aside, so that edges are ragged.

    Args:
        depth: (V, rows, columns). carried: (V, rows, columns), taken along.
    """
    views, rows, columns = depth.shape
    coarse = torch.randn((views, 2, rows // 3, columns // 3), device=depth.device, generator=random)
    shift = interpolate(coarse, (rows, columns), mode="bilinear") + 0.4 * torch.randn(
        (views, 2, rows, columns), device=depth.device, generator=random
    )
    shift = shift * column(used, "jitter", depth)[..., None]
    y = torch.arange(rows, device=depth.device)[None, :, None] + shift[:, 0].round()
    x = torch.arange(columns, device=depth.device)[None, None] + shift[:, 1].round()
    index = y.clamp(0, rows - 1).long() * columns + x.clamp(0, columns - 1).long()
    index = index.flatten(1)
    return depth.flatten(1).gather(1, index).view_as(depth), carried.flatten(1).gather(1, index).view_as(carried)


def report(used: Sequence[Sensor], depth: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
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
        return torch.rand(depth.shape, device=depth.device, generator=random) < column(used, name, depth)

    smooth = column(used, "smooth", depth)
    shared = interpolate(draw(views, 1, rows // 5, columns // 5), depth.shape[1:], mode="bicubic")[:, 0]
    noise = smooth.sqrt() * shared + (1 - smooth).sqrt() * draw(views, rows, columns)
    noise = noise * column(used, "noise_m", depth)
    slow = interpolate(draw(views, 1, 5, 6), depth.shape[1:], mode="bicubic", align_corners=True)[:, 0]
    slow = slow * column(used, "bend", depth)
    met = depth.isfinite()
    depth = torch.where(met, depth, 0.0)
    noisy = depth * (1 + slow) + noise * depth.clamp(min=1e-3) ** column(used, "growth", depth)

    # Edges: where the nearest and the farthest of the eight neighbours differ by more than a slope can.
    filled = torch.where(met, depth, 1e3)[:, None]
    far = torch.nn.functional.max_pool2d(filled, 3, 1, 1)[:, 0]
    near = -torch.nn.functional.max_pool2d(-filled, 3, 1, 1)[:, 0]
    edge = (far - near) > 0.03 + 0.04 * depth
    blend = torch.rand(depth.shape, device=depth.device, generator=random)
    between = near + (far - near) * blend
    noisy = torch.where(edge & chance("flying") & (far < 30), between, noisy)

    # Disparity d = f b / z, rounded to its step; the product is the Kinect's, 580 px times 7.5 cm.
    step = column(used, "step", depth)
    disparity = 43.5 / noisy.clamp(min=0.05)
    rounded = 43.5 / ((disparity / step.clamp(min=1e-6)).round() * step).clamp(min=1e-3)
    noisy = torch.where(step > 0, rounded, noisy)
    low, high = (depth.new_tensor([one.span[i] for one in used])[:, None, None] for i in (0, 1))
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
