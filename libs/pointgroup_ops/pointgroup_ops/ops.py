"""The public functions, with Pointcept's signatures (its libs/pointgroup_ops/functions).

All tensors of a call are contiguous and on one device. A wrong dtype raises TypeError, everything else that does not
fit ValueError, from inside the operator and naming the argument. There is no backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ops = torch.ops.pointgroup_ops


def ballquery_batch_p(
    coords: Tensor,
    batch_idxs: Tensor,
    batch_offsets: Tensor,
    radius: float,
    meanActive: int,  # noqa: N803
) -> tuple[Tensor, Tensor]:
    """List every point's neighbours nearer than radius, in its own cloud, itself included.

    coords (n, 3) float32, batch_idxs (n) int32, batch_offsets (b + 1) int32 from 0 to n -> idx (total) int32: the lists
    one after another in order of the points, each ascending; start_len (n, 2) int32: where a list starts, how long it
    is. Pointcept keeps 1000 neighbours a point and orders the lists by chance; here nothing is dropped. More than
    2**31 - 1 neighbours in all raise ValueError. meanActive, its guess at the mean length, is not needed.
    """
    return _ops.ballquery_batch_p(coords, batch_idxs, batch_offsets, radius)


def bfs_cluster(
    semantic_label: Tensor, ball_query_idxs: Tensor, start_len: Tensor, threshold: int
) -> tuple[Tensor, Tensor]:
    """Cluster points of one label that are connected through their neighbours; keep clusters of threshold points up.

    semantic_label (n) int32, ball_query_idxs (total) int32, start_len (n, 2) int32 -> cluster_idxs (points, 2) int32:
    cluster, point; cluster_offsets (clusters + 1) int32. Clusters in order of their lowest point (as in Pointcept),
    points ascending within one (there: as the search met them). A neighbour counts in both directions.
    """
    return _ops.bfs_cluster(semantic_label, ball_query_idxs, start_len, threshold)
