"""Batch norms and ReLUs folded into the convolutions before them: at inference a norm is a scale and a shift."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def fold(convolution: nn.Module, norm: nn.Module) -> None:
    """Give a sparse convolution, of either engine, the norm's scale and shift as its own weight and bias.

    Args:
        convolution: has `weight` (out, kx, ky, kz, in) and `bias` ((out,) or None); changed in place.
        norm: a batch norm with running statistics, which the caller then leaves out.
    """
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.affine:
        shift = shift + norm.bias
    weight, bias = convolution.weight, convolution.bias
    assert isinstance(weight, nn.Parameter)
    outputs = weight.shape[0]
    if weight[0].numel() == weight.shape[-1]:
        # The memory of a 1x1x1 weight is an (in, out) matrix, whatever its shape says.
        weight.copy_((weight.view(-1, outputs) * scale).view_as(weight))
    else:
        weight.mul_(scale.view(-1, 1, 1, 1, 1))
    if isinstance(bias, nn.Parameter):
        shift = shift + bias * scale
    convolution.bias = nn.Parameter(shift)


def fold_relu(convolution: nn.Module) -> None:
    """Have a convolution of an engine that fuses take the ReLU of its result in the same pass; see `Engine.fuses`."""
    assert hasattr(convolution, "relu")
    convolution.relu = True  # type: ignore[assignment]
