"""Farthest points, step by step in torch, with either rounding and either rule for ties: why two results differ.

Ours rounds each step and takes the lowest of equally far points. Pointcept's kernel is compiled with fused multiply-add
unless nvcc is told otherwise (x is the fused one: mul y, fma x, fma z in nvcc's code), and among equally far points its
tree of 1024 threads, where point k is thread k % 1024's, keeps the one whose thread number, read with its lowest bit
first, is the least.
"""

from __future__ import annotations

import torch
from torch import Tensor

_THREAD_BITS = 10


def sample(xyz: Tensor, count: int, *, fused: bool, by_tree: bool) -> Tensor:
    """Return (count,) int32 farthest points of one cloud, from its first on.

    Args:
        xyz: (n, 3) float32.
        count: how many, at most n.
        fused: whether distances are rounded as fused multiply-adds round them.
        by_tree: Pointcept's choice among equally far points in the place of ours.
    """
    number = torch.arange(len(xyz), device=xyz.device)
    rank = _turned(number) * len(xyz) + number if by_tree else number
    near = torch.full((len(xyz),), torch.inf, device=xyz.device)
    picked = torch.zeros(count, dtype=torch.int64, device=xyz.device)
    for step in range(1, count):
        near = torch.minimum(near, _square(xyz - xyz[picked[step - 1]], fused=fused))
        picked[step] = torch.where(near == near.max(), rank, torch.iinfo(torch.int64).max).argmin()
    return picked.int()


def _turned(number: Tensor) -> Tensor:
    bits = [(number >> bit & 1) << (_THREAD_BITS - 1 - bit) for bit in range(_THREAD_BITS)]
    return torch.stack(bits).sum(dim=0)


def _square(away: Tensor, *, fused: bool) -> Tensor:
    x, y, z = away.unbind(1)
    if not fused:
        return x * x + y * y + z * z
    # A float64 holds the product of two float32 exactly, so that one rounding to float32 is left, as in a fused one.
    level = (x.double() * x.double() + (y * y).double()).float()
    return (z.double() * z.double() + level.double()).float()
