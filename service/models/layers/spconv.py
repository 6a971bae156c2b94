"""Sparse convolution by the spconv library: the engine of CUDA devices, and of training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn


class _Kept(dict[str, Any]):
    """Kernel maps that stay: every layer of spconv copies its tensor's dict and adds its own map to the copy."""

    def copy(self) -> _Kept:
        """Return itself."""
        return self


@cache
def _down_conv() -> type[nn.Module]:
    """Return spconv's SparseConv3d, except that it uses the kernel map of its key where there is one.

    spconv's own does so in submanifold convolutions alone. The call is the one that stands in its `_conv_forward`.
    """
    import spconv.pytorch as library
    from spconv.pytorch import ops

    class DownConv(library.SparseConv3d):
        def forward(self, x: Any) -> Any:
            found = x.find_indice_pair(self.indice_key)
            if found is None:
                return super().forward(x)
            y, _, _ = ops.implicit_gemm(
                x.features.contiguous(),
                self.weight,
                found.pair_fwd,
                found.pair_mask_fwd_splits,
                found.mask_argsort_fwd_splits,
                len(found.out_indices),
                found.masks,
                False,
                False,
                x._timer,
                self.fp32_accum,
                self.bias,
                self.act_alpha,
                self.act_beta,
                self.act_type,
                output_dtype=self.weight.dtype,
            )
            out = x.replace_feature(y)
            out.indices, out.spatial_shape = found.out_indices, found.out_spatial_shape
            return out

    return DownConv


@cache
def _subm_conv_on_cpu() -> type[nn.Module]:
    """Return spconv's SubMConv3d, except that it adds a bias outside: on a CPU spconv refuses to."""
    import spconv.pytorch as library

    class SubMConv(library.SubMConv3d):
        def forward(self, x: Any) -> Any:
            y = self._conv_forward(self.training, x, self.weight, None, name=self.name)
            return y if self.bias is None else y.replace_feature(y.features + self.bias)

    return SubMConv


class SpconvEngine:
    """spconv's own modules. They train; on a CPU they only serve as an oracle (slow, and strided ones without bias).

    Raises:
        ImportError: spconv is not installed for this Python and CUDA.
    """

    name = "spconv"
    fuses = False
    narrows = False

    def __init__(self, device: torch.device) -> None:
        import spconv.pytorch as library
        from spconv.core import ConvAlgo

        self._library, self._down = library, _down_conv()
        self._subm = _subm_conv_on_cpu() if device.type == "cpu" else library.SubMConv3d
        # On the CPU spconv has the gather-scatter algorithm alone, and does not choose it by itself.
        self.folds = device.type != "cpu"
        self._algo = ConvAlgo.Native if device.type == "cpu" else None

    def order(self, indices: torch.Tensor, spatial_shape: Sequence[int]) -> None:
        """Leave rows as they are; see `Engine.order`."""

    def tensor(
        self,
        features: torch.Tensor,
        indices: torch.Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        maps: dict[Any, Any] | None = None,
    ) -> Any:
        """Return spconv's tensor; see `Engine.tensor`."""
        kept = None
        if maps is not None and features.is_cuda:
            kept = maps.setdefault("spconv", _Kept())
        return self._library.SparseConvTensor(
            features, indices.contiguous(), list(spatial_shape), batch_size, indice_dict=kept
        )

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
        return self._subm(in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key, algo=self._algo)

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
        return self._down(
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
