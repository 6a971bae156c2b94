"""What the sensor could see: where it stood, what hides what, and where its view ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.measure.planes import Floats, Mask, Rows

_SAMPLE = 20_000
_WIDEST = float(np.cos(np.radians(60)))
_CELLS_A_PIXEL = 2.0
_MOST_CELLS = 4_000_000
_LAYER_M = 0.15
_MANY_LAYERS = 0.25
_HULL_COLUMNS = 1000
_BORDER = 2.0
"""Pixels from the view's outline within which something is cut off by it."""
_BIN, _COVERED, _SHORT = 6.0, 0.6, 12.0
"""Pixels of a stretch of the outline, the share of such stretches that have points where the view ends, and the pixels
below which a line is too short to be its end."""
_ALIGNED = float(np.cos(np.radians(2)))
_REACH_M = 15.0
"""Metres beyond which no depth camera sees half of its points: such a cloud's zero is where its maker put it."""
_NARROWEST = 1e-6
"""Least extent of an image in its other one: a line is none, and rounding makes lines this wide."""


@dataclass(frozen=True)
class Sight:
    """An image of a cloud whose sensor stood at zero.

    Attributes:
        axes: (3, 3) rows: right, down and forward of the image.
        low: (2,) where the image begins, in tangents of the angles off its axis.
        cell: edge of its cells, the same.
        near: (rows, columns) metres to the nearest point in each cell, along the axis; inf: none.
        directions, outline: (k, 2) outward normals of the view's border, and (k,) how far it reaches along them.
    """

    axes: Floats
    low: Floats
    cell: float
    near: Floats
    directions: Floats
    outline: Floats

    @property
    def pixel(self) -> float:
        """Angle between neighbouring points, in tangents."""
        return self.cell / _CELLS_A_PIXEL

    def look(self, coord: Floats) -> tuple[Floats, Floats]:
        """Return how far ahead points (n, 3) are (n,), and how far ahead what is seen in their direction is (n,).

        The latter is inf where nothing is seen.
        """
        place, depth = self._project(coord)
        index = np.floor((place - self.low) / self.cell).astype(np.int64)
        inside = (index >= 0).all(axis=1) & (index < self.near.shape[::-1]).all(axis=1)
        column, row = np.where(inside[:, None], index, 0).T
        return depth, np.where(inside, self.near[row, column], np.inf)

    def margin(self, coord: Floats) -> Floats:
        """Return how far points (n, 3) are inside the view's outline, in pixels; below 0: outside."""
        place, _ = self._project(coord)
        inside = self.outline - place @ self.directions.T
        found: Floats = inside.min(axis=1, initial=np.inf) / self.pixel
        return found

    def _project(self, coord: Floats) -> tuple[Floats, Floats]:
        own = coord @ self.axes.T
        depth = np.maximum(own[:, 2], 1e-6)
        return own[:, :2] / depth[:, None], depth


def view(coord: Floats, owner: Rows, said: bool = False) -> Sight | None:
    """Return the image of points (n, 3) as seen from zero; None where no sensor stood there, it seems.

    A sensor has all points in a cone before it, none beyond its reach, and sees one surface in each direction.

    Args:
        coord: (n, 3) metres. owner: (n,) the object that each is of, -1: none.
        said: whether the user says that the sensor stood there, so that how far it reaches is known to be enough.
    """
    # A point where the sensor stood lies in no direction.
    ahead = np.linalg.norm(coord, axis=1) > 0
    coord, owner = coord[ahead], owner[ahead]
    step = max(1, len(coord) // _SAMPLE)
    sample = coord[::step]
    distance = np.linalg.norm(sample, axis=1)
    if len(sample) < 100 or np.percentile(distance, 1) < 0.05:
        return None
    if not said and np.median(distance) > _REACH_M:
        return None
    direction = sample / distance[:, None]
    forward = direction.mean(axis=0)
    forward /= np.linalg.norm(forward)
    if np.percentile(direction @ forward, 0.5) < _WIDEST:
        return None
    across = np.zeros(3)
    across[np.abs(forward).argmin()] = 1.0
    right = np.cross(forward, across)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    own = coord @ axes.T
    depth = own[:, 2]
    if depth.min() <= 0:
        return None
    place = own[:, :2] / depth[:, None]
    low, high = place.min(axis=0), place.max(axis=0)
    if not (high - low).min() > _NARROWEST * (high - low).max():
        return None
    if _layers(place, depth, low, high) > _MANY_LAYERS:
        return None
    pixel = _pixel(place)
    directions = _normals(_hull(place, low, high))
    outline = _ends(place, directions, owner, pixel)
    directions, outline = directions[np.isfinite(outline)], outline[np.isfinite(outline)]
    cell = max(_CELLS_A_PIXEL * pixel, float(np.sqrt(np.prod(high - low) / _MOST_CELLS)))
    columns, rows = (np.floor((high - low) / cell).astype(np.int64) + 1).tolist()
    index = np.floor((place - low) / cell).astype(np.int64)
    near = np.full(rows * columns, np.inf)
    np.minimum.at(near, index[:, 1] * columns + index[:, 0], depth)
    return Sight(axes, low, cell, near.reshape(rows, columns), directions, outline)


def _hull(place: Floats, low: Floats, high: Floats) -> Floats:
    """Return the corners (k, 2) of the convex hull of points (n, 2), counterclockwise.

    Of each column of a fine grid the outermost points alone are looked at. Source: Andrew's monotone chain (1979).
    """
    column = np.floor((place[:, 0] - low[0]) / max(high[0] - low[0], 1e-9) * (_HULL_COLUMNS - 1)).astype(np.int64)
    order = np.lexsort((place[:, 1], column))
    first = np.flatnonzero(np.diff(column[order], prepend=-1))
    last = np.append(first[1:], len(order)) - 1
    chosen = place[np.unique(order[np.concatenate([first, last])])]
    points = chosen[np.lexsort((chosen[:, 1], chosen[:, 0]))].tolist()

    def chain(points: list[list[float]]) -> list[list[float]]:
        corners: list[list[float]] = []
        for x, y in points:
            while len(corners) > 1:
                (ax, ay), (bx, by) = corners[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                corners.pop()
            corners.append([x, y])
        return corners[:-1]

    return np.array(chain(points) + chain(points[::-1])).reshape(-1, 2)


def _normals(corners: Floats) -> Floats:
    """Return the outward unit normals (k, 2) of a hull's edges."""
    along = np.roll(corners, -1, axis=0) - corners
    length = np.linalg.norm(along, axis=1)
    along = along[length > 0] / length[length > 0, None]
    return np.stack([along[:, 1], -along[:, 0]], axis=1)


def _ends(place: Floats, directions: Floats, owner: Rows, pixel: float) -> Floats:
    """Return how far the view reaches along directions (k,); inf where it does not end there.

    It ends where points lie all along a line. A line from one thing's corner to another's is no end. Where one object
    alone reaches as far that is its own end, unless the line is square to another that surely ends the view: images
    are rectangles.

    Args:
        place: (n, 2) tangents.
        directions: (k, 2) outward normals of the edges of their hull.
        owner: (n,) as in `view`.
    """
    ends = np.full(len(directions), np.inf)
    alone = np.zeros(len(directions), dtype=bool)
    for index, direction in enumerate(directions):
        across = place @ direction
        last = across > across.max() - _BORDER * pixel
        along = place[last] @ np.array([-direction[1], direction[0]])
        length = float(np.ptp(along)) / pixel
        bins = np.unique(np.floor((along - along.min()) / (_BIN * pixel)))
        if length < _SHORT or len(bins) < _COVERED * length / _BIN:
            continue
        who = np.unique(owner[last])
        ends[index] = float(across.max())
        alone[index] = len(who) == 1 and who[0] >= 0
    sure = directions[np.isfinite(ends) & ~alone]
    cosine = np.abs(directions @ sure.T)
    square = ((cosine > _ALIGNED) | (cosine < np.sqrt(1 - _ALIGNED**2))).any(axis=1)
    return np.where(alone & ~square, np.inf, ends)


def _layers(place: Floats, depth: Floats, low: Floats, high: Floats) -> float:
    """Return the share of cells, some twenty points each, whose points lie on several surfaces one behind another."""
    cell = float(np.sqrt(np.prod(high - low) / max(1.0, len(place) / 20)))
    columns = int((high[0] - low[0]) / cell) + 1
    index = np.floor((place - low) / cell).astype(np.int64)
    key = index[:, 1] * columns + index[:, 0]
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    nearest = np.minimum.reduceat(depth[order], first)
    farthest = np.maximum.reduceat(depth[order], first)
    count = np.diff(np.append(first, len(order)))
    dense = count >= 5
    if not dense.any():
        return 0.0
    return float(((farthest - nearest)[dense] > _LAYER_M + 0.1 * nearest[dense]).mean())


def _pixel(place: Floats) -> float:
    """Return the spacing of points in the image: of neighbours in the file where those are neighbours in the image."""
    span = place.max(axis=0) - place.min(axis=0)
    even = float(np.sqrt(np.prod(span) / len(place)))
    steps = np.linalg.norm(np.diff(place, axis=0), axis=1)
    along = float(np.median(steps))
    return along if 0.2 * even < along < even else even


def cut_off(sight: Sight, coord: Floats) -> Mask:
    """Return which of some points (n, 3) lie at the view's outline."""
    found: NDArray[np.bool_] = sight.margin(coord) < _BORDER
    return found
