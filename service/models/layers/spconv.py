"""Sparse convolution by the spconv library: the engine of CUDA devices, and of training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


class SpconvEngine:
    """spconv's own modules. They train; on a CPU they only serve as an oracle (no bias, slow).

    Raises:
        ImportError: spconv is not installed for this Python and CUDA.
    """

    name = "spconv"
    fuses = False

    def __init__(self, device: torch.device) -> None:
        import spconv.pytorch as library
        from spconv.core import ConvAlgo

        self._library = library
        # On the CPU spconv has the gather-scatter algorithm alone, and does not choose it by itself.
        self.folds = device.type != "cpu"
        self._algo = ConvAlgo.Native if device.type == "cpu" else None

    def order(self, indices: torch.Tensor, spatial_shape: Sequence[int]) -> None:
        """Leave rows as they are; see `Engine.order`."""

    def tensor(
        self, features: torch.Tensor, indices: torch.Tensor, spatial_shape: Sequence[int], batch_size: int
    ) -> Any:
        """Return spconv's tensor; see `Engine.tensor`."""
        return self._library.SparseConvTensor(features, indices.contiguous(), list(spatial_shape), batch_size)

    def alone(self) -> AbstractContextManager[None]:
        """Change nothing; see `Engine.alone`."""
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
        """Return spconv's SubMConv3d; see `Engine.subm_conv`."""
        return self._library.SubMConv3d(
            in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key, algo=self._algo
        )

    def down_conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = False,
        indice_key: str | None = None,
    ) -> nn.Module:
        """Return spconv's SparseConv3d; see `Engine.down_conv`."""
        return self._library.SparseConv3d(
            in_channels,
            out_channels,
            kernel_size,
            stride=kernel_size,
            bias=bias,
            indice_key=indice_key,
            algo=self._algo,
        )

    def inverse_conv(
        self, in_channels: int, out_channels: int, kernel_size: int, *, indice_key: str, bias: bool = False
    ) -> nn.Module:
        """Return spconv's SparseInverseConv3d; see `Engine.inverse_conv`."""
        return self._library.SparseInverseConv3d(
            in_channels, out_channels, kernel_size, indice_key=indice_key, bias=bias, algo=self._algo
        )
