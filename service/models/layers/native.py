"""Sparse convolution in plain torch, on any device: gather, multiply, scatter. Forward only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from service.models.layers import kernel_map
from service.models.layers.team import Team

_NARROW = 12
"""Up to this many input channels a neighbourhood is multiplied as a whole; measured on two AVX2 cores."""


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
        self, team: Team, in_channels: int, out_channels: int, kernel_size: int, bias: bool, indice_key: str | None
    ) -> None:
        super().__init__()
        self.team = team
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.indice_key = kernel_size, indice_key
        self.weight = nn.Parameter(torch.empty(out_channels, kernel_size, kernel_size, kernel_size, in_channels))
        bound = 1 / math.sqrt(in_channels * kernel_size**3)
        nn.init.uniform_(self.weight, -bound, bound)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))
        else:
            self.register_parameter("bias", None)

    def check(self) -> None:
        """Refuse to train.

        Raises:
            RuntimeError: gradients are being recorded.
        """
        if torch.is_grad_enabled() and self.weight.requires_grad:
            raise RuntimeError("The native engine only infers: use torch.inference_mode, or spconv to train.")

    def matrices(self) -> torch.Tensor:
        """Return the weight as (kernel volume, in_channels, out_channels)."""
        return self.weight.reshape(self.out_channels, -1, self.in_channels).permute(1, 2, 0)

    def multiply(self, features: torch.Tensor, blocks: Sequence[kernel_map.Block], rows: int) -> torch.Tensor:
        """Multiply every pair's input by its offset's matrix and add up each output row's products.

        Args:
            features: (M, in_channels).
            blocks: the pairs; block after block makes the output's rows.
            rows: number of output rows.

        Returns:
            (rows, out_channels), bias included.
        """
        matrices = self.matrices().unbind()
        y = features.new_empty(rows, self.out_channels)
        targets = y.split(blocks[0].starts.shape[0]) if blocks else ()

        def run(work: Sequence[tuple[torch.Tensor, kernel_map.Block]]) -> None:
            longest = max(len(block.source) for _, block in work)
            gathered = features.new_empty(longest, self.in_channels)
            products = features.new_empty(longest, self.out_channels)
            for target, block in work:
                pairs = len(block.source)
                torch.index_select(features, 0, block.source, out=gathered[:pairs])
                inputs, outputs = gathered[:pairs].split(block.sizes), products[:pairs].split(block.sizes)
                for size, matrix, input_rows, output_rows in zip(block.sizes, matrices, inputs, outputs, strict=True):
                    if size:
                        torch.mm(input_rows, matrix, out=output_rows)
                total = nn.functional.embedding_bag(block.order, products[:pairs], block.starts, mode="sum")
                if self.bias is None:
                    target.copy_(total)
                else:
                    torch.add(total, self.bias, out=target)

        self.team.run(run, list(zip(targets, blocks, strict=True)))
        return y

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, key={self.indice_key!r}"


class SubMConv3d(_Convolution):
    """Submanifold convolution, centred, stride 1."""

    def __init__(
        self, team: Team, in_channels: int, out_channels: int, kernel_size: int, bias: bool, indice_key: str | None
    ) -> None:
        if kernel_size % 2 != 1:
            raise ValueError(f"A submanifold convolution needs an odd kernel, not {kernel_size}.")
        super().__init__(team, in_channels, out_channels, kernel_size, bias, indice_key)

    def forward(self, x: NativeTensor) -> NativeTensor:
        self.check()
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
        narrow = self.in_channels <= _NARROW
        y = self._by_cell(x.features, found) if narrow else self.multiply(x.features, found.blocks, len(x.features))
        return x.replace_feature(y)

    def _by_cell(self, features: torch.Tensor, found: kernel_map.Neighbours) -> torch.Tensor:
        """Multiply whole neighbourhoods, empty cells included: best where a neighbour is only a few numbers."""
        matrix = self.matrices().reshape(-1, self.out_channels)
        padded = torch.cat([features, features.new_zeros(1, self.in_channels)])
        y = features.new_empty(len(features), self.out_channels)

        def run(work: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
            for target, table in work:
                around = padded.index_select(0, table.t().reshape(-1)).view(len(target), -1)
                if self.bias is None:
                    torch.mm(around, matrix, out=target)
                else:
                    torch.addmm(self.bias, around, matrix, out=target)

        length = kernel_map.block_rows(features.device)
        self.team.run(run, list(zip(y.split(length), found.table.split(length, dim=1), strict=True)))
        return y


class SparseConv3d(_Convolution):
    """Strided convolution with stride = kernel_size and no padding."""

    def forward(self, x: NativeTensor) -> NativeTensor:
        self.check()
        windows = x.maps.get(self.indice_key) if self.indice_key is not None else None
        if windows is None:
            windows = kernel_map.window(x.indices, x.spatial_shape, self.kernel_size)
            if self.indice_key is not None:
                x.maps[self.indice_key] = windows
        y = self.multiply(x.features, windows.down, len(windows.indices))
        return NativeTensor(y, windows.indices, windows.spatial_shape, x.batch_size, x.maps)


class SparseInverseConv3d(_Convolution):
    """Back to the cells before the SparseConv3d with the same indice_key."""

    def forward(self, x: NativeTensor) -> NativeTensor:
        self.check()
        windows: kernel_map.Window = x.maps[str(self.indice_key)]
        y = self.multiply(x.features, windows.up, len(windows.fine_indices))
        return NativeTensor(y, windows.fine_indices, windows.fine_shape, x.batch_size, x.maps)


class NativeEngine:
    """The engine that needs nothing but torch; see `Engine` for its methods.

    Args:
        device: on a CPU the convolutions take as many threads as torch has at this moment.
    """

    name = "native"
    folds = True
    fuses = False
    narrows = False

    def __init__(self, device: torch.device) -> None:
        self.team = Team(torch.get_num_threads() if device.type == "cpu" else 1)

    def order(self, indices: torch.Tensor, spatial_shape: Sequence[int]) -> None:
        """Leave rows as they are; see `Engine.order`."""

    def tensor(
        self,
        features: torch.Tensor,
        indices: torch.Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        maps: dict[Any, Any] | None = None,
    ) -> NativeTensor:
        """Return a sparse tensor; see `Engine.tensor`."""
        return NativeTensor(features, indices, tuple(spatial_shape), batch_size, {} if maps is None else maps)

    def alone(self) -> AbstractContextManager[None]:
        """Stop torch's threads while the team works; see `Engine.alone`."""
        return self.team.alone()

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
        return SubMConv3d(self.team, in_channels, out_channels, kernel_size, bias, indice_key)

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
        return SparseConv3d(self.team, in_channels, out_channels, kernel_size, bias, indice_key)

    def inverse_conv(
        self, in_channels: int, out_channels: int, kernel_size: int, *, indice_key: str, bias: bool = False
    ) -> nn.Module:
        """Return the inverse of a strided convolution; see `Engine.inverse_conv`."""
        return SparseInverseConv3d(self.team, in_channels, out_channels, kernel_size, bias, indice_key)
