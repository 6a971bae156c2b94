"""Kernel maps: which occupied cell lies at which kernel offset of which other, found with sorted 64-bit keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

_LARGEST_KEY = 2**62


@dataclass(frozen=True)
class Window:
    """How the cells of a fine grid fall into the windows of a strided convolution.

    Attributes:
        indices: (M', 4) int32 coarse cells (cloud, x, y, z), sorted.
        spatial_shape: extent of the coarse grid.
        coarse: (M,) int64 row of each fine cell's coarse cell; -1 where the grid's odd edge was cut off.
        offset: (M,) int64 kernel offset of each fine cell within its window, x-major.
        fine_indices: (M, 4) int32 the fine cells.
        fine_shape: extent of the fine grid.
    """

    indices: torch.Tensor
    spatial_shape: tuple[int, ...]
    coarse: torch.Tensor
    offset: torch.Tensor
    fine_indices: torch.Tensor
    fine_shape: tuple[int, ...]
    kernel_size: int

    @cached_property
    def groups(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each kernel offset the rows of the fine cells at it and the rows of their coarse cells."""
        volume = self.kernel_size**3
        kept = torch.where(self.coarse >= 0, self.offset, volume)
        order = torch.argsort(kept, stable=True)
        sizes = torch.bincount(kept, minlength=volume + 1).tolist()
        fine = torch.split(order, sizes)[:volume]
        return [(rows, self.coarse[rows]) for rows in fine]


def keys(indices: torch.Tensor, spatial_shape: Sequence[int], margin: int) -> tuple[torch.Tensor, list[int]]:
    """Pack cells into one integer each, in the order of (cloud, x, y, z), with an empty margin round every cloud.

    Args:
        indices: (M, 4) int32.
        spatial_shape: extent of the grid along x, y, z.
        margin: cells by which a neighbour may lie outside the grid without meeting another row of it.

    Returns:
        (M,) int64 keys, and the key's steps along cloud, x, y, z.

    Raises:
        ValueError: the grid has more cells than 62 bits can count.
    """
    width_x, width_y, width_z = (extent + 2 * margin for extent in spatial_shape)
    steps = [width_x * width_y * width_z, width_y * width_z, width_z, 1]
    clouds = int(indices[-1, 0]) + 1 if len(indices) else 1
    if steps[0] * max(clouds, 1) > _LARGEST_KEY:
        raise ValueError(f"A grid of {tuple(spatial_shape)} cells is too large to be indexed with 62 bits.")
    wide = indices.long()
    key = wide[:, 0] * steps[0] + (wide[:, 1] + margin) * steps[1] + (wide[:, 2] + margin) * steps[2]
    return key + wide[:, 3] + margin, steps


def neighbours(indices: torch.Tensor, spatial_shape: Sequence[int], kernel_size: int) -> torch.Tensor:
    """Find for every cell the row of its neighbour at every kernel offset.

    Args:
        indices: (M, 4) int32 cells, each once, in any order.
        spatial_shape: extent of the grid.
        kernel_size: odd edge of the kernel.

    Returns:
        (kernel_size ** 3, M) int64 rows, offsets x-major from (-r, -r, -r); M where no cell is occupied.
    """
    count, radius = len(indices), kernel_size // 2
    volume = kernel_size**3
    found = torch.full((volume, count), count, dtype=torch.int64, device=indices.device)
    key, steps = keys(indices, spatial_shape, radius)
    rows = None
    if count > 1 and not bool((key[1:] > key[:-1]).all()):
        key, rows = torch.sort(key)
    # A sentinel that no query reaches saves the bounds check of every probe.
    padded = torch.cat([key, key.new_full((kernel_size,), -1)])
    here = torch.arange(count, device=indices.device)
    columns = kernel_size * kernel_size
    # The map is symmetric: the half of the columns before the centre is searched, the rest is read backwards.
    for column in range(columns // 2 + 1):
        dx, dy = column // kernel_size - radius, column % kernel_size - radius
        first = key + (dx * steps[1] + dy * steps[2] - radius)
        # Cells of one column follow each other in the sorted keys: one search serves all its offsets along z.
        at = torch.searchsorted(key, first)
        for dz in range(kernel_size):
            offset = column * kernel_size + dz
            if offset > volume // 2:
                break
            hit = padded[at] == first + dz
            target, source = here[hit], at[hit]
            found[offset, target] = source
            found[volume - 1 - offset, source] = target
            at = at + hit
    if rows is None:
        return found
    back = torch.full((volume, count), count, dtype=torch.int64, device=indices.device)
    back[:, rows] = torch.cat([rows, rows.new_tensor([count])])[found]
    return back


def window(indices: torch.Tensor, spatial_shape: Sequence[int], kernel_size: int) -> Window:
    """Sort cells into the windows of a convolution with stride = kernel_size and no padding.

    The coarse grid has floor(extent / kernel_size) cells: the last planes of an extent that does not divide belong
    to no window, as in spconv.

    Args:
        indices: (M, 4) int32 cells.
        spatial_shape: extent of the grid.
        kernel_size: edge of the window.
    """
    shape = tuple((extent - kernel_size) // kernel_size + 1 for extent in spatial_shape)
    if min(shape) < 1:
        raise ValueError(f"A grid of {tuple(spatial_shape)} cells has no room for a window of {kernel_size} cells.")
    cell = torch.div(indices[:, 1:], kernel_size, rounding_mode="floor")
    within = (indices[:, 1:] - cell * kernel_size).long()
    offset = (within[:, 0] * kernel_size + within[:, 1]) * kernel_size + within[:, 2]
    coarse_cells = torch.cat([indices[:, :1], cell], dim=1)
    inside = (cell < cell.new_tensor(shape)).all(dim=1)
    key, steps = keys(coarse_cells, [extent + 1 for extent in shape], 0)
    unique, inverse = torch.unique(key[inside], return_inverse=True)
    coarse = torch.full((len(indices),), -1, dtype=torch.int64, device=indices.device)
    coarse[inside] = inverse
    parts = []
    for step in steps:
        parts.append(torch.div(unique, step, rounding_mode="floor"))
        unique = unique - parts[-1] * step
    return Window(torch.stack(parts, dim=1).int(), shape, coarse, offset, indices, tuple(spatial_shape), kernel_size)
