"""Voxels become objects: flat faces that meet as the faces of one box do, and whose votes for a centre do not disagree.

Faces that meet in a convex edge are one object, faces that meet in a concave edge are two (locally convex connected
patches: Stein, Schoeler, Papon and Woergoetter, CVPR 2014). What geometry cannot tell, the network does: each voxel
votes for the centre of its object, and says how widely such votes spread (after Neven, De Brabandere, Proesmans and Van
Gool, CVPR 2019). Votes say which side of an upright face is its inside, part boxes whose faces are flush, and bring
together a face that something in front of it divides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.transforms import faces, grid
from service.transforms.faces import Faces, Floats, Rows
from service.transforms.likeness import likeness

CHANNELS = 5
"""What a network says of a voxel beside its class: three numbers of the way to the centre, two of the votes' spread."""
NONE = -1
"""Object of a point that belongs to none."""
_REACH_M = 0.1
_SPREAD_M = 0.03
_WIDEST = 3.0

_CELL_M, _COARSER, _COARSEST_M = 0.008, 1.5, 0.027
_CLOSED = 9.5
"""Neighbours, of the 12 within two cells on a plane, that cells have where points are dense enough for their size."""
_MOST_CELLS = 15_000
_CONTACT = 3
"""Pairs of neighbouring cells from which two faces meet."""
_PARALLEL, _SQUARE = float(np.cos(np.radians(25))), float(np.cos(np.radians(58)))
_SAME_PLANE = float(np.cos(np.radians(12)))
_STEP_M, _APART_M = 0.008, 0.012
_LEVEL = 0.35
"""Upright part of a normal from which its face is seen from above, as a camera sees it."""
_TOP = 0.7
"""Upright part of an outward normal from which its face is a top."""
_AGREE, _DIFFER = 1.0, 2.0
"""Distance of two faces' votes, in spreads: below it they may be one divided face; above it they are not one plane."""
_ROUNDS = 4
_LEAST_POINTS = 10
_FEW = 60.0
"""Voxels of an object at which two thirds of the model's confidence are kept: of fewer nobody can be sure."""

_UNLIKE = 0.2
"""What is left of the confidence in an object that does not look like a box at all."""


@dataclass(frozen=True)
class Votes:
    """What the network says of each of n voxels.

    Attributes:
        center: (n, 3) metres, where the voxel's object has its centre.
        log_spread: (n, 2) natural logarithm of the votes' spread in metres: in the level plane, and upright.
    """

    center: torch.Tensor
    log_spread: torch.Tensor

    def rows(self, rows: torch.Tensor) -> Votes:
        """Return some of the votes."""
        return Votes(self.center[rows], self.log_spread[rows])


def decode(coord: torch.Tensor, raw: torch.Tensor) -> Votes:
    """Return the votes of voxels at (n, 3) metres, laid level, from the network's (n, CHANNELS) numbers."""
    spread = raw[:, 3:5].clamp(-_WIDEST, _WIDEST) + float(np.log(_SPREAD_M))
    return Votes(coord + raw[:, :3] * _REACH_M, spread)


def membership(center: torch.Tensor, votes: torch.Tensor, log_spread: torch.Tensor) -> torch.Tensor:
    """Return how far votes belong to objects; the training's loss.

    Args:
        center: (k, 3) metres. votes: (n, 3) metres. log_spread: (k, 2) of the objects, as in `Votes`.

    Returns:
        (n, k) in 0..1: exp(-d^2 / 2) of the distance d in spreads.
    """
    scale = torch.exp(-log_spread)[:, (0, 0, 1)]
    distance = ((votes[:, None] - center) * scale).square().sum(dim=2)
    return torch.exp(-distance / 2)


@dataclass(frozen=True)
class Object:
    """One object: the class's place among the model's, 0..1 how sure the model is, how many points it has."""

    class_index: int
    score: float
    points: int


def objects(
    coord: torch.Tensor, raw: torch.Tensor, probability: torch.Tensor, points: torch.Tensor
) -> tuple[torch.Tensor, list[Object]]:
    """Return which object each voxel belongs to, and the objects, the one of most points first.

    Objects are of one class each; the first class is what they stand before and has none.

    Args:
        coord: (M, 3) metres, laid level.
        raw: (M, CHANNELS) of the network.
        probability: (M, C) of the classes.
        points: (M,) int64, how many points each voxel has.

    Returns:
        (M,) int64 on the device of `raw`, NONE where there is no object.
    """
    best = probability.argmax(dim=1)
    owner = torch.full_like(best, NONE)
    made: list[Object] = []
    for index in range(1, probability.shape[1]):
        rows = (best == index).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        place = coord[rows].double().cpu()
        place = place - place.mean(dim=0)
        own, like = separate(place, decode(place, raw[rows].double().cpu()), points[rows].cpu())
        number = len(like)
        voxels = torch.bincount(own[own >= 0], minlength=number).double()
        count = torch.bincount(own[own >= 0], points[rows].cpu()[own >= 0].double(), number)
        sure = torch.bincount(own[own >= 0], probability[rows, index].double().cpu()[own >= 0], number) / voxels
        sure = sure * (1 - torch.exp(-voxels / _FEW)) * (_UNLIKE + (1 - _UNLIKE) * like)
        owner[rows] = torch.where(own >= 0, own + len(made), NONE).to(owner.device)
        made += [Object(index, s, int(n)) for s, n in zip(sure.tolist(), count.tolist(), strict=True)]
    order = sorted(range(len(made)), key=lambda number: -made[number].points)
    rank = torch.empty(len(made) + 1, dtype=torch.int64)
    rank[torch.tensor([*order, len(made)])] = torch.tensor([*range(len(made)), NONE])
    return rank.to(owner.device)[owner], [made[number] for number in order]


def separate(coord: torch.Tensor, votes: Votes, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which voxels are one object, and how much each object looks like a box.

    Args:
        coord: (n, 3) float64 metres, laid level, n >= 1, of one class, on the CPU.
        votes: of the same voxels.
        points: (n,) int64, how many points each voxel has.

    Returns:
        (n,) int64, objects from 0 on, in no particular order; NONE for voxels of fewer than ten points together.
        (k,) float64, 0 to 1, of each object.
    """
    cells, cell_m = _cells(coord)
    found = faces.find(grid.mean(coord, cells).numpy(), cells.grid_coord.numpy().astype(np.int64), cell_m)
    node = np.full(len(cells), NONE, dtype=np.int64)
    if len(found):
        object_of = _join(found, _cast(found, votes, cells), cell_m)
        node = np.where(found.face >= 0, object_of[found.face], NONE)
        _spread(node, found.pairs)
    _gather(node, found.pairs)
    number, node = np.unique(node, return_inverse=True)
    node = node.ravel()
    own = node[cells.inverse.numpy()]
    enough = np.bincount(own, points.numpy(), len(number)) >= _LEAST_POINTS
    enough &= number >= 0
    like = likeness(found, node, len(number))[enough]
    return torch.from_numpy(np.where(enough, enough.cumsum() - 1, NONE)[own]), torch.from_numpy(like)


def _cells(coord: torch.Tensor) -> tuple[grid.Grid, float]:
    """Return the finest cells in which surfaces are closed, not too many of them, and their edge."""
    cell_m = _CELL_M
    while True:
        cells = grid.sample(coord, cell_m)
        if cell_m * _COARSER > _COARSEST_M:
            return cells, cell_m
        pairs = len(cells)
        if len(cells) <= _MOST_CELLS:
            pairs = len(faces.neighbours(cells.grid_coord.numpy().astype(np.int64), 2))
            if 2 * pairs >= _CLOSED * len(cells):
                return cells, cell_m
        cell_m *= _COARSER


@dataclass(frozen=True)
class _Cast:
    """The votes of each of k faces: their mean (k, 3) and their spread (k, 3), metres."""

    center: Floats
    spread: Floats

    def distance(self, one: int, others: Rows) -> Floats:
        """Return how far a face's votes lie from those of others (n,), in spreads (n,)."""
        spread = (self.spread[one] + self.spread[others]) / 2
        distance: Floats = np.linalg.norm((self.center[one] - self.center[others]) / spread, axis=1)
        return distance


def _cast(found: Faces, votes: Votes, cells: grid.Grid) -> _Cast:
    values = grid.mean(torch.cat([votes.center, votes.log_spread], dim=1).double(), cells).numpy()
    own, inside = found.face[found.face >= 0], values[found.face >= 0]
    size = np.bincount(own, minlength=len(found))
    mean = np.stack([np.bincount(own, column, len(found)) for column in inside.T], axis=1) / size[:, None]
    return _Cast(mean[:, :3], np.exp(mean[:, (3, 3, 4)]))


def _join(found: Faces, cast: _Cast, cell_m: float) -> Rows:
    """Return the object (k,) of each face."""
    outward = _outward(found, cast)
    joins: list[tuple[float, int, int]] = []
    apart: set[tuple[int, int]] = set()
    for one, other, contact, middle in _meetings(found):
        cosine = abs(float(outward[one] @ outward[other]))
        away = found.center[other] - found.center[one]
        distance = float(cast.distance(one, np.array([other]))[0])
        if cosine > _PARALLEL:
            # How far the one plane lies behind the other where the faces meet.
            flip = 1.0 if found.normal[one] @ found.normal[other] > 0 else -1.0
            step = (middle - found.center[one]) @ found.normal[one]
            step = step - flip * ((middle - found.center[other]) @ found.normal[other])
            same = bool(abs(step) < max(_STEP_M, cell_m)) and distance < _DIFFER
        elif cosine < _SQUARE:
            # A side whose top is level hangs below it: there the votes need not say which way the side looks.
            below = away @ outward[one] < 0 or outward[other, 2] > _TOP
            above = away @ outward[other] > 0 or outward[one, 2] > _TOP
            same = bool(below and above) and distance < 1.5 * _DIFFER
        else:
            same = False
        if same:
            joins.append((-contact, one, other))
        else:
            apart.add((one, other))
    own = _merge(len(found), sorted(joins), apart, np.arange(len(found)))
    return _merge(len(found), sorted(_divided(found, outward, cast)), apart, own)


def _outward(found: Faces, cast: _Cast) -> Floats:
    """Return the faces' normals pointing outward: up where they may, else away from their votes."""
    away = np.einsum("ij,ij->i", found.normal, found.center - cast.center)
    steep = np.abs(found.normal[:, 2]) > _LEVEL
    sign = np.where(np.where(steep, found.normal[:, 2], away) < 0, -1.0, 1.0)
    return found.normal * sign[:, None]


def _meetings(found: Faces) -> Iterator[tuple[int, int, int, Floats]]:
    """Yield each two faces that meet, by how many pairs of cells, and the middle (3,) of where they do."""
    own = found.face[found.pairs]
    there = (own >= 0).all(axis=1) & (own[:, 0] != own[:, 1])
    pairs, own = found.pairs[there], np.sort(own[there], axis=1)
    key = own[:, 0] * len(found) + own[:, 1]
    order = np.argsort(key, kind="stable")
    number, begin, count = np.unique(key[order], return_index=True, return_counts=True)
    for which, first, contact in zip(number.tolist(), begin.tolist(), count.tolist(), strict=True):
        if contact >= _CONTACT:
            rows = pairs[order[first : first + contact]]
            yield which // len(found), which % len(found), contact, found.coord[rows].mean(axis=(0, 1))


def _divided(found: Faces, outward: Floats, cast: _Cast) -> Iterator[tuple[float, int, int]]:
    """Yield faces that lie on one plane and vote alike, however far from one another, with their votes' distance."""
    for one in range(len(found)):
        away = found.center[one + 1 :] - found.center[one]
        flat = outward[one + 1 :] @ outward[one] > _SAME_PLANE
        flat &= np.abs(away @ found.normal[one]) < _APART_M
        flat &= np.abs((away * found.normal[one + 1 :]).sum(axis=1)) < _APART_M
        others = np.flatnonzero(flat) + one + 1
        distance = cast.distance(one, others)
        for at in np.flatnonzero(distance < _AGREE).tolist():
            yield float(distance[at]), one, int(others[at])


def _merge(count: int, joins: list[tuple[float, int, int]], apart: set[tuple[int, int]], own: Rows) -> Rows:
    """Return the objects (count,) after the joins in their order, but for those that would unite two kept apart."""
    own = own.copy()
    for _, one, other in joins:
        if own[one] == own[other]:
            continue
        left, right = np.flatnonzero(own == own[one]).tolist(), np.flatnonzero(own == own[other]).tolist()
        if not any((min(a, b), max(a, b)) in apart for a in left for b in right):
            own[right] = own[one]
    return own


def _spread(node: NDArray[np.int64], pairs: Rows) -> None:
    """Give cells without an object, changed in place, the one that most of their neighbours have, from edges inward."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    for _ in range(_ROUNDS):
        edge = both[(node[both[:, 0]] < 0) & (node[both[:, 1]] >= 0)]
        if len(edge) == 0:
            return
        base = int(node.max()) + 1
        which, count = np.unique(edge[:, 0] * base + node[edge[:, 1]], return_counts=True)
        which = which[np.argsort(count, kind="stable")]
        node[which // base] = which % base


def _gather(node: NDArray[np.int64], pairs: Rows) -> None:
    """Make an object, in place, of each heap of connected cells that have none: boxes too small to show a face."""
    left = pairs[(node[pairs] < 0).all(axis=1)]
    heap = np.arange(len(node))
    while len(left):
        least = heap.copy()
        np.minimum.at(least, left[:, 0], heap[left[:, 1]])
        np.minimum.at(least, left[:, 1], heap[left[:, 0]])
        least = least[least]
        if np.array_equal(least, heap):
            break
        heap = least
    alone = node < 0
    node[alone] = heap[alone] + int(node.max()) + 1
