"""Shapes and dtypes of the operators' results, for torch.compile and torch.export."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.register_fake("pointgroup_ops::ballquery_batch_p")
def _(coords: Tensor, batch_idxs: Tensor, batch_offsets: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    neighbours = torch.library.get_ctx().new_dynamic_size()
    return batch_idxs.new_empty(neighbours), batch_idxs.new_empty(coords.shape[0], 2)


@torch.library.register_fake("pointgroup_ops::bfs_cluster")
def _(semantic_label: Tensor, ball_query_idxs: Tensor, start_len: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
    context = torch.library.get_ctx()
    points = context.new_dynamic_size()
    ends = context.new_dynamic_size()
    return semantic_label.new_empty(points, 2), semantic_label.new_empty(ends)
