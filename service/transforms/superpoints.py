"""Superpoints: small patches of surface, of which some networks say what object they are of.

Those of the user's file where it has them. Else the cloud is cut as ScanNet cuts its meshes: neighbours are joined, the
most alike first, while they differ no more than the patches that they are of do inside (Felzenszwalb and Huttenlocher,
"Efficient graph-based image segmentation", IJCV 2004). A mesh's edges are neighbouring cells here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.transforms import faces, grid
from service.transforms.features import Voxels
from service.transforms.points import Points
from service.values import PointCloud

MOST = 16_384
"""Superpoints that a network looks at together; each looks at each other one."""
_TIGHT = 0.01
"""How far patches may differ, less for larger ones: of ScanNet's segmentation."""
_LEAST_CELLS = 20
"""Smaller patches are joined to what they touch, as there."""
_CLOSED = 2.0
"""Pairs of touching cells to a cell from which on they are taken for a surface; a closed one has about four."""
_COARSEST = 32
"""Times the voxel's edge, for clouds that are sparse everywhere."""
_TOUCHING = 3
"""Squared distance, in cells, of cells that touch."""

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


def of(
    cloud: PointCloud,
    part: Points,
    cells: grid.Grid,
    voxels: Voxels,
    normal: Callable[[], torch.Tensor],
    warnings: list[str],
) -> torch.Tensor:
    """Return the superpoint (M,) int64 of each voxel, from 0 on and none left out.

    Args:
        cloud: N points. part: those that are valid.
        cells: their voxels. voxels: what stands for these.
        normal: makes (M, 3) normals of the voxels, where they have none.
        warnings: a sentence is added where the superpoints had to be made.

    Raises:
        UnusableCloud: the cloud's superpoints are no whole numbers, or more than MOST.
    """
    device = part.coord.device
    if cloud.superpoint is not None:
        rows = grid.nearest(part.coord, cells).cpu().numpy()
        return _given(cloud.superpoint if part.valid is None else cloud.superpoint[part.valid], rows).to(device)
    warnings.append(
        "The cloud has no field superpoint, which the model reads: superpoints were made of neighbouring points whose "
        "normals are alike; those of training are of a mesh."
    )
    if len(voxels) < 3:
        return torch.zeros(len(voxels), dtype=torch.int64, device=device)
    up = normal() if voxels.normal is None else voxels.normal
    found = segment(voxels.coord.cpu().numpy(), up.cpu().numpy(), voxels.grid_coord.cpu().numpy())
    return torch.from_numpy(found).to(device)


def _given(values: NDArray[np.generic], rows: Rows) -> torch.Tensor:
    """Return what a file says of the points that stand for the voxels."""
    wrong = np.flatnonzero(values != np.floor(values)) if values.dtype.kind == "f" else np.zeros(0, np.int64)
    if len(wrong):
        raise UnusableCloud(
            f"The field superpoint holds {values[wrong[0]]}, first at valid point {wrong[0]}; it must hold a whole "
            "number for each point."
        )
    number, own = np.unique(values[rows], return_inverse=True)
    if len(number) > MOST:
        raise UnusableCloud(
            f"The field superpoint tells {len(number)} patches of {len(rows)} voxels apart; a model takes at most "
            f"{MOST}. Without the field, superpoints are made of the points."
        )
    return torch.from_numpy(own.ravel().astype(np.int64))


def segment(coord: NDArray[np.float64], normal: Floats, cells: NDArray[np.int32]) -> Rows:
    """Return the patch (m,) of each voxel, from 0 on.

    Where hardly any voxels touch, they are gathered in larger cells first, and so they are where there would be more
    patches than MOST.

    Args:
        coord: (m, 3) metres.
        normal: (m, 3) of length 1.
        cells: (m, 3) of the voxels, each once.
    """
    times = 1
    while True:
        number, own = _gathered(cells // times)
        middle, up = _mean(coord, own, len(number)), _mean(normal.astype(np.float64), own, len(number))
        up /= np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-12)
        pairs = faces.neighbours(number, 2)
        pairs = pairs[((number[pairs[:, 0]] - number[pairs[:, 1]]) ** 2).sum(axis=1) <= _TOUCHING]
        if len(pairs) >= _CLOSED * len(number) or times >= _COARSEST or len(number) == 1:
            found = join(pairs, unlikeness(middle, up, pairs), len(number))
            if int(found.max()) < MOST:
                return found[own]
        times *= 2


def _gathered(cells: NDArray[np.int32]) -> tuple[Rows, Rows]:
    """Return the distinct cells (k, 3) and which of them each row is in (m,)."""
    rows: Rows = cells.astype(np.int64) - cells.min(axis=0)
    width = rows.max(axis=0) + 1
    key = (rows[:, 0] * width[1] + rows[:, 1]) * width[2] + rows[:, 2]
    _, first, own = np.unique(key, return_index=True, return_inverse=True)
    return rows[first], own.ravel()


def _mean(values: NDArray[np.float64], own: Rows, count: int) -> NDArray[np.float64]:
    size = np.bincount(own, minlength=count)
    return np.stack([np.bincount(own, column, count) for column in values.T], axis=1) / size[:, None]


def unlikeness(coord: NDArray[np.float64], normal: NDArray[np.float64], pairs: Rows) -> Floats:
    """Return 1 - cosine (p,) of the normals of pairs (p, 2); its square where the surface bends outward there."""
    one, other = pairs.T
    differ = 1 - (normal[one] * normal[other]).sum(axis=1)
    outward = (normal[other] * (coord[other] - coord[one])).sum(axis=1) > 0
    return np.where(outward, differ**2, differ).astype(np.float32)


def join(pairs: Rows, differ: Floats, count: int, tight: float = _TIGHT, least: int = _LEAST_CELLS) -> Rows:
    """Return the patch (count,) of each node of a graph, from 0 on in the order of their first nodes.

    Args:
        pairs: (p, 2) nodes that touch. differ: (p,) how much.
        count: nodes.
        tight: a patch of n nodes takes what differs by no more than its largest difference inside and tight / n.
        least: smaller patches are joined to a neighbour, the most alike first.
    """
    order = np.argsort(differ, kind="stable")
    ones, others, weights = pairs[order, 0].tolist(), pairs[order, 1].tolist(), differ[order].tolist()
    parent, size, limit = list(range(count)), [1] * count, [tight] * count

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def unite(one: int, other: int) -> int:
        one, other = (one, other) if size[one] >= size[other] else (other, one)
        parent[other] = one
        size[one] += size[other]
        return one

    for left, right, weight in zip(ones, others, weights, strict=True):
        one, other = root(left), root(right)
        if one != other and weight <= limit[one] and weight <= limit[other]:
            one = unite(one, other)
            limit[one] = weight + tight / size[one]
    own = np.array([root(node) for node in range(count)])
    apart = own[pairs[order, 0]] != own[pairs[order, 1]]
    for left, right in pairs[order][apart].tolist():
        one, other = root(left), root(right)
        if one != other and (size[one] < least or size[other] < least):
            unite(one, other)
    _, first, own = np.unique([root(node) for node in range(count)], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[own.ravel()]
