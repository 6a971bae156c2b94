"""Layers with spconv's names, arguments and weights, for inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from sparseconv import ops
from sparseconv.ops import triple


@dataclass(frozen=True)
class SparseTensor:
    """Features on the occupied cells of a grid.

    Attributes:
        features: (M, C) float32.
        indices: (M, 4) int32 (cloud, x, y, z), each once, in any order; in that of `sort_cells` layers are fastest.
        spatial_shape: extent of the grid along x, y, z.
        batch_size: number of clouds.
        maps: what was computed for these cells and for those before and after a strided convolution, by key.
    """

    features: torch.Tensor
    indices: torch.Tensor
    spatial_shape: tuple[int, int, int]
    batch_size: int
    maps: dict[Any, Any] = field(default_factory=dict)

    def replace_feature(self, features: torch.Tensor) -> SparseTensor:
        """Return the same cells, and their maps, with other features."""
        return replace(self, features=features)

    @property
    def cells(self) -> ops.Cells:
        """The cells, sorted; found once for all tensors that share `indices`."""
        key = ("cells", id(self.indices))
        found = self.maps.get(key)
        if found is None:
            # The indices are kept beside their cells: an id is theirs only while they live.
            found = self.maps[key] = (self.indices, ops.sort_cells(self.indices, self.spatial_shape))
        return found[1]


@dataclass(frozen=True)
class _Strided:
    """What a strided convolution leaves for its inverse."""

    down: ops.Down
    fine_indices: torch.Tensor
    fine_shape: tuple[int, int, int]
    kernel_size: tuple[int, int, int]


class _Convolution(nn.Module):
    """Weight (out, kx, ky, kz, in) and bias with spconv's initial distribution; the packed weight, made when needed."""

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        bias: bool,
        indice_key: str | None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.indice_key = triple(kernel_size), indice_key
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        bound = 1 / math.sqrt(in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))
        else:
            self.register_parameter("bias", None)
        self.relu = False
        """Whether negative results become 0, in the same pass."""
        self.narrow = False
        """Whether the products are in bfloat16; see `ops.pack_weight`."""
        self._packed: torch.Tensor | None = None
        self._packed_from: tuple[int, int, bool] | None = None

    def packed(self) -> torch.Tensor:
        """Return the weight as `ops.conv` reads it, packed again after it has changed."""
        weight: torch.Tensor = self.weight
        # An inference tensor counts no versions: it may have changed, and is packed every time.
        now = None if weight.is_inference() else (weight.data_ptr(), weight._version, self.narrow)
        if self._packed is None or now is None or self._packed_from != now:
            if math.prod(self.kernel_size) == 1 and self._reads_transposed:
                # spconv reads the memory of this weight as (in, out), whatever its shape says; checkpoints rely on it.
                matrix = weight.view(self.in_channels, self.out_channels).t()
                weight = matrix.reshape(self.out_channels, 1, 1, 1, self.in_channels)
            self._packed, self._packed_from = ops.pack_weight(weight.contiguous(), self.narrow), now
        return self._packed

    _reads_transposed = False

    def _convolve(self, features: torch.Tensor, found: ops.KernelMap, residual: torch.Tensor | None) -> torch.Tensor:
        return ops.conv(features, self.packed(), self.out_channels, found, self.bias, residual, self.relu)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, key={self.indice_key!r}"


class SubMConv3d(_Convolution):
    """Submanifold convolution: stride 1, centred odd kernel, the cells of its output are its input's.

    Args:
        in_channels, out_channels: of the features.
        kernel_size: odd, along x, y, z or for all.
        dilation: steps between the kernel's cells.
        bias: whether there is one.
        indice_key: layers of one key share their kernel map.
    """

    _reads_transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        bias: bool = True,
        indice_key: str | None = None,
    ) -> None:
        if any(size % 2 != 1 for size in triple(kernel_size)):
            raise ValueError(f"A submanifold convolution needs an odd kernel, not {kernel_size}.")
        super().__init__(in_channels, out_channels, kernel_size, bias, indice_key)
        self.dilation = triple(dilation)

    def forward(self, x: SparseTensor, residual: torch.Tensor | None = None) -> SparseTensor:
        """Convolve, and in the same pass add a residual of the result's shape and take the ReLU, where asked for."""
        if math.prod(self.kernel_size) == 1:
            y = ops.linear(x.features, self.packed(), self.out_channels, self.bias, residual, self.relu)
            return x.replace_feature(y)
        found = x.maps.get(self.indice_key) if self.indice_key is not None else None
        if found is None:
            found = ops.subm_map(x.cells, self.kernel_size, self.dilation)
            if self.indice_key is not None:
                x.maps[self.indice_key] = found
        return x.replace_feature(self._convolve(x.features, found, residual))


class SparseConv3d(_Convolution):
    """Strided convolution: an output cell is there if any input cell lies in its window.

    Args:
        in_channels, out_channels, kernel_size, dilation, bias: see `SubMConv3d`; the kernel may be even.
        stride, padding: as in torch.nn.Conv3d.
        indice_key: by which the inverse finds the way back.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        bias: bool = True,
        indice_key: str | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias, indice_key)
        self.stride, self.padding, self.dilation = triple(stride), triple(padding), triple(dilation)

    def forward(self, x: SparseTensor, residual: torch.Tensor | None = None) -> SparseTensor:
        """Convolve; see `SubMConv3d.forward`. Rows of the result are in the order of the curve."""
        found = x.maps.get(self.indice_key) if self.indice_key is not None else None
        if found is None:
            down = ops.down_map(x.cells, self.kernel_size, self.stride, self.padding, self.dilation)
            found = _Strided(down, x.indices, x.spatial_shape, self.kernel_size)
            if self.indice_key is not None:
                x.maps[self.indice_key] = found
            x.maps["cells", id(down.indices)] = (down.indices, down.cells)
        y = self._convolve(x.features, found.down.down, residual)
        return SparseTensor(y, found.down.indices, found.down.cells.spatial_shape, x.batch_size, x.maps)


class SparseInverseConv3d(_Convolution):
    """Back to the cells before the SparseConv3d with the same indice_key."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        indice_key: str,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias, indice_key)

    def forward(self, x: SparseTensor, residual: torch.Tensor | None = None) -> SparseTensor:
        """Convolve; see `SubMConv3d.forward`.

        Raises:
            ValueError: no SparseConv3d of this indice_key and this kernel came before.
        """
        found = x.maps.get(self.indice_key)
        if not isinstance(found, _Strided) or found.kernel_size != self.kernel_size:
            raise ValueError(
                f"indice_key {self.indice_key!r} names no strided convolution before this one "
                f"with kernel_size {self.kernel_size}."
            )
        y = self._convolve(x.features, found.down.up, residual)
        return SparseTensor(y, found.fine_indices, found.fine_shape, x.batch_size, x.maps)


@torch.no_grad()
def fold_batch_norm(convolution: _Convolution, norm: nn.BatchNorm1d) -> None:
    """Give a convolution the norm's scale and shift as its own weight and bias, in place; then leave the norm out.

    Args:
        convolution: one of this module's layers.
        norm: with running statistics.

    Raises:
        ValueError: the norm has no running statistics, or other channels.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("norm has no running statistics to fold.")
    if norm.num_features != convolution.out_channels:
        raise ValueError(f"norm has {norm.num_features} channels, the convolution {convolution.out_channels}.")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.affine:
        shift = shift + norm.bias
    weight = convolution.weight
    if convolution._reads_transposed and math.prod(convolution.kernel_size) == 1:
        weight.copy_((weight.view(-1, convolution.out_channels) * scale).view_as(weight))
    else:
        weight.mul_(scale.view(-1, 1, 1, 1, 1))
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    convolution.bias = nn.Parameter(shift, requires_grad=weight.requires_grad)
