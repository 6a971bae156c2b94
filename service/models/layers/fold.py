"""Layers folded into those before them: at inference a batch norm is a scale and a shift."""

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
    scale, shift = _scale_and_shift(norm)
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


@torch.no_grad()
def fold_linear(linear: nn.Module, norm: nn.Module) -> None:
    """Give a linear layer the scale and shift of the batch norm behind it, which the caller then leaves out."""
    assert isinstance(linear, nn.Linear)
    scale, shift = _scale_and_shift(norm)
    if linear.bias is not None:
        shift = shift + linear.bias * scale
    linear.weight.mul_(scale.unsqueeze(1))
    linear.bias = nn.Parameter(shift)


@torch.no_grad()
def fold_linear_after(convolution: nn.Module, linear: nn.Module) -> None:
    """Give a sparse convolution the linear layer behind it, which the caller then leaves out.

    Args:
        convolution: has `weight` (out, kx, ky, kz, in), of more than one cell, and `bias` ((out,) or None).
        linear: from out to as many channels.
    """
    assert isinstance(linear, nn.Linear)
    weight, bias = convolution.weight, convolution.bias
    assert isinstance(weight, nn.Parameter)
    weight.copy_((linear.weight @ weight.flatten(1)).view_as(weight))
    shift = torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias.clone()
    if isinstance(bias, nn.Parameter):
        shift += linear.weight @ bias
    convolution.bias = nn.Parameter(shift)


def _scale_and_shift(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a batch norm multiplies by and adds, (C,) each."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def fold_relu(convolution: nn.Module) -> None:
    """Have a convolution of an engine that fuses take the ReLU of its result in the same pass; see `Engine.fuses`."""
    assert hasattr(convolution, "relu")
    convolution.relu = True  # type: ignore[assignment]
