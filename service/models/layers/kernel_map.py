"""Kernel maps: which occupied cell lies at which kernel offset of which other, found with sorted 64-bit keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

BLOCK_ROWS = 2048
"""Output rows of a block on a CPU: with 64 channels its pairs take some 6 MB, a share of the cache."""
_BLOCK_ROWS_GPU = 65536

_LARGEST_KEY = 2**62


@dataclass(frozen=True)
class Block:
    """The pairs of cells that a run of output rows needs, by kernel offset.

    Attributes:
        source: (P,) int32 input rows, first those of the first offset, and so on.
        sizes: pairs of each offset.
        order: (P,) int32, the places in `source` that belong to the first output row, to the second, and so on.
        starts: (rows,) int32 where each output row's places begin in `order`.
    """

    source: torch.Tensor
    sizes: tuple[int, ...]
    order: torch.Tensor
    starts: torch.Tensor


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of every cell.

    Attributes:
        table: (kernel volume, M) int32 rows of the neighbours, offsets x-major from (-r, -r, -r); M: there is none.
    """

    table: torch.Tensor

    @cached_property
    def blocks(self) -> list[Block]:
        """The pairs in which there is a neighbour, for runs of output rows short enough for a CPU's cache."""
        volume, count = self.table.shape
        if count == 0:
            return []
        length = block_rows(self.table.device)
        runs = -(-count // length)
        table = nn.functional.pad(self.table, (0, runs * length - count), value=count)
        table = table.view(volume, runs, length).transpose(0, 1).contiguous()
        there = table < count
        source = table[there]
        sizes = there.sum(dim=2)
        place = torch.cumsum(there.view(-1), dim=0, dtype=torch.int32).view(runs, volume, length).sub_(1)
        pairs = sizes.sum(dim=1)
        place -= (torch.cumsum(pairs, dim=0) - pairs).int().view(-1, 1, 1)
        there_by_cell = there.transpose(1, 2).contiguous()
        order = place.transpose(1, 2).contiguous()[there_by_cell]
        amount = there_by_cell.sum(dim=2)
        starts = (torch.cumsum(amount, dim=1) - amount).int()
        ends = pairs.tolist()
        return [
            Block(*parts)
            for parts in zip(
                source.split(ends),
                (tuple(run) for run in sizes.tolist()),
                order.split(ends),
                starts.view(-1)[:count].split(length),
                strict=True,
            )
        ]


@dataclass(frozen=True)
class Window:
    """How the cells of a fine grid fall into the windows of a strided convolution.

    Attributes:
        indices: (M', 4) int32 coarse cells (cloud, x, y, z), sorted.
        spatial_shape: extent of the coarse grid.
        fine_indices: (M, 4) int32 the fine cells.
        fine_shape: extent of the fine grid.
        fine: (P,) int64 rows of the fine cells that lie in a window: all but those on the cut edge of an odd extent.
        coarse: (P,) int64 row of each one's window.
        offset: (P,) int64 where in its window it lies, x-major.
        volume: cells of a window.
    """

    indices: torch.Tensor
    spatial_shape: tuple[int, ...]
    fine_indices: torch.Tensor
    fine_shape: tuple[int, ...]
    fine: torch.Tensor
    coarse: torch.Tensor
    offset: torch.Tensor
    volume: int

    @cached_property
    def down(self) -> list[Block]:
        """The pairs by coarse cell."""
        return _blocks(self.coarse, self.offset, self.fine, len(self.indices), self.volume)

    @cached_property
    def up(self) -> list[Block]:
        """The pairs by fine cell."""
        return _blocks(self.fine, self.offset, self.coarse, len(self.fine_indices), self.volume)


def block_rows(device: torch.device) -> int:
    """Return the output rows of one block."""
    return BLOCK_ROWS if device.type == "cpu" else _BLOCK_ROWS_GPU


def _blocks(target: torch.Tensor, offset: torch.Tensor, source: torch.Tensor, rows: int, volume: int) -> list[Block]:
    """Sort pairs into blocks.

    Args:
        target: (P,) int64 output row of each pair.
        offset: (P,) int64 its kernel offset; no two pairs share both.
        source: (P,) int64 its input row.
        rows: number of output rows.
        volume: number of kernel offsets.
    """
    if rows == 0:
        return []
    length = block_rows(target.device)
    runs = -(-rows // length)
    part = torch.div(target, length, rounding_mode="floor") * volume + offset
    by_offset = torch.argsort(part, stable=True)
    sizes = torch.bincount(part, minlength=runs * volume).view(runs, volume)
    pairs = sizes.sum(dim=1)
    order = torch.argsort(target[by_offset], stable=True)
    order -= torch.repeat_interleave(torch.cumsum(pairs, dim=0) - pairs, pairs)
    amount = torch.bincount(target, minlength=rows)
    starts = torch.cumsum(amount, dim=0) - amount
    starts -= torch.repeat_interleave(torch.cumsum(pairs, dim=0) - pairs, length)[:rows]
    ends = pairs.tolist()
    return [
        Block(*parts)
        for parts in zip(
            source[by_offset].int().split(ends),
            (tuple(run) for run in sizes.tolist()),
            order.int().split(ends),
            starts.int().split(length),
            strict=True,
        )
    ]


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
    clouds = int(indices[:, 0].max()) + 1 if len(indices) else 1
    if steps[0] * clouds > _LARGEST_KEY:
        raise ValueError(f"A grid of {tuple(spatial_shape)} cells is too large to be indexed with 62 bits.")
    wide = indices.long()
    key = wide[:, 0] * steps[0] + (wide[:, 1] + margin) * steps[1] + (wide[:, 2] + margin) * steps[2]
    return key + wide[:, 3] + margin, steps


def neighbours(indices: torch.Tensor, spatial_shape: Sequence[int], kernel_size: int) -> Neighbours:
    """Find for every cell the row of its neighbour at every kernel offset.

    Args:
        indices: (M, 4) int32 cells, each once, in any order; sorted ones are faster, here and in the convolutions.
        spatial_shape: extent of the grid.
        kernel_size: odd edge of the kernel.
    """
    count, radius = len(indices), kernel_size // 2
    volume = kernel_size**3
    key, steps = keys(indices, spatial_shape, radius)
    rows = None
    if count > 1 and not bool((key[1:] > key[:-1]).all()):
        key, rows = torch.sort(key)
    found = torch.full((volume, count), count, dtype=torch.int32, device=indices.device)
    # A sentinel that equals no query saves the bounds check of every probe.
    padded = torch.cat([key, key.new_full((kernel_size,), -1)])
    here = torch.arange(count, dtype=torch.int32, device=indices.device)
    # The map is symmetric: the half of the columns before the centre is searched, the rest is read backwards.
    for column in range(kernel_size * kernel_size // 2 + 1):
        dx, dy = column // kernel_size - radius, column % kernel_size - radius
        first = key + (dx * steps[1] + dy * steps[2] - radius)
        # Cells of one column follow each other in the sorted keys: one search serves all its offsets along z.
        at = torch.searchsorted(key, first, out_int32=True)
        for offset in range(column * kernel_size, min((column + 1) * kernel_size, volume // 2 + 1)):
            hit = padded.index_select(0, at) == first
            target = hit.nonzero().squeeze(1)
            source = at.index_select(0, target)
            found[offset].index_copy_(0, target, source)
            found[volume - 1 - offset].index_copy_(0, source.long(), here.index_select(0, target))
            at = at + hit
            first = first + 1
    if rows is None:
        return Neighbours(found)
    back = torch.empty_like(found)
    back[:, rows] = torch.cat([rows, rows.new_tensor([count])]).int()[found]
    return Neighbours(back)


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
    fine = (cell < cell.new_tensor(shape)).all(dim=1).nonzero().squeeze(1)
    coarse_cells = torch.cat([indices[:, :1], cell], dim=1)
    key, steps = keys(coarse_cells[fine], shape, 0)
    unique, coarse = torch.unique(key, return_inverse=True)
    parts = []
    for step in steps:
        parts.append(torch.div(unique, step, rounding_mode="floor"))
        unique = unique - parts[-1] * step
    found = torch.stack(parts, dim=1).int()
    return Window(found, shape, indices, tuple(spatial_shape), fine, coarse, offset[fine], kernel_size**3)
