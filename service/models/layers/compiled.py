"""Sparse convolution by the project's own library libs/sparseconv. Forward only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import sparseconv
import torch
from torch import nn


class CompiledEngine:
    """The engine whose operators are compiled for this machine; see `Engine` for its methods.

    Raises:
        ImportError: libs/sparseconv is not built for this Python, or not installed.
    """

    name = "native"
    folds = True
    fuses = True
    narrows = sparseconv.multiplies_bfloat16()

    @staticmethod
    def serves(device: torch.device) -> bool:
        """Return whether the library has kernels for the device."""
        return torch._C._dispatch_has_kernel_for_dispatch_key("sparseconv::conv", device.type.upper())

    def order(self, indices: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor:
        """Return the order of the space-filling curve; see `Engine.order`."""
        return sparseconv.sort_cells(indices, spatial_shape).order.long()

    def tensor(
        self,
        features: torch.Tensor,
        indices: torch.Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        maps: dict[Any, Any] | None = None,
    ) -> sparseconv.SparseTensor:
        """Return a sparse tensor; see `Engine.tensor`."""
        shape = cast(tuple[int, int, int], tuple(spatial_shape))
        kept = {} if maps is None else maps
        return sparseconv.SparseTensor(features.contiguous(), indices.contiguous(), shape, batch_size, kept)

    def alone(self) -> AbstractContextManager[None]:
        """Change nothing: the operators use torch's own threads, once a convolution; see `Engine.alone`."""
        return nullcontext()

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
        return sparseconv.SubMConv3d(in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key)

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
        return sparseconv.SparseConv3d(
            in_channels, out_channels, kernel_size, stride=kernel_size, bias=bias, indice_key=indice_key
        )

    def inverse_conv(
        self, in_channels: int, out_channels: int, kernel_size: int, *, indice_key: str, bias: bool = False
    ) -> nn.Module:
        """Return the inverse of a strided convolution; see `Engine.inverse_conv`."""
        return sparseconv.SparseInverseConv3d(in_channels, out_channels, kernel_size, indice_key=indice_key, bias=bias)
