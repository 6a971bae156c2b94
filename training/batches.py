"""Batches for training, made by processes of their own: scenes, sensors, crops, frames, the service's transforms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.models.batch import Batch, collate
from service.transforms import Prepared, Recipe, prepare
from service.values import PointCloud
from training import clouds
from training.clouds import Cloud

MAX_VOXELS = 70_000
"""Voxels of one training cloud: larger ones are tiled, as at serving, and one tile is trained on."""


@dataclass(frozen=True)
class Lesson:
    """A batch and what the network should say of it.

    Attributes:
        batch: its voxels.
        share: (M,) float32, the share of each voxel's points that lie on a box.
        weight: (M,) float32, how much the voxel counts.
    """

    batch: Batch
    share: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Lesson:
        """Return the lesson on the device."""
        batch = Batch(*(getattr(self.batch, field.name).to(device) for field in dataclasses.fields(Batch)))
        return Lesson(batch, self.share.to(device), self.weight.to(device))


def targets(made: Prepared, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return each voxel's share of box points (M,) and its number of points (M,), from the points' labels (n,)."""
    inverse = made.inverse.to(label.device)
    count = torch.bincount(inverse, minlength=made.voxels).float()
    boxes = torch.bincount(inverse, weights=label.double(), minlength=made.voxels).float()
    return boxes / count.clamp(min=1), count


def usable(cloud: Cloud) -> bool:
    """Return whether a cloud is worth a lesson."""
    return len(cloud) >= 800


def lesson(seed: tuple[int, ...], views: int, recipe: Recipe, device: torch.device) -> Lesson:
    """Return the lesson of the seed, in main memory; always the same on the same kind of device."""
    rng = np.random.default_rng([*seed, 5])
    limited = dataclasses.replace(recipe, max_voxels=min(recipe.max_voxels, MAX_VOXELS))
    tiles, shares, weights = [], [], []
    for cloud in clouds.generate(seed, views, device):
        if not usable(cloud):
            continue
        cloud = clouds.crop(cloud, rng)
        coord = clouds.frame(cloud, rng).double().cpu().numpy()
        made = prepare(PointCloud(coord), limited, device)
        tile = made.tiles[int(rng.integers(len(made.tiles)))]
        share, count = targets(made, cloud.label)
        tiles.append(tile)
        shares.append(share[tile.cells.rows])
        weights.append(count[tile.cells.rows].sqrt())
    if not tiles:
        return lesson((*seed, 1), views, recipe, device)
    whole = Lesson(collate(tiles), torch.cat(shares), torch.cat(weights))
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
