"""What a network asks of a sparse convolution engine, and the choice of one."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from torch import nn

EngineName = Literal["auto", "spconv", "native"]


class SparseTensor(Protocol):
    """Features on the occupied cells of a grid, with the kernel maps that were already computed for them."""

    @property
    def features(self) -> torch.Tensor:
        """(M, C) float."""

    def replace_feature(self, features: torch.Tensor) -> Any:
        """Return the same cells, and the same kernel maps, with other features."""


class Engine(Protocol):
    """Makes sparse tensors and the layers that convolve them.

    Weights are float tensors (out_channels, kx, ky, kz, in_channels), spconv's KRSC layout; kernels are
    cross-correlations in (x, y, z) order. Layers with the same `indice_key` share their kernel map.
    """

    name: str
    folds: bool
    """Whether its layers take a bias on this device, so that batch norms can be folded into them."""
    fuses: bool
    """Whether its layers have an attribute `relu` and take a `residual`: the end of a block in the same pass."""
    narrows: bool
    """Whether its layers have an attribute `narrow`, and are faster on this machine with products in bfloat16."""

    def order(self, indices: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor | None:
        """Return the (M,) int64 order of rows in which the convolutions are fastest; None: any is as good as another.

        Args:
            indices: (M, 4) int32 rows of (cloud, x, y, z); each row once.
            spatial_shape: extent of the grid in cells along x, y, z.
        """

    def tensor(
        self,
        features: torch.Tensor,
        indices: torch.Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        maps: dict[Any, Any] | None = None,
    ) -> SparseTensor:
        """Return a sparse tensor.

        Args:
            features: (M, C) float.
            indices: (M, 4) int32 rows of (cloud, x, y, z); each row once; 0 <= x < spatial_shape[0] and so on.
            spatial_shape: extent of the grid in cells along x, y, z.
            batch_size: number of clouds.
            maps: where the kernel maps are kept, empty at first; with another tensor of the very same `indices` it
                saves making them again. It belongs to one network: others may use the same keys.
        """

    def alone(self) -> AbstractContextManager[None]:
        """Return the context in which a forward shall run: an engine with threads of its own stops torch's there."""

    def subm_conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = False,
        indice_key: str | None = None,
    ) -> nn.Module:
        """Return a submanifold convolution: stride 1, centred odd kernel, the cells of its output are its input's."""

    def down_conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = False,
        indice_key: str | None = None,
    ) -> nn.Module:
        """Return a strided convolution with stride = kernel_size and no padding."""

    def inverse_conv(
        self, in_channels: int, out_channels: int, kernel_size: int, *, indice_key: str, bias: bool = False
    ) -> nn.Module:
        """Return the layer that goes back to the cells before the `down_conv` of the same `indice_key`."""


class Sequential(nn.Sequential):
    """Modules one after another, some on the sparse tensor and some (norms, activations) on its features alone."""

    def forward(self, x: Any) -> Any:
        for module in self:
            if isinstance(module, (nn.BatchNorm1d, nn.ReLU, nn.Identity)):
                x = x.replace_feature(module(x.features))
            else:
                x = module(x)
        return x


def engine(name: EngineName, device: torch.device) -> Engine:
    """Return the engine of that name for the device; auto is spconv on CUDA where it is installed, else native.

    native is libs/sparseconv where it is built and serves the device, else plain torch.

    Raises:
        ValueError: the name is not one of auto, spconv, native.
        ImportError: spconv was asked for and cannot be imported.
    """
    if name not in ("auto", "spconv", "native"):
        raise ValueError(f"The sparse convolution engine {name!r} is unknown: use auto, spconv or native.")
    if name == "auto":
        name = "spconv" if device.type == "cuda" and importlib.util.find_spec("spconv") is not None else "native"
    if name == "spconv":
        from service.models.layers.spconv import SpconvEngine

        return SpconvEngine(device)
    return _native(device)


def _native(device: torch.device) -> Engine:
    """Return the compiled engine where libs/sparseconv serves the device, else the one in plain torch."""
    from service.models.layers.native import NativeEngine

    try:
        from service.models.layers.compiled import CompiledEngine
    except ImportError as reason:
        if device.type == "cpu":
            message = f"libs/sparseconv is not built ({reason}): sparse convolutions run in plain torch, more slowly."
            warnings.warn(message, stacklevel=3)
        return NativeEngine(device)
    return CompiledEngine() if CompiledEngine.serves(device) else NativeEngine(device)
