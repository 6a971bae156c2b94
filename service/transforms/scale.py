"""The unit of a cloud: metres, or millimetres where its size says so."""

from __future__ import annotations

import torch

from service.transforms import grid

MILLIMETRE = 0.001


def _spread(coord: torch.Tensor) -> float:
    """Return the widest extent that 98 of 100 points have: one stray point must not decide the unit."""
    count = len(coord)
    low, high = int(count * 0.01) + 1, count - int(count * 0.01)
    return float((coord.kthvalue(high, dim=0).values - coord.kthvalue(low, dim=0).values).max())


def to_metres(coord: torch.Tensor, max_extent_m: float | None) -> tuple[torch.Tensor, str | None]:
    """Return the coordinates in metres, and a warning when they were taken for millimetres.

    Args:
        coord: (n, 3) float64, finite, n >= 1.
        max_extent_m: the largest extent that a cloud in metres may have; None: it is in metres.
    """
    if max_extent_m is None:
        return coord, None
    low, high = grid.bounds(coord)
    extent = (high - low).tolist()
    if max(extent) <= max_extent_m or len(coord) < 2 or _spread(coord) <= max_extent_m:
        return coord, None
    size = " x ".join(f"{side:.4g}" for side in extent)
    if _spread(coord) * MILLIMETRE > max_extent_m:
        return coord, f"The cloud spans {size} m: the model was made for scenes of up to {max_extent_m:g} m."
    warning = f"The cloud spans {size}, too much for metres: its unit was taken to be millimetres."
    return coord * MILLIMETRE, warning
