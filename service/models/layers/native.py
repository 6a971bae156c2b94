"""Sparse convolution in plain torch, on any device: gather, multiply, scatter. Forward only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from service.models.layers import kernel_map


@dataclass(frozen=True)
class NativeTensor:
    """Features on the occupied cells of a grid.

    Attributes:
        features: (M, C) float.
        indices: (M, 4) int32 (cloud, x, y, z).
        spatial_shape: extent of the grid.
        batch_size: number of clouds.
        maps: kernel maps found so far, by indice_key; shared by all tensors that descend from one.
    """

    features: torch.Tensor
    indices: torch.Tensor
    spatial_shape: tuple[int, ...]
    batch_size: int
    maps: dict[str, Any] = field(default_factory=dict)

    def replace_feature(self, features: torch.Tensor) -> NativeTensor:
        """Return the same cells with other features."""
        return replace(self, features=features)


class _Convolution(nn.Module):
    """Weight and bias with spconv's shapes and spconv's initial distribution."""

    bias: nn.Parameter | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, bias: bool, indice_key: str | None
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.indice_key = kernel_size, indice_key
        self.weight = nn.Parameter(torch.empty(out_channels, kernel_size, kernel_size, kernel_size, in_channels))
        bound = 1 / math.sqrt(in_channels * kernel_size**3)
        nn.init.uniform_(self.weight, -bound, bound)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))
        else:
            self.register_parameter("bias", None)

    def matrices(self) -> torch.Tensor:
        """Return the weight as (kernel volume, in_channels, out_channels)."""
        return self.weight.reshape(self.out_channels, -1, self.in_channels).permute(1, 2, 0)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, key={self.indice_key!r}"


class SubMConv3d(_Convolution):
    """Submanifold convolution, centred, stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, bias: bool, indice_key: str | None
    ) -> None:
        if kernel_size % 2 != 1:
            raise ValueError(f"A submanifold convolution needs an odd kernel, not {kernel_size}.")
        super().__init__(in_channels, out_channels, kernel_size, bias, indice_key)

    def forward(self, x: NativeTensor) -> NativeTensor:
        if self.kernel_size == 1:
            # spconv reads the memory of this weight as (in, out), whatever its shape says; checkpoints rely on it.
            y = x.features @ self.weight.view(self.in_channels, self.out_channels)
            return x.replace_feature(y if self.bias is None else y + self.bias)
        key = self.indice_key
        found = x.maps.get(key) if key is not None else None
        if found is None:
            found = kernel_map.neighbours(x.indices, x.spatial_shape, self.kernel_size)
            if key is not None:
                x.maps[key] = found
        count = len(x.features)
        y = x.features.new_zeros(count, self.out_channels)
        if self.bias is not None:
            y += self.bias
        for rows, matrix in zip(found, self.matrices(), strict=True):
            target = (rows < count).nonzero().squeeze(1)
            if len(target):
                y.index_add_(0, target, x.features.index_select(0, rows[target]) @ matrix)
        return x.replace_feature(y)


class SparseConv3d(_Convolution):
    """Strided convolution with stride = kernel_size and no padding."""

    def forward(self, x: NativeTensor) -> NativeTensor:
        windows = kernel_map.window(x.indices, x.spatial_shape, self.kernel_size)
        if self.indice_key is not None:
            x.maps[self.indice_key] = windows
        y = x.features.new_zeros(len(windows.indices), self.out_channels)
        if self.bias is not None:
            y += self.bias
        for (fine, coarse), matrix in zip(windows.groups, self.matrices(), strict=True):
            y.index_add_(0, coarse, x.features.index_select(0, fine) @ matrix)
        return NativeTensor(y, windows.indices, windows.spatial_shape, x.batch_size, x.maps)


class SparseInverseConv3d(_Convolution):
    """Back to the cells before the SparseConv3d with the same indice_key."""

    def forward(self, x: NativeTensor) -> NativeTensor:
        windows: kernel_map.Window = x.maps[str(self.indice_key)]
        y = x.features.new_zeros(len(windows.fine_indices), self.out_channels)
        for (fine, coarse), matrix in zip(windows.groups, self.matrices(), strict=True):
            y.index_copy_(0, fine, x.features.index_select(0, coarse) @ matrix)
        if self.bias is not None:
            y += self.bias
        return NativeTensor(y, windows.fine_indices, windows.fine_shape, x.batch_size, x.maps)


class NativeEngine:
    """The engine that needs nothing but torch; see `Engine` for its methods."""

    name = "native"
    folds = True

    def tensor(
        self, features: torch.Tensor, indices: torch.Tensor, spatial_shape: Sequence[int], batch_size: int
    ) -> NativeTensor:
        """Return a sparse tensor; see `Engine.tensor`."""
        return NativeTensor(features, indices, tuple(spatial_shape), batch_size)

    def subm_conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = False,
        indice_key: str | None = None,
    ) -> nn.Module:
        """Return a submanifold convolution; see `Engine.subm_conv`."""
        return SubMConv3d(in_channels, out_channels, kernel_size, bias, indice_key)

    def down_conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = False,
        indice_key: str | None = None,
    ) -> nn.Module:
        """Return a strided convolution; see `Engine.down_conv`."""
        return SparseConv3d(in_channels, out_channels, kernel_size, bias, indice_key)

    def inverse_conv(
        self, in_channels: int, out_channels: int, kernel_size: int, *, indice_key: str, bias: bool = False
    ) -> nn.Module:
        """Return the inverse of a strided convolution; see `Engine.inverse_conv`."""
        return SparseInverseConv3d(in_channels, out_channels, kernel_size, bias, indice_key)
