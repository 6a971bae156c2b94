"""The public functions, with Pointcept's signatures (its libs/pointops/functions).

All tensors of a call are contiguous and on one device; coordinates and features are float32, offsets int32 or int64,
indices int32 unless said otherwise. A wrong dtype raises TypeError, everything else that does not fit ValueError, from
inside the operator and naming the argument. A tensor that requires grad is refused: there is no backward here.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ops = torch.ops.pointops


def _centres(xyz: Tensor, offset: Tensor, new_xyz: Tensor | None, new_offset: Tensor | None) -> tuple[Tensor, Tensor]:
    if (new_xyz is None) != (new_offset is None):
        raise ValueError("new_xyz and new_offset must be given together, or neither for a query of the cloud itself")
    return (xyz, offset) if new_xyz is None or new_offset is None else (new_xyz, new_offset)


def knn_query(
    nsample: int, xyz: Tensor, offset: Tensor, new_xyz: Tensor | None = None, new_offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the nsample nearest points of the same cloud, exactly.

    xyz (n, 3), offset (b), new_xyz (m, 3), new_offset (b) -> idx (m, nsample) int32, dist (m, nsample) float32, not
    squared, ascending, equal distances by the lower index. Places that the cloud has no point for hold -1 and 1e5.
    Unlike Pointcept's, points farther apart than 1e5 are neighbours too.
    """
    return _ops.knn_query(nsample, xyz, offset, *_centres(xyz, offset, new_xyz, new_offset))


def ball_query(
    nsample: int,
    max_radius: float,
    min_radius: float,
    xyz: Tensor,
    offset: Tensor,
    new_xyz: Tensor | None = None,
    new_offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find up to nsample points with min_radius <= distance < max_radius; points within sqrt(1e-5) always count.

    Shapes as knn_query; ascending by distance, then index; free places hold -1 and 1e5. With more candidates than
    nsample, place i holds candidate int(i * candidates / nsample) of that order. Pointcept means the same, but its sort
    starts from something that is no heap, its distances past nsample are square roots of indices, and more than 2048
    candidates overrun its memory: compare the sets of neighbours only.
    """
    return _ops.ball_query(nsample, max_radius, min_radius, xyz, offset, *_centres(xyz, offset, new_xyz, new_offset))


def visiting_order(offset: Tensor, seed: int) -> Tensor:
    """Shuffle the rows of each cloud: (n) int32 on offset's device, for one seed the same on any."""
    counts = torch.diff(offset.cpu().long(), prepend=torch.zeros(1, dtype=torch.int64))
    cloud = torch.repeat_interleave(torch.arange(len(counts)), counts)
    chance = torch.rand(len(cloud), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.argsort(cloud + chance, stable=True).int().to(offset.device)


def random_ball_query(
    nsample: int,
    max_radius: float,
    min_radius: float,
    xyz: Tensor,
    offset: Tensor,
    new_xyz: Tensor | None = None,
    new_offset: Tensor | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Pick up to nsample points of the ball at random: the first of a shuffled order, the same for the same seed.

    Shapes, radii and free places as ball_query; neighbours stand in the order in which they were visited.
    """
    # Of an offset that does not fit there is no order; the operator says what is wrong with it.
    ends = offset.flatten().tolist()
    fits = offset.dim() == 1 and ends == sorted(ends) and ends[:1] >= [0] and ends[-1:] == [len(xyz)]
    order = visiting_order(offset, seed) if fits else torch.empty(0, dtype=torch.int32, device=offset.device)
    return _ops.random_ball_query(
        nsample, max_radius, min_radius, order, xyz, offset, *_centres(xyz, offset, new_xyz, new_offset)
    )


def farthest_point_sampling(xyz: Tensor, offset: Tensor, new_offset: Tensor) -> Tensor:
    """Sample each cloud, from its first point on, always taking the point farthest from those already taken.

    xyz (n, 3), offset (b), new_offset (b) cumulative counts of samples -> idx (new_offset[-1]) int32. Of equally far
    points the lowest index is taken (Pointcept: by thread number, and without a barrier before the winner is read).
    More samples than points repeat the first point. The same on every device.
    """
    return _ops.farthest_point_sampling(xyz, offset, new_offset)


def _single(feat: Tensor) -> Tensor:
    """Features as autocast leaves them, in float32."""
    return feat.float() if feat.dtype in (torch.float16, torch.bfloat16) else feat


def grouping(idx: Tensor, feat: Tensor, xyz: Tensor, new_xyz: Tensor | None = None, with_xyz: bool = False) -> Tensor:
    """Gather the features of neighbours, with their position relative to the centre in front if asked.

    idx (m, k), any integers, -1 for none; feat (n, c), xyz (n, 3), new_xyz (m, 3) -> (m, k, c) or (m, k, 3 + c); zeros
    where idx is -1. Features of half precision are taken too, and the result is float32, as in Pointcept.
    """
    if not with_xyz:
        return _ops.grouping(idx.int(), _single(feat), None, None)
    return _ops.grouping(idx.int(), _single(feat), xyz, xyz if new_xyz is None else new_xyz)


def grouping2(input: Tensor, idx: Tensor) -> Tensor:
    """Gather the features of neighbours: input (n, c), idx (m, k) -> (m, k, c), zeros where idx is -1."""
    return _ops.grouping(idx, input, None, None)


def interpolation(xyz: Tensor, new_xyz: Tensor, feat: Tensor, offset: Tensor, new_offset: Tensor, k: int = 3) -> Tensor:
    """Carry features to other points as the mean of the k nearest, weighted by 1 / (distance + 1e-8).

    xyz (n, 3), new_xyz (m, 3), feat (n, c) -> (m, c). Where a cloud has fewer than k points those that exist count
    (Pointcept reads the last row of feat for a missing one); zeros where it has none. Features of half precision are
    taken too, and the result is float32, as in Pointcept.
    """
    idx, dist = knn_query(k, xyz, offset, new_xyz, new_offset)
    return _ops.interpolation(_single(feat), idx, dist)


def interpolation2(
    xyz: Tensor, new_xyz: Tensor, input: Tensor, offset: Tensor, new_offset: Tensor, k: int = 3
) -> Tensor:
    """Carry features to other points: as interpolation."""
    return interpolation(xyz, new_xyz, input, offset, new_offset, k)


def subtraction(input1: Tensor, input2: Tensor, idx: Tensor) -> Tensor:
    """Subtract neighbours: input1 (n, c) - input2 (p, c) at idx (n, k) -> (n, k, c), zeros where idx is -1."""
    return _ops.subtraction(input1, input2, idx)


def aggregation(input: Tensor, position: Tensor, weight: Tensor, idx: Tensor) -> Tensor:
    """Sum (input[idx] + position) * weight over the neighbours, leaving out -1.

    input (p, c), position (n, k, c), weight (n, k, w) with channel a using a % w, idx (n, k) -> (n, c).
    """
    return _ops.aggregation(input, position, weight, idx)


def attention_relation_step(
    query: Tensor, key: Tensor, weight: Tensor, index_target: Tensor, index_refer: Tensor
) -> Tensor:
    """Scalar products of pairs: query (n, g, c), key (p, g, c), weight (c), index_* (m) any integers -> (m, g)."""
    return _ops.attention_relation_step(query, key, weight, index_target.int(), index_refer.int())


def attention_fusion_step(weight: Tensor, value: Tensor, index_target: Tensor, index_refer: Tensor) -> Tensor:
    """Sum weighted values by target: weight (m, g), value (n, g, c), index_* (m) any integers -> (n, g, c).

    Each target's pairs are summed in their order, so the result is the same every time (Pointcept: atomic additions).
    """
    return _ops.attention_fusion_step(weight, value, index_target.int(), index_refer.int())


def knn_query_and_group(
    feat: Tensor,
    xyz: Tensor,
    offset: Tensor | None = None,
    new_xyz: Tensor | None = None,
    new_offset: Tensor | None = None,
    idx: Tensor | None = None,
    nsample: int | None = None,
    with_xyz: bool = False,
) -> tuple[Tensor, Tensor]:
    """Group the nsample nearest, or the given idx: -> grouped (m, k, c) or (m, k, 3 + c), idx (m, k)."""
    if idx is None:
        if nsample is None or offset is None:
            raise ValueError("nsample and offset are needed where idx is not given")
        idx, _ = knn_query(nsample, xyz, offset, new_xyz, new_offset)
    return grouping(idx, feat, xyz, new_xyz, with_xyz), idx


def ball_query_and_group(
    feat: Tensor,
    xyz: Tensor,
    offset: Tensor | None = None,
    new_xyz: Tensor | None = None,
    new_offset: Tensor | None = None,
    idx: Tensor | None = None,
    max_radio: float | None = None,
    min_radio: float = 0,
    nsample: int | None = None,
    with_xyz: bool = False,
) -> tuple[Tensor, Tensor]:
    """Group the points of a ball, or the given idx: -> grouped (m, k, c) or (m, k, 3 + c), idx (m, k)."""
    if idx is None:
        if nsample is None or offset is None or max_radio is None:
            raise ValueError("nsample, offset and max_radio are needed where idx is not given")
        idx, _ = ball_query(nsample, max_radio, min_radio, xyz, offset, new_xyz, new_offset)
    return grouping(idx, feat, xyz, new_xyz, with_xyz), idx


def query_and_group(
    nsample: int,
    xyz: Tensor,
    new_xyz: Tensor | None,
    feat: Tensor,
    idx: Tensor | None,
    offset: Tensor | None,
    new_offset: Tensor | None,
    dilation: int = 0,
    with_feat: bool = True,
    with_xyz: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Group every (dilation + 1)-th of the nearest points; clouds too small for that use a smaller step.

    -> (grouped (m, nsample, [3 +] c), idx (m, nsample)), or idx alone without with_feat. Offsets are needed where there
    is no idx. A place that has no neighbour at all gives zeros (Pointcept: the last row of feat).
    """
    if idx is None:
        if offset is None:
            raise ValueError("offset is needed where idx is not given")
        if nsample < 1 or dilation < 0:
            raise ValueError(f"nsample must be at least 1 and dilation at least 0, they are {nsample} and {dilation}")
        idx = _dilated_knn(nsample, xyz, offset, *_centres(xyz, offset, new_xyz, new_offset), dilation)
    if not with_feat:
        return idx
    return grouping(idx, feat, xyz, new_xyz, with_xyz), idx


def _dilated_knn(
    nsample: int, xyz: Tensor, offset: Tensor, new_xyz: Tensor, new_offset: Tensor, dilation: int
) -> Tensor:
    total = 1 + (nsample - 1) * (dilation + 1)
    near, _ = knn_query(total, xyz, offset, new_xyz, new_offset)
    parts = []
    start = new_start = 0
    for end, new_end in zip(offset.tolist(), new_offset.tolist(), strict=True):
        fits = end - start >= total or nsample == 1
        # Less 1 and more 1, as Pointcept computes it: where that rounds below a whole number the place before is meant.
        step = (dilation if fits else (end - start - 1) / (nsample - 1) - 1) + 1
        parts.append(near[new_start:new_end, [int(step * i) for i in range(nsample)]])
        start, new_start = end, new_end
    return torch.cat(parts)


def _check_ascending(numbers: Tensor, name: str) -> None:
    if numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise TypeError(f"{name} must be of whole numbers, it is {numbers.dtype}")
    if numbers.dim() != 1:
        raise ValueError(f"{name} must have 1 dimension, it has shape {list(numbers.shape)}")
    steps = torch.diff(numbers, prepend=numbers.new_zeros(1))
    if (steps < 0).any():
        raise ValueError(f"{name} must not be negative or go down, as it does at place {int((steps < 0).nonzero()[0])}")


def offset2batch(offset: Tensor) -> Tensor:
    """Cumulative counts (b) -> the number of the cloud of every point, (n) int64."""
    _check_ascending(offset, "offset")
    counts = torch.diff(offset, prepend=offset.new_zeros(1))
    return torch.repeat_interleave(torch.arange(len(offset), device=offset.device), counts.long())


def batch2offset(batch: Tensor) -> Tensor:
    """The number of the cloud of every point, (n) ascending -> cumulative counts, (b) int32."""
    _check_ascending(batch, "batch")
    return torch.cumsum(batch.bincount(), dim=0).int()
