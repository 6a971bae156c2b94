"""Made-up rooms for the benchmarks: surfaces, as scanners see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SURFACES = ("floor", "ceiling", "wall", "top", "side")


@dataclass(frozen=True)
class Scan:
    """Points of a room with what a scanner says of them.

    Attributes:
        coord: (N, 3) float32 metres.
        color: (N, 3) uint8.
        normal: (N, 3) float32, length 1.
        segment: (N,) int64, places in SURFACES.
    """

    coord: NDArray[np.float32]
    color: NDArray[np.uint8]
    normal: NDArray[np.float32]
    segment: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Scan:
        """Return these points in this order."""
        return Scan(self.coord[rows], self.color[rows], self.normal[rows], self.segment[rows])


def scan(points: int, seed: int = 0, grid_size: float = 0.02) -> Scan:
    """Return so many points of the surfaces of a room with furniture, some two and a half to a cell of `grid_size`."""
    low, high, made = 0.05, 5.0, _furnished(1.0, seed, grid_size)
    for _ in range(16):
        scale = (low + high) / 2
        made = _furnished(scale, seed, grid_size)
        if points <= len(made.coord) < 1.03 * points:
            break
        low, high = (scale, high) if len(made.coord) < points else (low, scale)
    rows = np.random.default_rng(seed).permutation(len(made.coord))[:points]
    return Scan(made.coord[rows], made.color[rows], made.normal[rows], made.segment[rows])


def _furnished(scale: float, seed: int, grid_size: float) -> Scan:
    random = np.random.default_rng(seed)
    size = np.array([5.0 * scale, 4.0 * scale, 2.8 * min(1.0, 2 * scale)])
    boxes = [(np.zeros(3), size)]
    for _ in range(int(24 * scale * scale)):
        edges = random.uniform((0.3, 0.3, 0.2), (1.6, 0.9, 1.4))
        boxes.append((random.uniform((0, 0, 0), np.maximum(size - edges, 0.1)) * (1, 1, random.random() < 0.3), edges))
    parts = []
    for number, (corner, edges) in enumerate(boxes):
        for face, coord in enumerate(_faces(random, edges, grid_size)):
            axis, end = divmod(face, 2)
            normal = np.zeros(3)
            # A room is seen from inside, furniture from outside.
            normal[axis] = (1 if end == 0 else -1) * (1 if number == 0 else -1)
            segment = (3 if axis == 2 else 4) if number else (end if axis == 2 else 2)
            shade = random.uniform(60, 230, 3)
            parts.append((coord + corner, np.full(len(coord), segment), np.tile([*normal, *shade], (len(coord), 1))))
    coord, segments, rest = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    coord = coord + random.normal(0, 0.003, coord.shape)
    normal = rest[:, :3] + random.normal(0, 0.1, coord.shape)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    color = np.clip(rest[:, 3:] + random.normal(0, 12, coord.shape), 0, 255)
    patch = np.floor(coord / 0.35).astype(np.int64) @ np.array([73856093, 19349663, 83492791])
    seen = (patch % 97) % 4 != 0
    return Scan(
        coord[seen].astype(np.float32),
        color[seen].astype(np.uint8),
        normal[seen].astype(np.float32),
        segments[seen].astype(np.int64),
    )


def room(voxels: int, seed: int = 0, grid_size: float = 0.02) -> NDArray[np.int32]:
    """Return about so many cells of a room with furniture, scanned at `grid_size`, in random order.

    Floor, walls and ceiling, boxes (tables, shelves, cupboards) on the floor, a metre or less above each other, and
    a few millimetres of noise; a quarter of every surface is hidden, in patches. Each cell is there once.

    Returns:
        (M, 3) int32 cells from 0, M within 2 % of `voxels`.
    """
    cells = np.empty((0, 3), np.int32)
    low, high = 0.2, 5.0
    # The room's edge grows until its surfaces have as many cells as were asked for.
    for _ in range(12):
        scale = (low + high) / 2
        cells = _scan(scale, seed, grid_size)
        if abs(len(cells) - voxels) < 0.02 * voxels:
            break
        low, high = (scale, high) if len(cells) < voxels else (low, scale)
    return np.random.default_rng(seed).permutation(cells)


def _scan(scale: float, seed: int, grid_size: float) -> NDArray[np.int32]:
    random = np.random.default_rng(seed)
    size = np.array([5.0 * scale, 4.0 * scale, 2.8])
    parts = [_box(random, np.zeros(3), size, grid_size)]
    for _ in range(int(24 * scale * scale)):
        edges = random.uniform((0.3, 0.3, 0.2), (1.6, 0.9, 1.4))
        corner = random.uniform((0, 0, 0), np.maximum(size - edges, 0.1)) * (1, 1, random.random() < 0.3)
        parts.append(_box(random, corner, edges, grid_size))
    points = np.concatenate(parts)
    points += random.normal(0, 0.003, points.shape)
    patch = np.floor(points / 0.35).astype(np.int64) @ np.array([73856093, 19349663, 83492791])
    points = points[(patch % 97) % 4 != 0]
    cells = np.floor(points / grid_size).astype(np.int32)
    cells -= cells.min(axis=0)
    keys = np.unique((cells[:, 0].astype(np.int64) << 40) + (cells[:, 1].astype(np.int64) << 20) + cells[:, 2])
    return np.stack([keys >> 40, keys >> 20 & 0xFFFFF, keys & 0xFFFFF], axis=1).astype(np.int32)


def _box(
    random: np.random.Generator, corner: NDArray[np.float64], edges: NDArray[np.float64], grid_size: float
) -> NDArray[np.float64]:
    """Return points on the six faces of a box, some three to a cell."""
    return np.concatenate(_faces(random, edges, grid_size)) + corner


def _faces(random: np.random.Generator, edges: NDArray[np.float64], grid_size: float) -> list[NDArray[np.float64]]:
    """Return points of a box's faces, one face after another: the near and the far one of x, of y, of z."""
    faces = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        count = int(3 * edges[others[0]] * edges[others[1]] / grid_size**2)
        for end in (0.0, 1.0):
            points = random.uniform(0, 1, (count, 3))
            points[:, axis] = end
            faces.append(points * edges)
    return faces
