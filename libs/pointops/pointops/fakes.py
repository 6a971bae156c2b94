"""Shapes and dtypes of the operators' results, for torch.compile and torch.export."""

from __future__ import annotations

import torch
from torch import Tensor


def _queried(nsample: int, new_xyz: Tensor) -> tuple[Tensor, Tensor]:
    shape = (new_xyz.shape[0], nsample)
    return new_xyz.new_empty(shape, dtype=torch.int32), new_xyz.new_empty(shape)


@torch.library.register_fake("pointops::knn_query")
def _(nsample: int, xyz: Tensor, offset: Tensor, new_xyz: Tensor, new_offset: Tensor) -> tuple[Tensor, Tensor]:
    return _queried(nsample, new_xyz)


@torch.library.register_fake("pointops::ball_query")
def _(
    nsample: int,
    max_radius: float,
    min_radius: float,
    xyz: Tensor,
    offset: Tensor,
    new_xyz: Tensor,
    new_offset: Tensor,
) -> tuple[Tensor, Tensor]:
    return _queried(nsample, new_xyz)


@torch.library.register_fake("pointops::random_ball_query")
def _(
    nsample: int,
    max_radius: float,
    min_radius: float,
    order: Tensor,
    xyz: Tensor,
    offset: Tensor,
    new_xyz: Tensor,
    new_offset: Tensor,
) -> tuple[Tensor, Tensor]:
    return _queried(nsample, new_xyz)


@torch.library.register_fake("pointops::farthest_point_sampling")
def _(xyz: Tensor, offset: Tensor, new_offset: Tensor) -> Tensor:
    samples = torch.library.get_ctx().new_dynamic_size()
    return xyz.new_empty(samples, dtype=torch.int32)


@torch.library.register_fake("pointops::grouping")
def _(idx: Tensor, feat: Tensor, xyz: Tensor | None, new_xyz: Tensor | None) -> Tensor:
    return feat.new_empty(idx.shape[0], idx.shape[1], feat.shape[1] + (0 if xyz is None else 3))


@torch.library.register_fake("pointops::interpolation")
def _(feat: Tensor, idx: Tensor, dist: Tensor) -> Tensor:
    return feat.new_empty(idx.shape[0], feat.shape[1])


@torch.library.register_fake("pointops::subtraction")
def _(input1: Tensor, input2: Tensor, idx: Tensor) -> Tensor:
    return input1.new_empty(idx.shape[0], idx.shape[1], input1.shape[1])


@torch.library.register_fake("pointops::aggregation")
def _(input: Tensor, position: Tensor, weight: Tensor, idx: Tensor) -> Tensor:
    return input.new_empty(idx.shape[0], input.shape[1])


@torch.library.register_fake("pointops::attention_relation_step")
def _(query: Tensor, key: Tensor, weight: Tensor, index_target: Tensor, index_refer: Tensor) -> Tensor:
    return query.new_empty(index_target.shape[0], query.shape[1])


@torch.library.register_fake("pointops::attention_fusion_step")
def _(weight: Tensor, value: Tensor, index_target: Tensor, index_refer: Tensor) -> Tensor:
    return value.new_empty(value.shape)
