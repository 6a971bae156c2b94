"""The cells of a network's stages: coarser and coarser grids, each serialised along space-filling curves.

All that follows from the cells alone is made here before any feature is computed: `Batch.once` keeps it for batches of
the same cells, and a forward pass then waits for the device no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from service.models.batch import Batch
from service.models.layers.engine import Engine
from service.models.layers.patches import Layout, Patches, layout
from service.models.layers.serialization import MAX_DEPTH, codes

_CLOUD_BIT = 3 * MAX_DEPTH
_MARGIN = 96
"""Cells that Pointcept leaves free above the largest coordinate."""


@dataclass(frozen=True)
class Down:
    """The way to the next coarser stage.

    Attributes:
        cluster: (M,) int64, the coarse row of each row.
        order: (M,) int64, the rows sorted by their coarse row; None: they stand so.
        starts: (M' + 1,) int64, where each coarse row's part begins in that order.
    """

    cluster: torch.Tensor
    order: torch.Tensor | None
    starts: torch.Tensor


@dataclass
class Stage:
    """The cells of one stage.

    Attributes:
        cells: (M, 4) int32 rows of (cloud, x, y, z); clouds one after another.
        sizes: rows of each cloud.
        shape: extent of the grid, with a margin.
        codes: (curves, M) int64, each cell's position along each curve, within its cloud.
        sorted_by: the curve along which the rows stand, within each cloud; None: none.
        down: the way to the next stage; None: this is the last one.
        maps: kernel maps of the convolutions on these cells.
    """

    cells: torch.Tensor
    sizes: list[int]
    shape: list[int]
    codes: torch.Tensor
    sorted_by: int | None = None
    down: Down | None = None
    maps: dict[Any, Any] = field(default_factory=dict)
    _layouts: dict[int, Layout] = field(default_factory=dict, repr=False)
    _patches: dict[tuple[int, int], Patches] = field(default_factory=dict, repr=False)

    def sparse(self, engine: Engine, features: torch.Tensor) -> Any:
        """Return the engine's sparse tensor of (M, C) features on these cells."""
        return engine.tensor(features, self.cells, self.shape, len(self.sizes), self.maps)

    def patches(self, curve: int, patch_size: int) -> Patches:
        """Return the patches along a curve; blocks of the same stage share them."""
        key = (curve, patch_size)
        if key not in self._patches:
            if patch_size not in self._layouts:
                self._layouts[patch_size] = layout(self.sizes, patch_size, self.cells.device)
            order = None
            if curve != self.sorted_by:
                order = torch.argsort(_with_cloud(self.codes[curve], self.cells[:, 0]))
            self._patches[key] = self._layouts[patch_size].along(order)
        return self._patches[key]


@dataclass(frozen=True)
class Stages:
    """All stages of a network, the finest first.

    Attributes:
        stages: of them each but the last has a way down.
        order: (M,) int64, the batch's row that each row of the first stage is; None: they are the same.
    """

    stages: list[Stage]
    order: torch.Tensor | None

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the batch's (M, C) rows in the order of the first stage."""
        return rows if self.order is None else rows.index_select(0, self.order)

    def give(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the first stage's (M, C) rows in the order of the batch."""
        return rows if self.order is None else torch.empty_like(rows).index_copy_(0, self.order, rows)


def by_code(batch: Batch, orders: Sequence[str], strides: Sequence[int], depth: Callable[[int], int]) -> Stages:
    """Make the stages of a network that pools by shifting codes: PT-v3m1.

    Rows of every stage stand along the first curve. Octree depths are each cloud's own, where Pointcept takes the
    batch's.

    Args:
        batch: clouds of one cell and more.
        orders: curves, names out of `serialization.ORDERS`.
        strides: from each stage to the next; powers of two.
        depth: levels of the octree for a cloud whose largest coordinate is the argument.

    Raises:
        ValueError: a cloud has no rows, or more than 2^16 cells along an axis.
    """
    first, order, tops = _first(batch, orders, depth)
    stages, cells, found, device = [first], first.cells, first.codes, first.cells.device
    cloud = cells[:, 0].long()
    depths = [depths_of(max(top), depth) for top in tops]
    shifts = _shifts(depths, strides)
    shifted = torch.tensor(shifts, device=device).index_select(1, cloud)  # (stages - 1, M)
    clusters, counts = _clusters(_with_cloud(found[0] >> 3 * shifted, cloud), first.sizes)
    heads = torch.arange(len(cells), device=device)
    for level, (sizes, coarse) in enumerate(zip(counts, clusters, strict=True)):
        fine = coarse.index_select(0, heads) if level else coarse
        starts = torch.searchsorted(fine, torch.arange(sum(sizes) + 1, device=device))
        stages[-1].down = Down(fine, None, starts)
        heads = heads.index_select(0, starts[:-1])
        by = shifted[level].index_select(0, heads)
        at = cells.index_select(0, heads)
        at[:, 1:] >>= by.unsqueeze(1).int()
        shape = extent([[top >> s for top in cloud_top] for cloud_top, s in zip(tops, shifts[level], strict=True)])
        stages.append(Stage(at, sizes, shape, found.index_select(1, heads) >> 3 * by, sorted_by=0))
    return Stages(stages, order)


def by_grid(batch: Batch, orders: Sequence[str], strides: Sequence[int]) -> Stages:
    """Make the stages of a network that pools by dividing cells: PT-v3m2, PT-v3m3, LitePT.

    Each stage is serialised anew, with an octree as deep as its own cells ask for. Rows of every stage stand along the
    first curve. Octree depths are each cloud's own, where Pointcept takes the batch's.

    Args:
        batch: clouds of one cell and more.
        orders: curves, names out of `serialization.ORDERS`.
        strides: from each stage to the next, whole and at least 1.

    Raises:
        ValueError: a cloud has no rows, or more than 2^16 cells along an axis.
    """
    first, order, tops = _first(batch, orders, grid_depth)
    stages = [first]
    for stride in strides:
        fine = stages[-1]
        tops = [[top // stride for top in cloud_top] for cloud_top in tops]
        cells = torch.cat([fine.cells[:, :1], fine.cells[:, 1:] // stride], dim=1)
        cloud = cells[:, 0].long()
        found = codes(cells[:, 1:], cloud, [grid_depth(max(top)) for top in tops], orders)
        keys, cluster, counts = torch.unique(_with_cloud(found[0], cloud), return_inverse=True, return_counts=True)
        rows = torch.argsort(cluster, stable=True)
        starts = torch.nn.functional.pad(counts.cumsum(dim=0), (1, 0))
        fine.down = Down(cluster, rows, starts)
        heads = rows.index_select(0, starts[:-1])
        sizes: list[int] = torch.bincount(keys >> _CLOUD_BIT, minlength=len(tops)).tolist()
        stages.append(Stage(cells[heads], sizes, extent(tops), found.index_select(1, heads), sorted_by=0))
    return Stages(stages, order)


def grid_depth(top: int) -> int:
    """Return the octree's levels for a largest coordinate, as Pointcept has counted them since v1.6.0."""
    return (top + 1).bit_length()


def _first(
    batch: Batch, orders: Sequence[str], depth: Callable[[int], int]
) -> tuple[Stage, torch.Tensor, list[list[int]]]:
    """Return the first stage, the batch's row that each of its rows is, and each cloud's largest coordinates.

    Raises:
        ValueError: a cloud has no rows, or more than 2^16 cells along an axis.
    """
    sizes = batch.sizes
    tops = largest(batch.grid_coord, sizes)
    cloud, grid_coord = batch.cloud, batch.grid_coord.int()
    found = codes(grid_coord, cloud, [depths_of(max(top), depth) for top in tops], orders)
    # A cloud comes after another in the batch already: sorting moves rows within their clouds alone.
    order = torch.argsort(_with_cloud(found[0], cloud))
    cells = torch.cat([cloud.unsqueeze(1).int(), grid_coord.index_select(0, order)], dim=1)
    return Stage(cells, sizes, extent(tops), found.index_select(1, order), sorted_by=0), order, tops


def largest(grid_coord: torch.Tensor, sizes: Sequence[int]) -> list[list[int]]:
    """Return each cloud's largest coordinate along each axis.

    Raises:
        ValueError: a cloud has no rows.
    """
    for cloud, size in enumerate(sizes):
        if size < 1:
            raise ValueError(f"Cloud {cloud} of the batch has no voxels; it needs one at least.")
    tops: list[list[int]] = torch.stack([part.amax(dim=0) for part in grid_coord.split(list(sizes))]).tolist()
    return tops


def extent(tops: Sequence[Sequence[int]]) -> list[int]:
    """Return the extent of a grid that holds all clouds, with a margin."""
    return [max(axis) + _MARGIN for axis in zip(*tops, strict=True)]


def depths_of(top: int, depth: Callable[[int], int]) -> int:
    """Return a cloud's depth, at least 1.

    Raises:
        ValueError: it is more than codes have bits for.
    """
    levels = max(1, depth(top))
    if levels > MAX_DEPTH:
        raise ValueError(
            f"A cloud spans {top + 1} cells along an axis, but its network orders cells by codes "
            f"of {MAX_DEPTH} bits an axis; tile the cloud or use a larger grid size."
        )
    return levels


def shift(stride: int) -> int:
    """Return the bits by which coordinates are shifted to pool with a stride.

    Raises:
        ValueError: the stride is no power of two.
    """
    bits = int(stride).bit_length() - 1
    if stride < 1 or stride != 2**bits:
        raise ValueError(f"A stride of {stride} cannot be had by shifting codes; it must be a power of two.")
    return bits


def _with_cloud(code: torch.Tensor, cloud: torch.Tensor) -> torch.Tensor:
    """Return codes that differ between clouds, in the order of the clouds."""
    return cloud.long() << _CLOUD_BIT | code


def _shifts(depths: Sequence[int], strides: Sequence[int]) -> list[list[int]]:
    """Return for each stage but the first by how many bits the coordinates of each cloud have been shifted.

    A pooling deeper than what is left of a cloud's octree leaves that cloud as it is, as in Pointcept.
    """
    left, shifted, shifts = list(depths), [0] * len(depths), []
    for stride in strides:
        bits = shift(stride)
        for cloud, levels in enumerate(left):
            if bits <= levels:
                left[cloud] -= bits
                shifted[cloud] += bits
        shifts.append(list(shifted))
    return shifts


def _clusters(sorted_codes: torch.Tensor, sizes: Sequence[int]) -> tuple[list[torch.Tensor], list[list[int]]]:
    """Return for each of several sorted rows of codes the number of each code, and how many each cloud has.

    Args:
        sorted_codes: (S, M) int64.
        sizes: codes of each cloud.
    """
    new = torch.nn.functional.pad(sorted_codes[:, 1:] != sorted_codes[:, :-1], (1, 0), value=True)
    # One scan over all rows: CUDA is slow at several.
    numbers = torch.cumsum(new.view(-1), dim=0).view_as(new)
    clusters = numbers - numbers[:, :1]
    ends = torch.tensor(sizes, device=sorted_codes.device).cumsum(dim=0) - 1
    counts = []
    for row in (clusters[:, ends] + 1).tolist():
        counts.append([end - start for start, end in zip([0, *row], row, strict=False)])
    return list(clusters), counts
