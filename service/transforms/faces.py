"""Flat faces of voxels: planes that grow from their flattest spots, and which of them meet.

Growing planes after Poppinga, Vaskevicius, Birk and Pathak, "Fast plane detection and polygonalization in noisy 3D
range images", IROS 2008, over the occupied cells of a grid in the place of an image's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_REACH = 3
"""Cells around a cell whose means make its normal."""
_STEP = 2
"""Cells that a face grows by at a time: sensors lose points in lines."""
_TOLERANCE_M = 0.006
_LEAST_CELLS = 10
_COSINE = 0.6
"""Least cosine between a cell's normal and the plane's: at edges the normals are blends."""


@dataclass(frozen=True)
class Faces:
    """Flat faces of a cloud of n cells.

    Attributes:
        coord: (n, 3) metres, the cells' points.
        face: (n,) int64, which face each cell is of; -1: none.
        center: (k, 3) metres, the mean of each face's cells.
        normal: (k, 3) of length 1, either way.
        pairs: (p, 2) int64 neighbouring cells, each pair once.
    """

    coord: Floats
    face: Rows
    center: Floats
    normal: Floats
    pairs: Rows

    def __len__(self) -> int:
        return len(self.center)


def find(coord: Floats, cells: Rows, cell_m: float) -> Faces:
    """Return the flat faces.

    Args:
        coord: (n, 3) metres, one a cell.
        cells: (n, 3) cells of a grid, each once.
        cell_m: the cells' edge.
    """
    pairs = neighbours(cells, _REACH)
    normal, rough, noise = _normals(coord, pairs)
    apart = (cells[pairs[:, 0]] - cells[pairs[:, 1]]).astype(np.int64)
    near = pairs[(apart**2).sum(axis=1) <= _STEP**2 + 1]
    first, other = _lists(near, len(coord))
    tolerance = max(_TOLERANCE_M, 0.5 * cell_m, 2.5 * noise)
    face = np.full(len(coord), -1, dtype=np.int64)
    tried = np.zeros(len(coord), dtype=bool)
    centers: list[Floats] = []
    normals: list[Floats] = []
    for seed in np.argsort(rough, kind="stable").tolist():
        if face[seed] >= 0 or tried[seed]:
            continue
        members, middle, up = _grow(seed, coord, normal, face, first, other, tolerance)
        if len(members) < _LEAST_CELLS:
            tried[members] = True
            continue
        face[members] = len(centers)
        centers.append(middle)
        normals.append(up)
    return Faces(coord, face, np.reshape(centers, (-1, 3)), np.reshape(normals, (-1, 3)), pairs)


def neighbours(cells: Rows, reach: int) -> Rows:
    """Return the pairs (p, 2) of cells (n, 3) no further than `reach` cells from each other, each pair once."""
    cells = cells - cells.min(axis=0) + reach
    width = cells.max(axis=0) + reach + 1
    key = (cells[:, 0] * width[1] + cells[:, 1]) * width[2] + cells[:, 2]
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    span = np.arange(-reach, reach + 1)
    steps = np.stack(np.meshgrid(span, span, span, indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = (steps[:, 0] * width[1] + steps[:, 1]) * width[2] + steps[:, 2]
    wanted = ((steps**2).sum(axis=1) <= reach**2) & (offsets > 0)
    found = []
    for offset in offsets[wanted].tolist():
        place = np.searchsorted(ordered, ordered + offset)
        place[place == len(ordered)] = 0
        there = ordered[place] == ordered + offset
        found.append(np.stack([order[there], order[place[there]]], axis=1))
    return np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)


def _normals(coord: Floats, pairs: Rows) -> tuple[Floats, Floats, float]:
    """Return each cell's normal (n, 3), how far it is from flat (n,), 0 to 1/3, and the noise across faces, metres."""
    count = len(coord)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    own, away = both[:, 0], coord[both[:, 1]] - coord[both[:, 0]]
    number = np.bincount(own, minlength=count) + 1.0
    mean = np.stack([np.bincount(own, away[:, i], count) for i in range(3)], axis=1) / number[:, None]
    spread = np.empty((count, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            moment = np.bincount(own, away[:, i] * away[:, j], count) / number - mean[:, i] * mean[:, j]
            spread[:, i, j] = spread[:, j, i] = moment
    values, vectors = np.linalg.eigh(spread)
    values = values.clip(min=0)
    rough = values[:, 0] / values.sum(axis=1).clip(min=1e-12)
    rough[number < 6] = 1 / 3
    flat = values[number >= 6, 0]
    return vectors[:, :, 0], rough, float(np.sqrt(np.median(flat))) if len(flat) else 0.0


def _lists(pairs: Rows, count: int) -> tuple[Rows, Rows]:
    """Return where each cell's neighbours begin (count + 1,), and the neighbours one after another."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    return np.searchsorted(both[:, 0], np.arange(count + 1)), np.ascontiguousarray(both[:, 1])


def _grow(
    seed: int, coord: Floats, normal: Floats, face: Rows, first: Rows, other: Rows, tolerance: float
) -> tuple[Rows, Floats, Floats]:
    """Return the cells of the plane that grows from a seed, their mean (3,) and the plane's normal (3,)."""
    inside = np.zeros(len(coord), dtype=bool)
    inside[seed] = True
    members = front = np.array([seed])
    middle, up, fitted = coord[seed], normal[seed], 1
    while len(front):
        begin, end = first[front], first[front + 1]
        size = end - begin
        at = np.repeat(begin - np.concatenate([[0], size.cumsum()[:-1]]), size) + np.arange(size.sum())
        fresh = np.unique(other[at])
        fresh = fresh[~inside[fresh] & (face[fresh] < 0)]
        fits = np.abs((coord[fresh] - middle) @ up) < tolerance
        front = fresh[fits & (np.abs(normal[fresh] @ up) > _COSINE)]
        inside[front] = True
        members = np.concatenate([members, front])
        if len(members) >= 1.3 * fitted and len(members) >= 6:
            middle, up = plane(coord[members])
            fitted = len(members)
    return members, *plane(coord[members])


def plane(coord: Floats) -> tuple[Floats, Floats]:
    """Return the mean (3,) of points (n, 3) and the normal (3,) of the plane of least squares through them."""
    middle = coord.mean(axis=0)
    away = coord - middle
    return middle, np.linalg.eigh(away.T @ away)[1][:, 0]
