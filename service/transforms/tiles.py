"""Tiles of a large cloud: overlapping boxes, each small enough for one pass, whose votes blend softly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from service.errors import UnusableCloud
from service.transforms import grid

MAX_EDGE = 2**15
"""Longest edge of a tile, in cells: a grid without bounds would overflow the keys of sparse convolutions."""


MOST = 1024
"""Most tiles of a cloud whose voxels alone do not ask for so many: each is a pass of the network."""


@dataclass(frozen=True)
class Cells:
    """The voxels of one tile.

    Attributes:
        rows: (m,) int64 voxels of the cloud.
        weight: (m,) float32 in (0, 1], how much this tile's word counts; 1 in the middle, falling towards cuts.
    """

    rows: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class _Box:
    """A part of the cloud: cells from `low` to `high`, both included."""

    low: tuple[int, ...]
    high: tuple[int, ...]

    def edge(self) -> tuple[int, int]:
        """Return the length and the axis of the longest edge."""
        return max((high - low + 1, axis) for axis, (low, high) in enumerate(zip(self.low, self.high, strict=True)))

    def rows(self, cells: torch.Tensor, reach: int) -> torch.Tensor:
        """Return which of (m, 3) cells lie in the box widened by `reach`."""
        low, high = cells.new_tensor(self.low) - reach, cells.new_tensor(self.high) + reach
        return ((cells >= low) & (cells <= high)).all(dim=1).nonzero().squeeze(1)

    def cut(self, axis: int, at: int) -> tuple[_Box, _Box]:
        """Return the box up to and with cell `at` of the axis, and the rest."""
        high, low = list(self.high), list(self.low)
        high[axis], low[axis] = at, at + 1
        return _Box(self.low, tuple(high)), _Box(tuple(low), self.high)


def split(grid_coord: torch.Tensor, max_voxels: int, overlap: int) -> list[Cells]:
    """Cut a cloud at medians until no tile has more than `max_voxels` voxels or spans more than MAX_EDGE cells.

    Where the cloud is so dense that the overlap alone would fill a tile, the overlap is halved.

    Args:
        grid_coord: (M, 3) int32 cells.
        max_voxels: most voxels of a tile, its overlap included.
        overlap: cells by which a tile reaches beyond its own part.

    Returns:
        Tiles that together cover every voxel, in a fixed order.

    Raises:
        UnusableCloud: there would be more than MOST, and than eight times those that its voxels would fill.
    """
    low, high = grid.bounds(grid_coord)
    whole = _Box(tuple(low.tolist()), tuple(high.tolist()))
    everything = torch.arange(len(grid_coord), device=grid_coord.device)
    if len(grid_coord) <= max_voxels and whole.edge()[0] <= MAX_EDGE:
        return [Cells(everything, torch.ones(len(everything), device=grid_coord.device))]
    tiles: list[Cells] = []
    waiting = [(whole, everything, overlap)]
    most = max(MOST, 8 * len(grid_coord) // max_voxels)
    while waiting:
        if len(tiles) + len(waiting) > most:
            raise UnusableCloud(
                f"The cloud's {len(grid_coord)} voxels are strewn over {whole.edge()[0]} cells, which would take more "
                f"than {most} passes of the model. Are the coordinates in metres, and is there no stray point?"
            )
        box, rows, reach = waiting.pop()
        cells = grid_coord[rows]
        inner = box.rows(cells, 0)
        if len(inner) == 0:
            continue
        length, axis = box.edge()
        if len(rows) <= max_voxels and length <= MAX_EDGE:
            tiles.append(Cells(rows, _weight(cells, box, whole, reach)))
            continue
        if length <= 2 * reach:
            reach //= 2
        along = cells[inner, axis]
        at = min(int(along.median()), box.high[axis] - 1) if len(rows) > max_voxels else box.low[axis] + length // 2
        for part in box.cut(axis, at):
            waiting.append((part, rows[part.rows(cells, reach)], reach))
    return tiles


def _weight(cells: torch.Tensor, box: _Box, whole: _Box, reach: int) -> torch.Tensor:
    """Return the weight of a tile's cells: a ramp over twice the reach along every side where the cloud was cut."""
    weight = torch.ones(len(cells), device=cells.device)
    ramp = max(2 * reach, 1)
    for axis in range(3):
        if box.low[axis] > whole.low[axis]:
            depth = (cells[:, axis] - (box.low[axis] - reach)).float() + 0.5
            weight = weight * (depth / ramp).clamp_(max=1)
        if box.high[axis] < whole.high[axis]:
            depth = ((box.high[axis] + reach) - cells[:, axis]).float() + 0.5
            weight = weight * (depth / ramp).clamp_(max=1)
    return weight
