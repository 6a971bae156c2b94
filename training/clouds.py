"""Labelled clouds: generated scenes seen by simulated sensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from training import electronics, objects, sensors, solids
from training.boxes import Box, boxes_in
from training.scenes import Place, Scene, scene
from training.sensors import Family

VERSION = 3
"""Of the generator: another number, other clouds for the same seeds."""


@dataclass(frozen=True)
class Cloud:
    """One labelled cloud.

    Attributes:
        coord: (n, 3) float32 metres, z up, in the scene's frame.
        label: (n,) int64, 0 background, 1 box.
        number: (n,) int64, the object of the scene; 0 is what everything stands on.
        focus: (3,) middle of what matters. reach: metres about it.
        eye: (3,) where the (first) sensor stood. axes: (3, 3) its right, down and forward.
        boxes: where the scene's boxes are and how large, in the scene's frame; not all need have points.
    """

    coord: Tensor
    label: Tensor
    number: Tensor
    focus: Tensor
    reach: float
    eye: Tensor
    axes: Tensor
    boxes: tuple[Box, ...] = ()

    def __len__(self) -> int:
        return len(self.coord)

    def keep(self, mask: Tensor) -> Cloud:
        """Return the cloud with the points of the mask (n,) alone."""
        return replace(self, coord=self.coord[mask], label=self.label[mask], number=self.number[mask])


def generate(
    seed: Sequence[int],
    views: int,
    device: torch.device,
    *,
    place: Place | None = None,
    family: Family | None = None,
    shape: tuple[int, int] | None = None,
    fuse: int | None = None,
) -> list[Cloud]:
    """Return labelled clouds; the same seed gives the same clouds on the same kind of device.

    Args:
        seed: any whole numbers.
        views: images to take, all with one shape.
        device: where to cast the rays.
        place: kind of scene, else drawn for each scene.
        family: kind of sensor, else drawn.
        shape: (rows, columns) of the images, else one that sensors of the family have.
        fuse: how many views become one cloud, else drawn; `views` must be a multiple of it.

    Returns:
        views / fuse clouds.
    """
    rng = np.random.default_rng([*seed, 77])
    random = torch.Generator(device=device).manual_seed(int(rng.integers(2**62)))
    family = family or sensors.FAMILIES[int(rng.choice(len(sensors.FAMILIES), p=sensors.SHARES))]
    shape = shape or sensors.SHAPES[family][int(rng.integers(len(sensors.SHAPES[family])))]
    if fuse is None:
        fuse = (
            int(rng.choice((2, 4))) if views % 4 == 0 and rng.random() < (0.5 if family == "scanner" else 0.12) else 1
        )
    scenes = [scene((*seed, index), place) for index in range(views // fuse)]
    owner = np.repeat(np.arange(len(scenes)), fuse)
    poses = [sensors.pose(rng, scenes[i], high=family == "scanner") for i in owner]
    used = [sensors.sensor(rng, family, shape, distance) for _, _, distance in poses]
    built = solids.stack([made.parts for made in scenes], device).select(torch.from_numpy(owner).to(device))
    eye = torch.from_numpy(np.stack([p[0] for p in poses]).astype(np.float32)).to(device)
    axes = torch.from_numpy(np.stack([p[1] for p in poses]).astype(np.float32)).to(device)
    coord, part, kept = _look(built, used, eye, axes, random)
    if fuse > 1:
        coord = coord + 0.002 * torch.randn((views, 1, 3), device=device, generator=random)

    rows = torch.arange(views, device=device)[:, None]
    label, number = built.label[rows, part.clamp(min=0)], built.number[rows, part.clamp(min=0)]
    clouds = []
    for index, made in enumerate(scenes):
        own = slice(index * fuse, (index + 1) * fuse)
        mask = kept[own]
        focus = torch.from_numpy(made.focus.astype(np.float32)).to(device)
        clouds.append(
            Cloud(
                coord[own][mask], label[own][mask], number[own][mask], focus, made.reach,
                eye[index * fuse], axes[index * fuse], boxes_in(made.parts),
            )
        )  # fmt: skip
    return clouds


def _look(
    built: solids.Solids, used: Sequence[sensors.Sensor], eye: Tensor, axes: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what V sensors see of V scenes: coord (V, N, 3), part (V, N), kept (V, N)."""
    views, (rows, columns) = len(used), used[0].shape
    own = sensors.beams(used, eye.device)
    direction = torch.bmm(axes.transpose(1, 2), own)
    t, part = solids.cast(built, eye, direction)
    met = part >= 0
    point = eye[:, None] + torch.where(met, t, 1.0)[..., None] * direction.transpose(1, 2)
    normal, bulge = solids.normals(built, part, point)
    t = t - electronics.warp(point, normal, bulge, direction)
    point = eye[:, None] + torch.where(met, t, 1.0)[..., None] * direction.transpose(1, 2)

    facing = -(normal * torch.nn.functional.normalize(direction, dim=1).transpose(1, 2)).sum(2)
    seen = met & (facing > sensors.column(used, "glance", t)[..., 0])
    dark = built.dark.gather(1, part.clamp(min=0))
    seen &= ~(met & (electronics.patches(views, (rows, columns), eye.device, random).flatten(1) < dark))
    baselines = sensors.column(used, "baseline_m", t)[..., 0]
    if bool((baselines != 0).any()):
        lamp = eye + baselines * axes[:, 0]
        toward = (point - lamp[:, None]).transpose(1, 2).contiguous()
        reached, _ = solids.cast(built, lamp, toward)
        seen &= (reached > 1 - 0.006) | (baselines == 0)

    depth = torch.where(seen, t, torch.inf).view(views, rows, columns)
    depth, moved = electronics.ragged(used, depth, part.view(views, rows, columns), random)
    clean = depth
    depth, kept = electronics.report(used, depth, random)
    part = _nearest(clean, depth, moved).flatten(1)
    coord = eye[:, None] + depth.flatten(1)[..., None] * direction.transpose(1, 2)
    return coord, part, kept.flatten(1)


def _nearest(clean: Tensor, depth: Tensor, part: Tensor) -> Tensor:
    """Return for every pixel the part, among those of its neighbourhood, whose depth is nearest to the reported one.

    A flying pixel belongs to the surface that it lies closer to.

    Args:
        clean, depth: (V, rows, columns) before and after the electronics. part: (V, rows, columns).
    """
    best = (clean - depth).abs().nan_to_num(torch.inf)
    chosen = part
    flown = best > 0.02 + 0.02 * depth
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        other = (torch.roll(clean, (down, right), (1, 2)) - depth).abs()
        better = flown & (other < best)
        best = torch.where(better, other, best)
        chosen = torch.where(better, torch.roll(part, (down, right), (1, 2)), chosen)
    return chosen


def crop(cloud: Cloud, rng: np.random.Generator) -> Cloud:
    """Return what users make of a cloud before they send it: cut out, thinned, or with the support removed."""
    device = cloud.coord.device
    away = cloud.coord - cloud.focus
    if rng.random() < 0.45:
        half = cloud.reach * torch.from_numpy(rng.uniform(0.45, 1.4, 3)).to(away)
        heading = torch.from_numpy(objects.turn(2, rng.uniform(0, 6.3))).to(away)
        inside = ((away @ heading)[:, :2].abs() < half[:2]).all(1)
        if rng.random() < 0.6:
            inside &= (away[:, 2] > -float(rng.uniform(0.03, 0.3))) & (away[:, 2] < float(rng.uniform(0.6, 2.0)))
        cloud = _unless_empty(cloud, inside)
    if rng.random() < 0.04:
        cloud = _unless_empty(cloud, cloud.number > 0)
    if rng.random() < 0.35:
        share = float(rng.uniform(0.15, 0.9))
        random = torch.Generator(device=device).manual_seed(int(rng.integers(2**62)))
        cloud = _unless_empty(cloud, torch.rand(len(cloud), device=device, generator=random) < share)
    return cloud


def _unless_empty(cloud: Cloud, mask: Tensor) -> Cloud:
    """Return the points of the mask, or the cloud as it is where that would leave next to nothing."""
    return cloud.keep(mask) if int(mask.sum()) >= 500 else cloud


def frame(cloud: Cloud, rng: np.random.Generator) -> Tensor:
    """Return the coordinates (n, 3) in a frame that users have: the camera's, the scene's with z up, or any at all."""
    kind = rng.random()
    if kind < 0.35:
        return in_camera(cloud)
    if kind < 0.5:
        return cloud.coord
    matrix = torch.from_numpy(objects.tumble(rng).astype(np.float32)).to(cloud.coord)
    shift = torch.from_numpy(rng.normal(0, 1.0, 3).astype(np.float32)).to(cloud.coord)
    return (cloud.coord - cloud.focus) @ matrix.T + shift


def in_camera(cloud: Cloud) -> Tensor:
    """Return the coordinates (n, 3) in the first sensor's frame: x right, y down, z forward."""
    return (cloud.coord - cloud.eye) @ cloud.axes.T


__all__ = ["VERSION", "Cloud", "Scene", "crop", "frame", "generate", "in_camera"]
