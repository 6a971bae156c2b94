"""What a scene stands on: the dominant plane of a cloud is found and laid level, so that the cloud's frame is moot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from service.transforms import grid

_CELL_M = 0.03
"""Edge of the cells whose means the search looks at: it outweighs noise and makes dense and sparse parts equal."""
_CELLS_ALONG = 192
"""A cloud that spans more cells than this is searched with larger ones."""
_POINTS = 4096
_TRIPLES = 512
_TOLERANCE = 0.4
"""Distance in cells at which a point still counts as on the plane."""
_ABOVE = (1.0, 16.0)
"""Heights in cells between which points tell which side of the plane is up."""


@dataclass(frozen=True)
class Plane:
    """The plane of all x with normal @ x = offset; the normal (3,) float64 is of length 1 and points up."""

    normal: torch.Tensor
    offset: torch.Tensor


def find(coord: torch.Tensor) -> Plane:
    """Return the plane with most of the cloud's surface on it, wide planes before compact ones.

    Triples of points propose planes (RANSAC, Fischler and Bolles 1981, with a fixed low-discrepancy sequence in the
    place of chance); the best is refined by least squares. Up is the side on which more of the things near it are.

    Args:
        coord: (n, 3) float64 metres, n >= 1.
    """
    cell = max(_CELL_M, float((coord.amax(dim=0) - coord.amin(dim=0)).max()) / _CELLS_ALONG)
    middle = coord.mean(dim=0)
    points = grid.mean(coord - middle, grid.sample(coord, cell))
    if len(points) > _POINTS:
        points = points[torch.arange(_POINTS, device=points.device) * len(points) // _POINTS]
    normal, offset = _best(points.float(), _TOLERANCE * cell)
    for _ in range(4):
        near = points[(points @ normal - offset).abs() < _TOLERANCE * cell]
        if len(near) < 3:
            break
        foot = near.mean(dim=0)
        # The smallest axis of a 3 x 3 matrix: on the CPU, since a GPU's solver takes longer than the copy there.
        _, vectors = torch.linalg.eigh(((near - foot).T @ (near - foot)).cpu())
        normal = vectors[:, 0].to(points)
        offset = foot @ normal
    height = points @ normal - offset
    low, high = _ABOVE[0] * cell, _ABOVE[1] * cell
    above = ((height > low) & (height < high)).sum() - ((height < -low) & (height > -high)).sum()
    if int(above) < 0:
        normal, offset = -normal, -offset
    return Plane(normal, offset + middle @ normal)


def level(coord: torch.Tensor, plane: Plane) -> torch.Tensor:
    """Return the coordinates turned so that the plane is z = 0 and its normal points along z.

    Args:
        coord: (n, 3) float64.
        plane: of the same frame.
    """
    across = torch.zeros_like(plane.normal)
    across[int(plane.normal.abs().argmin())] = 1
    first = torch.linalg.cross(across, plane.normal)
    first = first / first.norm()
    axes = torch.stack([first, torch.linalg.cross(plane.normal, first), plane.normal])
    turned = coord @ axes.T
    turned[:, 2] -= plane.offset
    return turned


def _best(points: torch.Tensor, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normal (3,) and offset of the best plane through three of the points (m, 3), in float64."""
    if len(points) < 3:
        return points.new_tensor([0, 0, 1], dtype=torch.float64), points[0, 2].double()
    one, two, three = (points[row] for row in _triples(len(points), points.device))
    normal = torch.linalg.cross(two - one, three - one)
    length = normal.norm(dim=1, keepdim=True)
    normal = normal / length.clamp(min=1e-12)
    offset = (normal * one).sum(dim=1)
    near = ((normal @ points.T - offset[:, None]).abs() < tolerance) & (length > tolerance**2)
    near = near.float()
    x, y, z = points.T
    moments = near @ torch.stack([torch.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], dim=1)
    count = moments[:, 0].clamp(min=1)
    sums = moments[:, 1:] / count[:, None]
    xx, yy, zz = (sums[:, 3 + i] - sums[:, i] ** 2 for i in range(3))
    xy, xz, yz = (sums[:, 6 + k] - sums[:, i] * sums[:, j] for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))))
    # The sum of the principal minors is the product of the two large variances: how wide the plane's points lie.
    minors = xx * yy - xy**2 + xx * zz - xz**2 + yy * zz - yz**2
    chosen = int((count * minors.clamp(min=0) ** 0.25).argmax())
    return normal[chosen].double(), offset[chosen].double()


def _triples(count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return three times (_TRIPLES,) int64 rows below `count`: Roberts' R3 sequence, the same on every machine."""
    step = torch.arange(1, _TRIPLES + 1, dtype=torch.float64)[:, None]
    ratios = torch.tensor([0.8191725133961645, 0.6710436067037893, 0.5497004779019703], dtype=torch.float64)
    rows = (torch.remainder(step * ratios, 1.0) * count).long().clamp_(max=count - 1).to(device)
    return rows[:, 0], rows[:, 1], rows[:, 2]
