"""Where a face ends: its outermost points strip by strip, and how much of it lies beyond them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.measure.planes import Floats, Mask

_STRIP = 1.5
_MOST_STRIPS = 80
_LEAST_STRIPS = 4
_TRIM = 0.08
_LEAST_MARGIN_M = 0.005
_OUTERMOST = 95
_LEAST_SPREAD_M = 1e-6
"""Metres: strips that all end in the same place, of a cloud without noise, are no surer than files' numbers."""


@dataclass(frozen=True)
class Strips:
    """A face cut into strips that run towards one of its edges.

    Attributes:
        along: (k,) metres, where each strip is along the edge.
        top: (k,) metres, its outermost point.
        gap: metres between the points of a strip.
        width: metres, of a strip.
    """

    along: Floats
    top: Floats
    gap: float
    width: float


@dataclass(frozen=True)
class Edge:
    """An edge of a face.

    Attributes:
        position: metres, where it is.
        sigma: metres, by how much that may err, as far as the points tell.
        gap: metres between points towards it.
        slope: by how much its position changes along it; slope_sigma: how sure that is.
        straight: share of its strips that end where it is.
        reach: metres, where its outermost strips end.
    """

    position: float
    sigma: float
    gap: float
    slope: float
    slope_sigma: float
    straight: float
    reach: float


def cut(across: Floats, along: Floats) -> Strips | None:
    """Return a face's strips; None where it has too few points for three of them.

    Args:
        across: (n,) metres towards the edge. along: (n,) metres along it.
    """
    if len(across) < 12:
        return None
    low, high = np.percentile(along, [1, 99])
    length = float(high - low)
    depth = float(np.subtract(*np.percentile(across, [99, 1])))
    spacing = np.sqrt(max(length * depth, 1e-12) / len(across))
    low, high = low + _TRIM * length, high - _TRIM * length
    number = int(np.clip((high - low) / max(_STRIP * spacing, 1e-9), _LEAST_STRIPS, _MOST_STRIPS))
    width = (high - low) / number
    if width <= 0:
        return None
    index = np.floor((along - low) / width).astype(np.int64)
    inside = (index >= 0) & (index < number)
    count = np.bincount(index[inside], minlength=number)
    top = np.full(number, -np.inf)
    np.maximum.at(top, index[inside], across[inside])
    bottom = np.full(number, np.inf)
    np.minimum.at(bottom, index[inside], across[inside])
    full = count >= 3
    if full.sum() < 3:
        return None
    gap = float(np.median((top - bottom)[full] / (count[full] - 1)))
    return Strips(low + (np.flatnonzero(full) + 0.5) * width, top[full], gap, width)


def settle(strips: Strips, free: Mask, noise: float) -> Edge | None:
    """Return the edge that the free strips (k,) end at; None where too few do.

    Args:
        strips: of the face. free: those that nothing hides the end of.
        noise: metres, of points along the face.
    """
    along, top = strips.along[free], strips.top[free]
    if len(top) < 3:
        return None
    margin = max(_LEAST_MARGIN_M, 3 * strips.gap, 3 * noise)
    line = float(np.percentile(top, 75))
    good = np.abs(top - line) < margin
    for _ in range(2):
        if good.sum() < 3:
            return None
        line = float(np.median(top[good]))
        good = np.abs(top - line) < margin
    if good.sum() < 3:
        return None
    along, kept = along[good], top[good]
    position = float(np.median(kept))
    spread = max(1.4826 * float(np.median(np.abs(kept - position))) + 0.2 * strips.gap, _LEAST_SPREAD_M)
    away = along - along.mean()
    extent = float((away**2).sum())
    slope = float((away * (kept - kept.mean())).sum() / extent) if extent > 0 else 0.0
    # Neighbouring strips err alike: every third counts.
    independent = max(1.0, good.sum() / 3)
    reach = float(np.percentile(strips.top, _OUTERMOST))
    sigma = spread * 1.25 / np.sqrt(independent)
    slope_sigma = spread / np.sqrt(max(extent / 3, 1e-12))
    return Edge(position, float(sigma), strips.gap, slope, float(slope_sigma), float(good.mean()), reach)
