"""Random clouds as batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from service.models.batch import Batch


def cloud(voxels: int, extent: int, channels: int, seed: int) -> Batch:
    """Return about so many distinct cells of a cube of `extent` cells, each with random features, in random order.

    Never more than the cube has, and the cells start at 0 along each axis.
    """
    random = torch.Generator().manual_seed(seed)
    cells = torch.unique(torch.randint(0, extent, (voxels, 3), generator=random), dim=0)
    cells = cells[torch.randperm(len(cells), generator=random)]
    cells = (cells - cells.amin(dim=0)).int()
    feat = torch.randn(len(cells), channels, generator=random)
    return Batch(cells * 0.02 + 0.01, cells, feat, torch.tensor([len(cells)]))


def together(batches: Sequence[Batch]) -> Batch:
    """Return one batch of all clouds of several."""
    rows = [torch.cat([getattr(batch, name) for batch in batches]) for name in ("coord", "grid_coord", "feat")]
    offset = torch.tensor([len(batch.coord) for batch in batches]).cumsum(dim=0)
    return Batch(rows[0], rows[1], rows[2], offset, condition=batches[0].condition)
