"""What the operators return, without computing it: shapes, dtypes, devices. torch.compile and opcheck use them."""

from __future__ import annotations

import torch

import sparseconv._C  # noqa: F401  loading it registers the operators


def _rows() -> torch.SymInt:
    """Return a number of rows that only the values of the arguments tell."""
    size: torch.SymInt = torch.library.get_ctx().new_dynamic_size()
    return size


def _starts(like: torch.Tensor, rows: int | torch.SymInt, volume: int) -> torch.Tensor:
    return like.new_empty((rows + 255) // 256 * volume + 1, dtype=torch.int64)


def _volume(kernel_size: list[int]) -> int:
    x, y, z = kernel_size
    return x * y * z


@torch.library.register_fake("sparseconv::sort_cells")
def _(indices: torch.Tensor, spatial_shape: list[int]) -> tuple[torch.Tensor, ...]:
    count = indices.shape[0]
    return indices.new_empty(count, dtype=torch.int64), indices.new_empty(count, dtype=torch.int32)


@torch.library.register_fake("sparseconv::subm_map")
def _(
    keys: torch.Tensor, order: torch.Tensor, spatial_shape: list[int], kernel_size: list[int], dilation: list[int]
) -> tuple[torch.Tensor, ...]:
    pairs = _rows()
    return (
        _starts(keys, keys.shape[0], _volume(kernel_size)),
        keys.new_empty(pairs, dtype=torch.int32),
        keys.new_empty(pairs, dtype=torch.uint8),
    )


@torch.library.register_fake("sparseconv::down_map")
def _(
    keys: torch.Tensor,
    order: torch.Tensor,
    spatial_shape: list[int],
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[torch.Tensor, ...]:
    windows, pairs = _rows(), _rows()
    volume = _volume(kernel_size)
    return (
        keys.new_empty((windows, 4), dtype=torch.int32),
        keys.new_empty(windows, dtype=torch.int64),
        _starts(keys, windows, volume),
        keys.new_empty(pairs, dtype=torch.int32),
        keys.new_empty(pairs, dtype=torch.uint8),
        _starts(keys, keys.shape[0], volume),
        keys.new_empty(pairs, dtype=torch.int32),
        keys.new_empty(pairs, dtype=torch.uint8),
    )


@torch.library.register_fake("sparseconv::pack_weight")
def _(weight: torch.Tensor) -> torch.Tensor:
    outputs, x, y, z, inputs = weight.shape
    return weight.new_empty((x * y * z, (outputs + 15) // 16, inputs, 16))


@torch.library.register_fake("sparseconv::pack_weight_bfloat16")
def _(weight: torch.Tensor) -> torch.Tensor:
    outputs, x, y, z, inputs = weight.shape
    pairs = (inputs + 31) // 32 * 16
    return weight.new_empty((x * y * z, (outputs + 15) // 16, pairs, 16, 2), dtype=torch.bfloat16)


@torch.library.register_fake("sparseconv::conv")
def _(
    features: torch.Tensor,
    packed: torch.Tensor,
    out_channels: int,
    rows: torch.Tensor,
    starts: torch.Tensor,
    sources: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    relu: bool = False,
) -> torch.Tensor:
    return features.new_empty((rows.shape[0], out_channels))


@torch.library.register_fake("sparseconv::linear")
def _(
    features: torch.Tensor,
    packed: torch.Tensor,
    out_channels: int,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    relu: bool = False,
) -> torch.Tensor:
    return features.new_empty((features.shape[0], out_channels))
