"""Ragged batches of awkward clouds for the tests."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor


def cloud(rng: np.random.Generator, points: int, kind: str) -> np.ndarray:
    """Rows of float32: scattered, on a lattice (ties), all one point, in two far lumps, or far from the origin."""
    scattered = rng.random((points, 3))
    if kind == "lattice":
        return rng.integers(0, 3, (points, 3)).astype(np.float32)
    if kind == "one point":
        return np.full((points, 3), 0.5, np.float32)
    if kind == "lumps":
        return (scattered * 0.01 + rng.integers(0, 2, (points, 1)) * 1e4).astype(np.float32)
    if kind == "far":
        return (scattered * 50 + [4.5e5, 5.4e6, 300]).astype(np.float32)
    return scattered.astype(np.float32)


KINDS = ["scattered", "lattice", "one point", "lumps", "far"]


@st.composite
def batches(draw: st.DrawFn, largest: int = 70) -> tuple[Tensor, Tensor, np.random.Generator]:
    """xyz (n, 3), offset (b), and a generator for whatever else is needed; clouds may be empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(0, largest), min_size=1, max_size=4))
    kinds = [draw(st.sampled_from(KINDS)) for _ in sizes]
    parts = [cloud(rng, size, kind) for size, kind in zip(sizes, kinds, strict=True)]
    xyz = torch.from_numpy(np.concatenate(parts).astype(np.float32))
    return xyz, torch.tensor(np.cumsum(sizes), dtype=torch.int32), rng


def centres(xyz: Tensor, offset: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Other query points near each cloud: some of its own, some moved, some copied."""
    parts, sizes = [torch.zeros(0, 3)], []
    start = 0
    for end in offset.tolist():
        count = int(rng.integers(0, 12)) if end > start else 0
        picked = xyz[start:end][torch.from_numpy(rng.integers(0, max(1, end - start), count))] if count else xyz[:0]
        moved = picked + torch.from_numpy(rng.normal(0, 0.3, picked.shape).astype(np.float32)) * (len(sizes) % 2)
        parts.append(moved)
        sizes.append(len(moved))
        start = end
    return torch.cat(parts).contiguous(), torch.tensor(np.cumsum(sizes), dtype=torch.int32)


def room(points: int, seed: int = 0) -> Tensor:
    """Floor, two walls, a table and clutter, as a scanner sees them: (points, 3) float32, metres."""
    rng = np.random.default_rng(seed)
    part, u, v, w = rng.integers(0, 5, points), *rng.random((3, points))
    x, y, z = u * 8, v * 6, w * 3
    x = np.where(part == 1, 0, np.where(part == 3, 2 + u, x))
    y = np.where(part == 2, 0, np.where(part == 3, 2 + v, y))
    z = np.where(part == 0, 0, np.where(part == 3, 0.8, z))
    xyz = np.stack((x, y, z), 1) + rng.normal(0, 0.003, (points, 3))
    return torch.from_numpy(xyz.astype(np.float32))
