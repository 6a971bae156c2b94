"""Votes become objects: points of one class whose votes lie near one another (PointGroup, Jiang et al., CVPR 2020).

Two points belong together when they have the same class and their votes are nearer than a radius; objects are what is
connected so. Pointcept looks at a point's first thousand neighbours only, which cuts large objects whose votes fall
into one place down to those thousand; here nothing is dropped. Nor are neighbours listed, which in such an object are
as many as its points squared: points are put into cells so small that those of a cell are connected whatever they are,
and only cells that are not connected yet are looked into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.transforms.instances import NONE, Object

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

CHANNELS = 3
"""What a network says of a voxel beside its class: the way to the middle of its object, in metres."""
_MOST_DISTANCES = 1 << 22
"""Distances that are computed at once."""
_MOST_CELLS = 1 << 62
"""Numbers that cells may have."""
_SMALL = 64
"""Distances between the points of two cells up to which many such pairs are looked at together."""
_REACH = 2
"""Cells of a radius / sqrt(3) that lie between points nearer than the radius, at most."""


@dataclass(frozen=True)
class Grouping:
    """How votes become objects.

    Attributes:
        radius_m: votes nearer than this belong together, where their voxels have the same class.
        ignored: classes, by their place among the model's, that have no objects.
        least_voxels: voxels of the smallest object.

    Raises:
        ValueError: the radius is not positive.
    """

    radius_m: float
    ignored: tuple[int, ...]
    least_voxels: int

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out."""
        if not 0 < self.radius_m < float("inf"):
            raise ValueError(
                f"cluster_thresh times voxel_size is {self.radius_m} m; the radius in which votes belong together must "
                "be positive."
            )

    channels: ClassVar[int] = CHANNELS
    whole: ClassVar[bool] = False
    decides: ClassVar[bool] = False

    def objects(
        self, coord: torch.Tensor, raw: torch.Tensor, probability: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, list[Object]]:
        """Return which object each voxel belongs to, and the objects; as the function `objects`, of (M, 3) votes."""
        return objects(coord, raw, probability, points, self)


def objects(
    coord: torch.Tensor, way: torch.Tensor, probability: torch.Tensor, points: torch.Tensor, grouping: Grouping
) -> tuple[torch.Tensor, list[Object]]:
    """Return which object each voxel belongs to, and the objects, the one of most points first.

    Args:
        coord: (M, 3) metres.
        way: (M, 3) metres from each voxel to the middle of its object, as the network says.
        probability: (M, C) of the classes.
        points: (M,) int64, how many points each voxel has.
        grouping: of the model.

    Returns:
        (M,) int64 on the device of `way`, NONE where there is no object; an object's score is the mean probability of
        its class over its voxels.
    """
    label = probability.argmax(dim=1)
    ignored = torch.tensor([*grouping.ignored, NONE], device=label.device)
    vote = coord - coord.amin(dim=0) + way
    wanted = ~torch.isin(label, ignored) & vote.isfinite().all(dim=1)
    rows = wanted.nonzero().squeeze(1)
    owner = torch.full_like(label, NONE)
    if len(rows) == 0:
        return owner, []
    # In radii: what is compared is then 1, whatever the scale.
    own = connect((vote[rows] / grouping.radius_m).float(), label[rows])
    size = torch.bincount(own)
    kept = size >= grouping.least_voxels
    number = torch.where(kept, kept.cumsum(0) - 1, NONE)
    owner[rows] = number[own]
    inside = owner >= 0
    of, count = owner[inside], int(kept.sum())
    sure = probability.gather(1, label.unsqueeze(1)).squeeze(1)[inside].double()
    share = torch.bincount(of, sure, count) / size[kept]
    point_count = torch.bincount(of, points[inside].double(), count)
    classes = torch.zeros(count, dtype=torch.int64, device=of.device).scatter_(0, of, label[inside])
    order = torch.argsort(-point_count, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(count, device=order.device))
    owner[inside] = rank[of]
    made = zip(classes[order].tolist(), share[order].tolist(), point_count[order].tolist(), strict=True)
    return owner, [Object(index, score, int(n)) for index, score, n in made]


def connect(place: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return (n,) int64, the component of each point, numbered by their lowest point.

    Args:
        place: (n, 3) float32, n >= 1; points of one label nearer than 1 are connected.
        label: (n,) int64.
    """
    cells = _Cells(place.cpu().numpy(), label.cpu().numpy())
    return torch.from_numpy(cells.components()).to(place.device)


class _Cells:
    """Points in cells so small that those of one label in one cell are all connected.

    Args:
        place: (n, 3). label: (n,).

    Raises:
        UnusableCloud: more cells than numbers of 62 bits can tell apart.
    """

    def __init__(self, place: Floats, label: Rows) -> None:
        scaled = (place.astype(np.float64) - place.min(axis=0)) * (np.sqrt(3) * 1.001)
        at, self._steps = _close_up(np.floor(scaled).astype(np.int64))
        labels, rank = np.unique(label, return_inverse=True)
        volume = int(self._steps[0]) * (int(at[:, 0].max()) + _REACH + 1)
        if volume * len(labels) >= _MOST_CELLS:
            raise UnusableCloud(
                "The cloud's objects cannot be told apart: the model's votes lie too far from one another."
            )
        key = rank.ravel() * volume + at @ self._steps
        self._keys, self._own = np.unique(key, return_inverse=True)
        self._own = self._own.ravel()
        self._order = np.argsort(self._own, kind="stable")
        self._counts = np.bincount(self._own)
        self._starts = np.cumsum(self._counts) - self._counts
        self._place = place[self._order]

    def _neighbours(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs of cells of one label that may hold points nearer than 1, the nearer cells first."""
        steps = [step for step in product(range(-_REACH, _REACH + 1), repeat=3) if step > (0, 0, 0)]
        for step in sorted(steps, key=lambda each: sum(axis * axis for axis in each)):
            wanted = self._keys + int(np.dot(step, self._steps))
            found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
            there = np.flatnonzero(self._keys[found] == wanted)
            yield there, found[there]

    def components(self) -> Rows:
        """Return the component (n,) of each point, numbered by their lowest point."""
        parent = np.arange(len(self._keys))
        for ones, others in self._neighbours():
            root = _roots(parent)
            apart = root[ones] != root[others]
            ones, others = ones[apart], others[apart]
            small = self._counts[ones] * self._counts[others] <= _SMALL
            for one, other in self._touching(ones[small], others[small]):
                _unite(parent, one, other)
            for one, other in zip(ones[~small].tolist(), others[~small].tolist(), strict=True):
                if _root(parent, one) != _root(parent, other) and self._touch(one, other):
                    _unite(parent, one, other)
        root = _roots(parent)[self._own]
        _, first, own = np.unique(root, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[own.ravel()]

    def _touching(self, ones: Rows, others: Rows) -> Iterator[tuple[int, int]]:
        """Yield which of these pairs of cells with few points touch."""
        step = max(1, _MOST_DISTANCES // _SMALL)
        for begin in range(0, len(ones), step):
            one, other = ones[begin : begin + step], others[begin : begin + step]
            wide = self._counts[other]
            count = self._counts[one] * wide
            pair = np.repeat(np.arange(len(one)), count)
            place = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
            left = self._place[self._starts[one][pair] + place // wide[pair]]
            right = self._place[self._starts[other][pair] + place % wide[pair]]
            near = np.unique(pair[((left - right) ** 2).sum(axis=1) < 1])
            yield from zip(one[near].tolist(), other[near].tolist(), strict=True)

    def _touch(self, one: int, other: int) -> bool:
        """Return whether a point of one cell is nearer than 1 to a point of the other."""
        left, right = self._inside(one), self._inside(other)
        left = left[_gap(left, right) < 1]
        right = right[_gap(right, left) < 1] if len(left) else left
        if len(left) == 0 or len(right) == 0:
            return False
        rows = max(1, _MOST_DISTANCES // len(right))
        return any(
            bool((((left[i : i + rows, None] - right) ** 2).sum(axis=2) < 1).any()) for i in range(0, len(left), rows)
        )

    def _inside(self, cell: int) -> Floats:
        begin = self._starts[cell]
        return self._place[begin : begin + self._counts[cell]]


def _gap(points: Floats, others: Floats) -> Floats:
    """Return each point's squared distance from the box round the others."""
    low, high = others.min(axis=0), others.max(axis=0)
    squares: Floats = (np.maximum(0, np.maximum(low - points, points - high)) ** 2).sum(axis=1)
    return squares


def _close_up(at: Rows) -> tuple[Rows, Rows]:
    """Return cells (n, 3), neighbours where they were before but without what is empty, and the steps of their keys."""
    closed = np.empty_like(at)
    for axis in range(3):
        values, own = np.unique(at[:, axis], return_inverse=True)
        jump = np.minimum(np.diff(values, prepend=values[:1]), _REACH + 1)
        closed[:, axis] = (np.cumsum(jump) + _REACH)[own.ravel()]
    span = closed.max(axis=0) + _REACH + 1
    return closed, np.array([span[1] * span[2], span[2], 1])


def _roots(parent: Rows) -> Rows:
    """Return the last ancestor of each cell."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return above
        parent = above


def _unite(parent: Rows, one: int, other: int) -> None:
    left, right = _root(parent, one), _root(parent, other)
    parent[max(left, right)] = min(left, right)


def _root(parent: Rows, cell: int) -> int:
    while parent[cell] != cell:
        parent[cell] = parent[parent[cell]]
        cell = int(parent[cell])
    return cell
