"""Batches for training, made by processes of their own: scenes, sensors, crops, frames, the service's transforms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.models.batch import Batch, collate
from service.transforms import Prepared, Recipe, Tile, prepare
from service.values import PointCloud
from training import clouds
from training.clouds import Cloud
from training.solids import BOX

MAX_VOXELS = 70_000
"""Voxels of one training cloud: larger ones are tiled, as at serving, and one tile is trained on."""


@dataclass(frozen=True)
class Lesson:
    """A batch and what the network should say of it.

    Attributes:
        batch: its voxels.
        share: (M,) float32, the share of each voxel's points that lie on a box.
        weight: (M,) float32, how much the voxel counts.
        instance: (M,) int64, the box that most of the voxel's box points lie on, counted through the batch; -1: none.
        center: (M, 3) float32 metres, that box's centre in the frame of `batch.coord`; zeros where there is none.
        size: (M,) float32 metres, the geometric mean of half its edges; 1 where there is none.
    """

    batch: Batch
    share: Tensor
    weight: Tensor
    instance: Tensor
    center: Tensor
    size: Tensor

    def to(self, device: torch.device) -> Lesson:
        """Return the lesson on the device."""
        own = self.batch
        batch = Batch(own.coord.to(device), own.grid_coord.to(device), own.feat.to(device), own.offset.to(device))
        rest = {field.name: getattr(self, field.name).to(device) for field in fields(Lesson) if field.name != "batch"}
        return Lesson(batch, **rest)


def targets(made: Prepared, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return each voxel's share of box points (M,) and its number of points (M,), from the points' labels (n,)."""
    inverse = made.inverse.to(label.device)
    count = torch.bincount(inverse, minlength=made.voxels).float()
    boxes = torch.bincount(inverse, weights=label.double(), minlength=made.voxels).float()
    return boxes / count.clamp(min=1), count


def owners(made: Prepared, cloud: Cloud) -> Tensor:
    """Return for each voxel (M,) which of `cloud.boxes` most of its box points lie on; -1 where it has none."""
    inverse = made.inverse.to(cloud.label.device)
    numbers = torch.tensor([box.number for box in cloud.boxes], device=inverse.device)
    count = inverse.new_zeros(made.voxels, max(len(numbers), 1))
    rows = (cloud.label == BOX).nonzero().squeeze(1)
    if len(rows):
        index = torch.searchsorted(numbers, cloud.number[rows])
        count.index_put_((inverse[rows], index), inverse.new_ones(()), accumulate=True)
    most, owner = count.max(dim=1)
    return torch.where(most > 0, owner, -1)


def rigid(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotation (3, 3) and shift (3,), float64, so that before @ rotation.T + shift is nearest to after, (n, 3).

    Kabsch, Acta Crystallographica A32, 1976.
    """
    before, after = before.double(), after.double()
    one, other = before.mean(dim=0), after.mean(dim=0)
    u, _, v = torch.linalg.svd(((after - other).T @ (before - one)).cpu())
    flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ v))], dtype=torch.float64))
    rotation = (u @ flip @ v).to(before)
    return rotation, other - rotation @ one


def centers(tile: Tile, made: Prepared, cloud: Cloud, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centre (m, 3) and the size (m,) of each voxel's box, in the tile's frame; see `Lesson`.

    Args:
        tile: one of the tiles that `made` has.
        made: the cloud as the service's transforms made it, in whatever frame that may be.
        cloud: the same points in the scene's frame.
        owner: (m,) which of the cloud's boxes a voxel is of; -1: none.
    """
    device = cloud.coord.device
    sums = torch.zeros(made.voxels, 3, dtype=torch.float64, device=device)
    sums.index_add_(0, made.inverse.to(device), cloud.coord.double())
    count = torch.bincount(made.inverse.to(device), minlength=made.voxels)[:, None]
    rotation, shift = rigid((sums / count)[tile.cells.rows], tile.coord)
    if not cloud.boxes:
        return torch.zeros_like(tile.coord), torch.ones_like(tile.coord[:, 0])
    middle = torch.from_numpy(np.stack([box.center for box in cloud.boxes])).to(rotation) @ rotation.T + shift
    size = torch.tensor([float(box.half.prod()) ** (1 / 3) for box in cloud.boxes], device=device)
    there = owner >= 0
    return middle[owner].float() * there[:, None], torch.where(there, size[owner], 1.0)


def usable(cloud: Cloud) -> bool:
    """Return whether a cloud is worth a lesson."""
    return len(cloud) >= 800


def lesson(seed: tuple[int, ...], views: int, recipe: Recipe, device: torch.device) -> Lesson:
    """Return the lesson of the seed, in main memory; always the same on the same kind of device."""
    rng = np.random.default_rng([*seed, 5])
    limited = dataclasses.replace(recipe, max_voxels=min(recipe.max_voxels, MAX_VOXELS))
    tiles: list[Tile] = []
    answers: list[tuple[Tensor, ...]] = []
    boxes = 0
    for cloud in clouds.generate(seed, views, device):
        if not usable(cloud):
            continue
        cloud = clouds.crop(cloud, rng)
        coord = clouds.frame(cloud, rng).double().cpu().numpy()
        made = prepare(PointCloud(coord), limited, device)
        tile = made.tiles[int(rng.integers(len(made.tiles)))]
        share, count = targets(made, cloud.label)
        rows = tile.cells.rows
        owner = owners(made, cloud)[rows]
        center, size = centers(tile, made, cloud, owner)
        instance = torch.where(owner >= 0, owner + boxes, -1)
        boxes += len(cloud.boxes)
        tiles.append(tile)
        answers.append((share[rows], count[rows].sqrt(), instance, center, size))
    if not tiles:
        return lesson((*seed, 1), views, recipe, device)
    whole = Lesson(collate(tiles), *(torch.cat(parts) for parts in zip(*answers, strict=True)))
    return whole.to(torch.device("cpu"))


def _work(queue: Any, first: int, stride: int, seed: int, views: int, recipe: Recipe, device: str) -> None:
    """Make every `stride`-th lesson from `first` on, until this process is ended."""
    torch.set_num_threads(1)
    index = first
    while True:
        queue.put(lesson((seed, index), views, recipe, torch.device(device)))
        index += stride


class Lessons:
    """Lessons one after another, in the order of their numbers whatever process made them."""

    def __init__(
        self, seed: int, views: int, recipe: Recipe, device: torch.device, workers: int, start: int = 0
    ) -> None:
        self._arguments = (seed, views, recipe, str(device))
        self._next, self._workers = start, workers
        self._queues: list[Any] = []
        self._processes: list[Any] = []
        context = torch.multiprocessing.get_context("spawn")
        for index in range(workers):
            queue = context.Queue(maxsize=4)
            process = context.Process(target=_work, args=(queue, start + index, workers, *self._arguments), daemon=True)
            process.start()
            self._queues.append(queue)
            self._processes.append(process)

    def __iter__(self) -> Iterator[Lesson]:
        start = self._next
        while True:
            if self._queues:
                yield self._queues[(self._next - start) % self._workers].get()
            else:
                seed, views, recipe, device = self._arguments
                yield lesson((seed, self._next), views, recipe, torch.device(device))
            self._next += 1

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
