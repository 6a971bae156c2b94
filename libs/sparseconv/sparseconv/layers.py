"""Layers with spconv's names and weights, for inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

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
class _Submanifold:
    """What submanifold convolutions of one key share."""

    found: ops.KernelMap
    made_for: dict[str, Any]


@dataclass(frozen=True)
class _Strided:
    """What a strided convolution leaves for its inverse."""

    down: ops.Down
    made_for: dict[str, Any]
    fine_indices: torch.Tensor
    fine_shape: tuple[int, int, int]


Kept = TypeVar("Kept", _Submanifold, _Strided)


def _kept(layer: _Convolution, x: SparseTensor, kind: type[Kept], made_for: dict[str, Any]) -> Kept | None:
    """Return what is kept under the layer's key, if anything; ValueError where it was made for something else."""
    kept = x.maps.get(layer.indice_key) if layer.indice_key is not None else None
    if kept is None:
        return None
    if not isinstance(kept, kind):
        raise ValueError(f"indice_key {layer.indice_key!r} is already that of a convolution of another kind.")
    for name, value in made_for.items():
        if kept.made_for[name] != value:
            raise ValueError(
                f"indice_key {layer.indice_key!r} was first used with {name} {kept.made_for[name]}, here it is "
                f"{value}: layers share a key only if they are alike and on the same cells."
            )
    return kept


def _place(x: SparseTensor) -> dict[str, Any]:
    return {"spatial_shape": tuple(x.spatial_shape), "number of cells": len(x.indices)}


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
            if self._pointwise:
                # spconv reads the memory of this weight as (in, out), whatever its shape says; checkpoints rely on it.
                matrix = weight.view(self.in_channels, self.out_channels).t()
                weight = matrix.reshape(self.out_channels, 1, 1, 1, self.in_channels)
            self._packed, self._packed_from = ops.pack_weight(weight.contiguous(), self.narrow), now
        return self._packed

    _pointwise = False
    """Whether this is a product of every row by one matrix, which spconv reads transposed."""

    def _multiply(self, x: SparseTensor, residual: torch.Tensor | None) -> SparseTensor:
        y = ops.linear(x.features, self.packed(), self.out_channels, self.bias, residual, self.relu)
        return x.replace_feature(y)

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
        self._pointwise = math.prod(self.kernel_size) == 1

    def forward(self, x: SparseTensor, residual: torch.Tensor | None = None) -> SparseTensor:
        """Convolve, and in the same pass add a residual of the result's shape and take the ReLU, where asked for.

        Raises:
            ValueError: the indice_key is that of other cells, or of a layer with another kernel or dilation.
        """
        if self._pointwise:
            return self._multiply(x, residual)
        made_for = {"kernel_size": self.kernel_size, "dilation": self.dilation, **_place(x)}
        kept = _kept(self, x, _Submanifold, made_for)
        if kept is None:
            kept = _Submanifold(ops.subm_map(x.cells, self.kernel_size, self.dilation), made_for)
            if self.indice_key is not None:
                x.maps[self.indice_key] = kept
        return x.replace_feature(self._convolve(x.features, kept.found, residual))


class SparseConv3d(_Convolution):
    """Strided convolution: an output cell is there if any input cell lies in its window.

    Args:
        in_channels, out_channels, kernel_size, dilation, bias: see `SubMConv3d`; the kernel may be even.
        stride, padding: as in torch.nn.Conv3d; a kernel of 1x1x1 with stride 1 has no padding.
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
        self._pointwise = math.prod(self.kernel_size) == math.prod(self.stride) == 1
        if self._pointwise and any(self.padding):
            raise ValueError(f"A kernel of 1x1x1 with stride 1 takes no padding, not {padding}.")

    def forward(self, x: SparseTensor, residual: torch.Tensor | None = None) -> SparseTensor:
        """Convolve; see `SubMConv3d.forward`. Rows of the result are in the order of the curve.

        A kernel of 1x1x1 with stride 1 keeps the cells and their order, and no map, as spconv's does.
        """
        if self._pointwise:
            return self._multiply(x, residual)
        names = ("kernel_size", "stride", "padding", "dilation")
        sizes = {name: getattr(self, name) for name in names}
        made_for = {**sizes, **_place(x)}
        kept = _kept(self, x, _Strided, made_for)
        if kept is None:
            down = ops.down_map(x.cells, **sizes)
            kept = _Strided(down, made_for, x.indices, x.spatial_shape)
            if self.indice_key is not None:
                x.maps[self.indice_key] = kept
            x.maps["cells", id(down.indices)] = (down.indices, down.cells)
        y = self._convolve(x.features, kept.down.down, residual)
        return SparseTensor(y, kept.down.indices, kept.down.cells.spatial_shape, x.batch_size, x.maps)


class SparseInverseConv3d(_Convolution):
    """Back to the cells before the SparseConv3d with the same indice_key; its kernel, of more than one cell."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        indice_key: str,
        bias: bool = True,
    ) -> None:
        if math.prod(triple(kernel_size)) == 1:
            raise ValueError(
                "An inverse of 1x1x1 is not built: spconv takes it for a plain product and stays where it is."
            )
        super().__init__(in_channels, out_channels, kernel_size, bias, indice_key)

    def forward(self, x: SparseTensor, residual: torch.Tensor | None = None) -> SparseTensor:
        """Convolve; see `SubMConv3d.forward`.

        Raises:
            ValueError: no SparseConv3d of this indice_key and this kernel came before, or it led to other cells.
        """
        kept = x.maps.get(self.indice_key)
        if not isinstance(kept, _Strided) or kept.made_for["kernel_size"] != self.kernel_size:
            raise ValueError(
                f"indice_key {self.indice_key!r} names no strided convolution before this one "
                f"with kernel_size {self.kernel_size}."
            )
        led_to = {"spatial_shape": kept.down.cells.spatial_shape, "number of cells": len(kept.down.indices)}
        if led_to != _place(x):
            raise ValueError(f"indice_key {self.indice_key!r} leads back from {led_to}, not from {_place(x)}.")
        y = self._convolve(x.features, kept.down.up, residual)
        return SparseTensor(y, kept.fine_indices, kept.fine_shape, x.batch_size, x.maps)


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
    if convolution._pointwise:
        weight.copy_((weight.view(-1, convolution.out_channels) * scale).view_as(weight))
    else:
        weight.mul_(scale.view(-1, 1, 1, 1, 1))
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    convolution.bias = nn.Parameter(shift, requires_grad=weight.requires_grad)
