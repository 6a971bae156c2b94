"""Clouds of a batch one by one, for networks whose result would depend on what else is in the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from service.models.batch import Batch
from service.models.layers.engine import Engine


def each_cloud(owner: object, batch: Batch, forward: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
    """Return the rows that `forward` makes of each cloud as a batch of its own, one cloud after another.

    Args:
        owner: of the forward; what a cloud's batch has made is kept under it for batches of the same cells.
        batch: of any number of clouds.
        forward: returns one row for each of a batch's rows.
    """
    clouds = batch.once((owner, "clouds"), lambda: _clouds(batch))
    rows = batch.feat.split([len(cloud.grid_coord) for cloud in clouds])
    parts = [
        forward(replace(cloud.with_features(cloud.coord, feat), condition=batch.condition, context=batch.context))
        for cloud, feat in zip(clouds, rows, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _clouds(batch: Batch) -> list[Batch]:
    sizes = batch.sizes
    rows = zip(*(part.split(sizes) for part in (batch.coord, batch.grid_coord, batch.feat)), strict=True)
    return [Batch(coord, grid_coord, feat, batch.offset.new_tensor([len(coord)])) for coord, grid_coord, feat in rows]


def tight_shape(grid_coord: torch.Tensor, stages: int) -> list[int]:
    """Return the extent of a grid that ends at the largest of (M, 3) cells, which a network halves `stages` times.

    With fewer cells along an axis than the coarsest of them spans, Pointcept fails unless a larger cloud in the batch
    lends its extent. Such a cloud gets a grid of multiples of half a coarsest cell, one whole at least, so that only
    the last level cuts.
    """
    extent: list[int] = [largest + 1 for largest in grid_coord.amax(dim=0).tolist()]
    coarsest = 2**stages
    if min(extent) >= coarsest:
        return extent
    half = coarsest // 2
    return [max(coarsest, -(-cells // half) * half) for cells in extent]


def ordered_cells(batch: Batch, engine: Engine, shape: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a batch's (M, 4) int32 cells (cloud, x, y, z) as an engine likes them, and the (M,) order, if any."""
    indices = torch.cat([batch.cloud.unsqueeze(1).int(), batch.grid_coord.int()], dim=1)
    order = engine.order(indices, shape)
    return (indices if order is None else indices[order]).contiguous(), order


def in_batch_order(rows: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """Return (M, C) rows that stand in the order of `ordered_cells` as the batch has them."""
    return rows if order is None else torch.empty_like(rows).index_copy_(0, order, rows)
