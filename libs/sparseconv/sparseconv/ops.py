"""The operators, typed. Forward only: a tensor that requires grad is refused unless gradients are off.

Every function raises TypeError for a wrong dtype, ValueError for a wrong shape, value, device or layout of an argument,
which the message names, and RuntimeError for a tensor that requires grad. Results are the same to the bit whatever the
number of threads and whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

import sparseconv._C  # noqa: F401  loading it registers the operators

_OPS = torch.ops.sparseconv


@dataclass(frozen=True)
class Cells:
    """The occupied cells of a grid, in the order of a space-filling curve.

    Attributes:
        keys: (M,) int64, going up: the cloud above, then the bits of x, y and z in turn (Morton, 1966).
        order: (M,) int32, for each key the row of its cell in the user's own order.
        spatial_shape: extent of the grid along x, y, z.
    """

    keys: torch.Tensor
    order: torch.Tensor
    spatial_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class KernelMap:
    """Which input row meets which output row at which kernel offset, by tiles of 256 output rows.

    Attributes:
        rows: (M,) int32, output rows in the order in which tiles take them; each once.
        starts: (tiles * kernel volume + 1,) int64, where the pairs of each tile and offset begin.
        sources: (P,) int32, input row of each pair.
        targets: (P,) uint8, place in its tile of each pair's output row.
    """

    rows: torch.Tensor
    starts: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor

    @property
    def pairs(self) -> int:
        """Number of products of a row and a matrix."""
        return len(self.sources)

    @property
    def nbytes(self) -> int:
        """Memory of the map."""
        return sum(part.nbytes for part in (self.rows, self.starts, self.sources, self.targets))


@dataclass(frozen=True)
class Down:
    """What a strided convolution makes of a grid.

    Attributes:
        indices: (M', 4) int32 cells (cloud, x, y, z) of the output, in the order of the curve.
        cells: the same cells for further maps.
        down: map of the strided convolution.
        up: map of its inverse.
    """

    indices: torch.Tensor
    cells: Cells
    down: KernelMap
    up: KernelMap


def triple(value: int | Sequence[int]) -> tuple[int, int, int]:
    """Return three numbers, for x, y and z, from three or from one for all."""
    if isinstance(value, int):
        return value, value, value
    x, y, z = (int(part) for part in value)
    return x, y, z


def sort_cells(indices: torch.Tensor, spatial_shape: Sequence[int]) -> Cells:
    """Sort cells along the curve. Cells that are sorted already are only checked.

    Args:
        indices: (M, 4) int32 rows of (cloud, x, y, z), each once, in any order.
        spatial_shape: extent of the grid, at most 2^21 cells along an axis; three times the bits of the largest
            extent and those of the largest cloud must fit in 63.
    """
    keys, order = _OPS.sort_cells(indices, list(spatial_shape))
    return Cells(keys, order, triple(spatial_shape))


def subm_map(cells: Cells, kernel_size: int | Sequence[int], dilation: int | Sequence[int] = 1) -> KernelMap:
    """Find every cell's neighbours, for a convolution whose output has the cells of its input.

    Args:
        cells: from `sort_cells` or `down_map`.
        kernel_size: odd, along x, y, z or for all; offsets are x-major and the kernel is centred, as in spconv.
        dilation: steps between the kernel's cells.
    """
    parts = _OPS.subm_map(cells.keys, cells.order, cells.spatial_shape, triple(kernel_size), triple(dilation))
    return KernelMap(cells.order, *parts)


def down_shape(
    spatial_shape: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> tuple[int, int, int]:
    """Return the extent of a strided convolution's output, as torch.nn.Conv3d has it."""
    parts = zip(spatial_shape, triple(kernel_size), triple(stride), triple(padding), triple(dilation), strict=True)
    x, y, z = ((extent + 2 * p - d * (k - 1) - 1) // s + 1 for extent, k, s, p, d in parts)
    return x, y, z


def down_map(
    cells: Cells,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Down:
    """Find the cells of a strided convolution's output, and the pairs of it and of its inverse.

    An output cell is there if any input cell lies in its window; cells beyond the last window belong to none.

    Args:
        cells: from `sort_cells` or `down_map`.
        kernel_size: along x, y, z or for all, as stride, padding and dilation.
    """
    sizes = [triple(value) for value in (kernel_size, stride, padding, dilation)]
    indices, keys, *parts = _OPS.down_map(cells.keys, cells.order, cells.spatial_shape, *sizes)
    order = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    coarse = Cells(keys, order, down_shape(cells.spatial_shape, *sizes))
    return Down(indices, coarse, KernelMap(order, *parts[:3]), KernelMap(cells.order, *parts[3:]))


def pack_weight(weight: torch.Tensor, bfloat16: bool = False) -> torch.Tensor:
    """Arrange a weight as the convolution reads it.

    Args:
        weight: (out_channels, kx, ky, kz, in_channels) float32, spconv's KRSC layout.
        bfloat16: whether convolutions with it multiply in bfloat16: they round weight and features to 8 bits of
            mantissa (to the nearest, ties to even), and add up in float32. Every processor can; it is faster than
            float32 where `multiplies_bfloat16`.

    Returns:
        (kx * ky * kz, ceil(out_channels / 16), in_channels, 16) float32, padded with zeros; in bfloat16
        (kx * ky * kz, ceil(out_channels / 16), 16 * ceil(in_channels / 32), 16, 2), two input channels side by side.
    """
    packed: torch.Tensor = _OPS.pack_weight_bfloat16(weight) if bfloat16 else _OPS.pack_weight(weight)
    return packed


def multiplies_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 faster than float32: in tile registers (AMX).

    Not so the AVX-512 instruction for bfloat16: with it the same tiles took half as long again as in float32 (Xeon).
    """
    return "amx_bf16" in cpu_instructions()


def conv(
    features: torch.Tensor,
    packed: torch.Tensor,
    out_channels: int,
    kernel_map: KernelMap,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    relu: bool = False,
) -> torch.Tensor:
    """Convolve along a kernel map: the sum over pairs of input row times matrix, plus bias, plus residual, then ReLU.

    Args:
        features: (any, in_channels) float32.
        packed: from `pack_weight`; its dtype says in which the products are.
        out_channels: of the weight.
        kernel_map: whose kernel has as many offsets as the weight.
        bias: (out_channels,) float32; it reaches every row, also one without any pair.
        residual: (M, out_channels) float32.
        relu: whether negative results become 0.

    Returns:
        (M, out_channels) float32, M the rows of the map.
    """
    m = kernel_map
    y: torch.Tensor = _OPS.conv(
        features, packed, out_channels, m.rows, m.starts, m.sources, m.targets, bias, residual, relu
    )
    return y


def linear(
    features: torch.Tensor,
    packed: torch.Tensor,
    out_channels: int,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    relu: bool = False,
) -> torch.Tensor:
    """Multiply every row by one matrix, plus bias, plus residual, then ReLU: a kernel of 1x1x1.

    Args:
        features: (M, in_channels) float32.
        packed: from `pack_weight`, of a weight with one kernel offset.
        out_channels, bias, residual, relu: see `conv`.
    """
    y: torch.Tensor = _OPS.linear(features, packed, out_channels, bias, residual, relu)
    return y


def cpu_instructions() -> list[str]:
    """Return the sets of instructions that this processor can run; the last is in use.

    They are default, avx2, avx512 and amx_bf16, which differs from avx512 in bfloat16 alone.
    """
    names: list[str] = _OPS.cpu_instructions()
    return names


def use_cpu_instructions(name: str) -> str:
    """Use another of `cpu_instructions` in all threads of this process, and return the one used before."""
    before: str = _OPS.use_cpu_instructions(name)
    return before
