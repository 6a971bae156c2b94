"""The operators once more, slow and obviously right: what the tests compare the kernels with.

Distances are float32 sums of squares in the order x, y, z, each step rounded, as in the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _clouds(offset: Tensor) -> list[tuple[int, int]]:
    ends = offset.tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _square_distances(a: Tensor, b: Tensor) -> Tensor:
    d = a[:, None] - b[None]
    d = d * d
    return (d[..., 0] + d[..., 1]) + d[..., 2]


def _roots(d2: Tensor) -> Tensor:
    # By way of float64: torch's own float32 root may be off in the last bit.
    return d2.double().sqrt().float()


def knn_query(nsample: int, xyz: Tensor, offset: Tensor, new_xyz: Tensor, new_offset: Tensor) -> tuple[Tensor, Tensor]:
    """All distances, a stable sort, the first nsample."""
    idx = torch.full((len(new_xyz), nsample), -1, dtype=torch.int32)
    dist = torch.full((len(new_xyz), nsample), 1e5)
    for (start, end), (new_start, new_end) in zip(_clouds(offset), _clouds(new_offset), strict=True):
        d2, order = torch.sort(_square_distances(new_xyz[new_start:new_end], xyz[start:end]), stable=True)
        found = min(nsample, end - start)
        idx[new_start:new_end, :found] = (order[:, :found] + start).int()
        dist[new_start:new_end, :found] = _roots(d2[:, :found])
    return idx, dist


def _in_ball(d2: Tensor, max_radius: float, min_radius: float) -> Tensor:
    high, low = torch.tensor(max_radius) ** 2, torch.tensor(min_radius) ** 2
    return (d2 <= torch.tensor(1e-5)) | ((d2 >= low) & (d2 < high))


def ball_query(
    nsample: int,
    max_radius: float,
    min_radius: float,
    xyz: Tensor,
    offset: Tensor,
    new_xyz: Tensor,
    new_offset: Tensor,
) -> tuple[Tensor, Tensor]:
    """The candidates of each centre in order of distance, all of them or evenly spaced ones."""
    idx, _ = knn_query(max(1, len(xyz)), xyz, offset, new_xyz, new_offset)
    out_idx = torch.full((len(new_xyz), nsample), -1, dtype=torch.int32)
    out_dist = torch.full((len(new_xyz), nsample), 1e5)
    for row in range(len(new_xyz)):
        found = idx[row][idx[row] >= 0].long()
        d2 = _square_distances(new_xyz[row : row + 1], xyz[found])[0]
        inside = _in_ball(d2, max_radius, min_radius)
        found, d2 = found[inside], d2[inside]
        if len(found) > nsample:
            step = torch.tensor(float(len(found))) / nsample
            picked = (step * torch.arange(nsample)).long()
            found, d2 = found[picked], d2[picked]
        out_idx[row, : len(found)] = found.int()
        out_dist[row, : len(found)] = _roots(d2)
    return out_idx, out_dist


def random_ball_query(
    nsample: int,
    max_radius: float,
    min_radius: float,
    order: Tensor,
    xyz: Tensor,
    offset: Tensor,
    new_xyz: Tensor,
    new_offset: Tensor,
) -> tuple[Tensor, Tensor]:
    """Each centre's cloud in the given order, the first nsample candidates."""
    idx = torch.full((len(new_xyz), nsample), -1, dtype=torch.int32)
    dist = torch.full((len(new_xyz), nsample), 1e5)
    for (start, end), (new_start, new_end) in zip(_clouds(offset), _clouds(new_offset), strict=True):
        visited = order[start:end].long()
        d2 = _square_distances(new_xyz[new_start:new_end], xyz[visited])
        for row, inside in enumerate(_in_ball(d2, max_radius, min_radius)):
            found = inside.nonzero()[:nsample, 0]
            idx[new_start + row, : len(found)] = visited[found].int()
            dist[new_start + row, : len(found)] = _roots(d2[row, found])
    return idx, dist


def farthest_point_sampling(xyz: Tensor, offset: Tensor, new_offset: Tensor) -> Tensor:
    """The distance of every point to the samples, again for every sample; the first of the largest is next."""
    picked: list[int] = []
    for (start, end), (new_start, new_end) in zip(_clouds(offset), _clouds(new_offset), strict=True):
        near = torch.full((end - start,), torch.inf)
        now = 0
        for _ in range(new_end - new_start):
            picked.append(start + now)
            near = torch.minimum(near, _square_distances(xyz[start + now][None], xyz[start:end])[0])
            now = int((near == near.max()).nonzero()[0, 0])
    return torch.tensor(picked, dtype=torch.int32)


def grouping(idx: Tensor, feat: Tensor, xyz: Tensor | None, new_xyz: Tensor | None) -> Tensor:
    """Plain indexing, then zeros where idx is -1."""
    if len(feat) == 0:
        return feat.new_zeros(*idx.shape, feat.shape[1] + (0 if xyz is None else 3))
    at = idx.long().clamp(min=0)
    grouped = feat[at]
    if xyz is not None and new_xyz is not None:
        grouped = torch.cat((xyz[at] - new_xyz[:, None], grouped), -1)
    return torch.where((idx >= 0)[..., None], grouped, 0.0)


def interpolation(feat: Tensor, idx: Tensor, dist: Tensor) -> Tensor:
    """Weights of the neighbours that exist, normalised, times their features."""
    weight = torch.where(idx >= 0, 1.0 / (dist + 1e-8), 0.0)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-30)
    return (grouping(idx, feat, None, None) * weight[..., None]).sum(1)


def subtraction(input1: Tensor, input2: Tensor, idx: Tensor) -> Tensor:
    """Plain indexing, then zeros where idx is -1."""
    return torch.where((idx >= 0)[..., None], input1[:, None] - grouping(idx, input2, None, None), 0.0)


def aggregation(input: Tensor, position: Tensor, weight: Tensor, idx: Tensor) -> Tensor:
    """Weights repeated to all channels, then a sum over the neighbours that exist."""
    channels = torch.arange(input.shape[1]) % weight.shape[2]
    parts = (grouping(idx, input, None, None) + position) * weight[..., channels]
    return torch.where((idx >= 0)[..., None], parts, 0.0).sum(1)


def attention_relation_step(
    query: Tensor, key: Tensor, weight: Tensor, index_target: Tensor, index_refer: Tensor
) -> Tensor:
    """Pairs gathered, multiplied, summed over the channels."""
    return (query[index_target.long()] * key[index_refer.long()] * weight).sum(-1)


def attention_fusion_step(weight: Tensor, value: Tensor, index_target: Tensor, index_refer: Tensor) -> Tensor:
    """Pairs gathered, weighted, added to their targets."""
    parts = weight[..., None] * value[index_refer.long()]
    return torch.zeros_like(value).index_add_(0, index_target.long(), parts)
