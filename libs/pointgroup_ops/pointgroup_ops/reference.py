"""The operators once more, slow and obviously right: what the tests compare the kernels with."""

from __future__ import annotations

import torch
from torch import Tensor


def ballquery_batch_p(
    coords: Tensor, batch_idxs: Tensor, batch_offsets: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    """Every pair tested: float32 squares summed in the order x, y, z, strictly below the square of the radius."""
    difference = coords[:, None] - coords[None]
    square = difference * difference
    d2 = (square[..., 0] + square[..., 1]) + square[..., 2]
    near = (d2 < torch.tensor(radius, dtype=torch.float32) ** 2) & (batch_idxs[:, None] == batch_idxs[None])
    counts = near.sum(1)
    start_len = torch.stack((torch.cumsum(counts, 0) - counts, counts), 1).int()
    return near.nonzero()[:, 1].int(), start_len


def bfs_cluster(
    semantic_label: Tensor, ball_query_idxs: Tensor, start_len: Tensor, threshold: int
) -> tuple[Tensor, Tensor]:
    """Lists made symmetric, then a search from each point not yet reached."""
    n = len(semantic_label)
    label, flat = semantic_label.tolist(), ball_query_idxs.tolist()
    linked: list[set[int]] = [set() for _ in range(n)]
    for i, (start, length) in enumerate(start_len.tolist()):
        for j in flat[start : start + length]:
            if label[i] == label[j]:
                linked[i].add(j)
                linked[j].add(i)
    reached = [False] * n
    rows: list[list[int]] = []
    ends = [0]
    for i in range(n):
        if reached[i]:
            continue
        reached[i], found, waiting = True, [i], [i]
        while waiting:
            for j in linked[waiting.pop()]:
                if not reached[j]:
                    reached[j] = True
                    found.append(j)
                    waiting.append(j)
        if len(found) >= threshold:
            rows += [[len(ends) - 1, j] for j in sorted(found)]
            ends.append(len(rows))
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, 2), torch.tensor(ends, dtype=torch.int32)
