"""The operators once more, slow and obviously right, for the tests: dictionaries and one product at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import torch

from sparseconv import ops

Cell = tuple[int, int, int, int]
Pair = tuple[int, int, int]
"""(output row, kernel offset, input row)."""


def key_of(cell: Sequence[int], spatial_shape: Sequence[int]) -> int:
    """Return the place of a cell (cloud, x, y, z) along the curve."""
    bits = max(2, *((extent - 1).bit_length() for extent in spatial_shape))
    cloud, x, y, z = cell
    key = cloud
    for bit in reversed(range(bits)):
        key = key << 3 | (x >> bit & 1) << 2 | (y >> bit & 1) << 1 | (z >> bit & 1)
    return key


def subm_pairs(cells: Sequence[Cell], kernel_size: Sequence[int], dilation: Sequence[int]) -> set[Pair]:
    """Return the pairs of a submanifold convolution."""
    row_of = {cell: row for row, cell in enumerate(cells)}
    pairs = set()
    for target, (cloud, *at) in enumerate(cells):
        for offset, steps in enumerate(product(*(range(size) for size in kernel_size))):
            shifts = [(k - size // 2) * d for k, size, d in zip(steps, kernel_size, dilation, strict=True)]
            x, y, z = (a + shift for a, shift in zip(at, shifts, strict=True))
            source = row_of.get((cloud, x, y, z))
            if source is not None:
                pairs.add((target, offset, source))
    return pairs


def down_pairs(
    cells: Sequence[Cell],
    spatial_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[list[Cell], set[Pair]]:
    """Return the output cells of a strided convolution, along the curve, and its pairs."""
    sizes = list(zip(spatial_shape, kernel_size, stride, padding, dilation, strict=True))
    shape = [(extent + 2 * p - d * (k - 1) - 1) // s + 1 for extent, k, s, p, d in sizes]
    found = []
    for source, (cloud, *at) in enumerate(cells):
        for offset, steps in enumerate(product(*(range(size) for size in kernel_size))):
            window = []
            for a, k, extent, (_, _, s, p, d) in zip(at, steps, shape, sizes, strict=True):
                place, rest = divmod(a + p - k * d, s)
                if rest == 0 and 0 <= place < extent:
                    window.append(place)
            if len(window) == 3:
                found.append(((cloud, window[0], window[1], window[2]), offset, source))
    outputs = sorted({cell for cell, _, _ in found}, key=lambda cell: key_of(cell, shape))
    row_of = {cell: row for row, cell in enumerate(outputs)}
    return outputs, {(row_of[cell], offset, source) for cell, offset, source in found}


def conv(
    features: torch.Tensor,
    weight: torch.Tensor,
    pairs: set[Pair],
    rows: int,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    relu: bool = False,
) -> torch.Tensor:
    """Convolve, in float64.

    Args:
        features: (any, in_channels).
        weight: (out_channels, kx, ky, kz, in_channels).
        pairs: of a kernel map.
        rows: of the result.
        bias: (out_channels,) or None.
        residual: (rows, out_channels) or None.
        relu: whether negative results become 0.
    """
    matrices = weight.double().flatten(1, 3).permute(1, 2, 0)
    y = torch.zeros(rows, weight.shape[0], dtype=torch.float64)
    for target, offset, source in sorted(pairs):
        y[target] += features[source].double() @ matrices[offset]
    if bias is not None:
        y += bias.double()
    if residual is not None:
        y += residual.double()
    return y.relu() if relu else y


def random_cells(count: int, extent: int, clouds: int = 1, seed: int = 0) -> torch.Tensor:
    """Return distinct random cells (cloud, x, y, z) in random order, at most `count`, int32."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, extent, (count, 4), generator=random)
    rows[:, 0] %= clouds
    rows = torch.unique(rows, dim=0)
    return rows[torch.randperm(len(rows), generator=random)].int()


def pairs_of(kernel_map: ops.KernelMap, volume: int) -> set[Pair]:
    """Return the pairs of an operator's map; each must be there once."""
    starts, rows = kernel_map.starts.tolist(), kernel_map.rows.tolist()
    sources, targets = kernel_map.sources.tolist(), kernel_map.targets.tolist()
    found = []
    for slot, (start, end) in enumerate(pairwise(starts)):
        tile, offset = divmod(slot, volume)
        found += [(rows[tile * 256 + targets[pair]], offset, sources[pair]) for pair in range(start, end)]
    assert len(set(found)) == len(found) == len(sources)
    return set(found)
