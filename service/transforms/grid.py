"""Grid sampling: points to the occupied cells of a grid, and which cell each point went to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_CELLS = 2**20
"""Most cells along one axis: three axes still fit one 64-bit key."""

_FOLD = 256

PHASE = 2**-10
"""Shift of the grid, in cells. Scanners quantise to millimetres, so many points would lie exactly on a cell's edge,
where the last bit of a subtraction would choose the cell; a small odd shift leaves the edges empty."""


@dataclass(frozen=True)
class Grid:
    """The occupied cells of a cloud.

    Attributes:
        grid_coord: (M, 3) int32 cells, from 0, sorted by x, then y, then z; each once.
        inverse: (n,) int64, the row of `grid_coord` in which each point lies.
        order: (n,) int64, points by cell, and in input order within a cell.
        count: (M,) int64, points of each cell.
    """

    grid_coord: torch.Tensor
    inverse: torch.Tensor
    order: torch.Tensor
    count: torch.Tensor

    def __len__(self) -> int:
        return len(self.grid_coord)

    @property
    def first(self) -> torch.Tensor:
        """(M,) int64, the place in `order` at which each cell begins."""
        return torch.cumsum(self.count, dim=0) - self.count


def bounds(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest and the largest value of each column.

    Args:
        values: (n, k) any dtype, n >= 1.

    Returns:
        Two tensors (k,).
    """
    if values.is_cuda:
        low, high = torch.aminmax(values, dim=0)
        return low, high
    # A processor is slow at reducing along rows of three numbers; most of it is done along rows of 768.
    rows, columns = values.shape
    wide = rows // _FOLD
    low, high = values[wide * _FOLD :], values[wide * _FOLD :]
    if wide:
        folded = values[: wide * _FOLD].reshape(wide, _FOLD * columns)
        low = torch.cat([folded.amin(dim=0).view(_FOLD, columns), low])
        high = torch.cat([folded.amax(dim=0).view(_FOLD, columns), high])
    return low.amin(dim=0), high.amax(dim=0)


def sample(coord: torch.Tensor, grid_size: float, low: torch.Tensor | None = None) -> Grid:
    """Sort points into the cells of a grid.

    Args:
        coord: (n, 3) float32 or float64, finite, n >= 1, in the unit of `grid_size`.
        grid_size: edge of a cell.
        low: (3,) where the grid begins, not above any point; None: at their minimum.

    Raises:
        ValueError: the cloud spans more than MAX_CELLS cells along an axis, or has no point.
    """
    if len(coord) == 0:
        raise ValueError("A cloud without points has no cells.")
    lowest, highest = bounds(coord)
    low = lowest if low is None else low
    span = ((highest - low) / grid_size).tolist()
    if not max(span) < MAX_CELLS - 1:
        raise ValueError(
            f"The cloud spans {max(span):.3g} cells of {grid_size} along one axis; {MAX_CELLS} is the most."
        )
    cell = ((coord - low).div_(grid_size)).add_(PHASE).floor_().long()
    return _group(cell, int(span[1]) + 2, int(span[2]) + 2)


def sample_in_phase(coord: torch.Tensor, grid_size: float) -> tuple[Grid, torch.Tensor]:
    """Sort points into the cells of the grid whose corners are whole multiples of `grid_size`, as Pointcept does.

    Args:
        coord: (n, 3) float32 or float64, finite, n >= 1, in the unit of `grid_size`.
        grid_size: edge of a cell; rounded to the coordinates' precision, as numpy does there.

    Returns:
        The grid, and (3,) int64 how many cells from zero it begins.

    Raises:
        ValueError: the cloud spans more than MAX_CELLS cells along an axis.
    """
    # By a tensor: by a number, CUDA would multiply with its inverse.
    size = coord.new_tensor(grid_size)
    low, high = (torch.floor(bound / size) for bound in bounds(coord))
    span = (high - low).tolist()
    if not max(span) < MAX_CELLS - 1:
        raise ValueError(
            f"The cloud spans {max(span):.3g} cells of {grid_size} along one axis; {MAX_CELLS} is the most."
        )
    # The quotient first: where points lie on a cell's edge, its last bit chooses the cell.
    cell = (coord / size).floor_().sub_(low).long()
    return _group(cell, int(span[1]) + 1, int(span[2]) + 1), low.long()


def _group(cell: torch.Tensor, width_y: int, width_z: int) -> Grid:
    """Return the grid of (n, 3) int64 cells from 0, whose y and z are less than the widths."""
    key = (cell[:, 0] * width_y + cell[:, 1]) * width_z + cell[:, 2]
    key, order = torch.sort(key, stable=True)
    fresh = torch.ones(len(key), dtype=torch.bool, device=key.device)
    torch.ne(key[1:], key[:-1], out=fresh[1:])
    start = fresh.nonzero().squeeze(1)
    count = torch.diff(start, append=start.new_tensor([len(key)]))
    inverse = torch.empty_like(order)
    inverse[order] = torch.cumsum(fresh, dim=0) - 1
    key = key[start]
    z = key % width_z
    key = torch.div(key, width_z, rounding_mode="floor")
    grid_coord = torch.stack([torch.div(key, width_y, rounding_mode="floor"), key % width_y, z], dim=1)
    return Grid(grid_coord.int(), inverse, order, count)


def mean(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the mean of a per-point array in every cell.

    Summed in float64, cell by cell: neither the device nor, but for the last bit, the order of the points shows.

    Args:
        values: (n, k) floating point.
        grid: cells of the same n points.

    Returns:
        (M, k), dtype of `values`.
    """
    sorted_values = values.index_select(0, grid.order).to(torch.float64)
    return torch.segment_reduce(sorted_values, "mean", lengths=grid.count).to(values.dtype)


def nearest(coord: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return for every cell the point closest to the mean of its points; of equals the first in input order.

    Args:
        coord: (n, 3) positions.
        grid: cells of the same points.

    Returns:
        (M,) int64 rows of `coord`.
    """
    in_cells = coord.to(torch.float64).index_select(0, grid.order)
    centre = torch.segment_reduce(in_cells, "mean", lengths=grid.count)
    cell = grid.inverse.index_select(0, grid.order)
    distance = (in_cells - centre.index_select(0, cell)).square_().sum(dim=1)
    least = torch.segment_reduce(distance, "min", lengths=grid.count)
    place = (distance == least.index_select(0, cell)).nonzero().squeeze(1)  # one in each cell, or several as near
    cell = cell.index_select(0, place)
    fresh = torch.ones(len(cell), dtype=torch.bool, device=cell.device)
    torch.ne(cell[1:], cell[:-1], out=fresh[1:])
    return grid.order.index_select(0, place[fresh])
