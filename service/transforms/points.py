"""A cloud's valid points as tensors in metres: what comes before any grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.transforms import grid, scale, steps, support
from service.transforms.recipe import Recipe
from service.values import PointCloud

_COLORS = {"color", "color_signed", "color_255"}
WIDEST_M = 1e8
"""Wider than the earth; what lies farther apart overflows single precision, and is no cloud."""
_FAR_M = 4096.0
"""Distance from zero from which on single precision is coarser than half a millimetre."""


@dataclass(frozen=True)
class Points:
    """The n valid points of a cloud of N.

    Attributes:
        coord: (n, 3) float64 metres, from the cloud's lowest corner on; with a recipe's `before`, what its steps leave.
        color: (n, 3) float32 in 0..255, or None.
        normal: (n, 3) float32 of length 1, or None.
        intensity: (n,) float32 in 0..1, or None.
        valid: (N,) bool, or None when all points are valid.
        ground: z of the plane that the cloud stands on, where the recipe asks for it.
        warnings: sentences for the user, the cloud's own notes first.
        metres_per_unit: what the cloud's unit was taken to be.
    """

    coord: torch.Tensor
    color: torch.Tensor | None
    normal: torch.Tensor | None
    intensity: torch.Tensor | None
    valid: NDArray[np.bool_] | None
    ground: float
    warnings: tuple[str, ...]
    metres_per_unit: float = 1.0

    def __len__(self) -> int:
        return len(self.coord)

    def rows(self, rows: torch.Tensor) -> Points:
        """Return some of the points; `valid` stays that of all."""
        color, normal, intensity = (
            None if part is None else part[rows] for part in (self.color, self.normal, self.intensity)
        )
        return replace(self, coord=self.coord[rows], color=color, normal=normal, intensity=intensity)


def read(cloud: PointCloud, recipe: Recipe, device: torch.device) -> Points:
    """Return a cloud's points with what the recipe's features need of them, and nothing else.

    Raises:
        UnusableCloud: no valid point, or a feature that the cloud lacks and that cannot be computed.
    """
    finite_numbers = np.isfinite(cloud.coord)
    # Row by row takes many times longer, and most clouds need none of it.
    valid = None if finite_numbers.all() else finite_numbers.all(axis=1)
    count = len(cloud) if valid is None else int(np.count_nonzero(valid))
    if len(cloud) == 0:
        raise UnusableCloud("The cloud has no points.")
    if count == 0:
        raise UnusableCloud(f"The cloud has no valid point: each of its {len(cloud)} points has a NaN or an infinity.")
    kept = valid
    _require(cloud, recipe)
    warnings = list(cloud.notes)
    if kept is not None:
        warnings.append(f"{len(cloud) - count} of {len(cloud)} points have a NaN or an infinity and got no label.")
    # A client's tensors may be of single precision; what follows is not.
    own = _tensor(cloud.coord, kept, device).double()
    coord, warning = scale.to_metres(own, recipe.max_extent_m)
    metres_per_unit = 1.0 if coord is own else scale.MILLIMETRE
    if warning:
        warnings.append(warning)
    low, high = grid.bounds(coord)
    span = float((high - low).max())
    if not span <= WIDEST_M:
        raise UnusableCloud(
            f"The cloud spans {span:.3g} m, more than any scan does. Are the coordinates in metres, and is there no "
            "stray point?"
        )
    ground = 0.0
    if recipe.before is None:
        # Far from zero float32 holds only centimetres: the origin is removed while there are 64 bits.
        coord = coord - low
    else:
        coord = _single(coord, recipe.before, warnings)
    try:
        if recipe.level:
            coord, ground = _level(coord, recipe.grid_size)
    except ValueError as error:
        raise UnusableCloud(f"{error} Are the coordinates in metres, and is there no stray point?") from error
    wanted = set(recipe.features)

    def finite(values: torch.Tensor, name: str) -> torch.Tensor:
        bad = ~torch.isfinite(values).all(dim=1)
        if not bool(bad.any()):
            return values
        warnings.append(f"The {name} of {int(bad.sum())} points is not a finite number and was taken as 0.")
        return values.masked_fill(bad.unsqueeze(1), 0)

    color = normal = intensity = None
    if _COLORS & wanted and cloud.color is not None:
        color = _tensor(cloud.color, kept, device).float()
    if "normal" in wanted and cloud.normal is not None:
        normal = finite(_tensor(cloud.normal, kept, device), "normal")
    if "intensity" in wanted and cloud.intensity is not None:
        values = finite(_tensor(cloud.intensity, kept, device).unsqueeze(1), "intensity")
        intensity = (values.tanh() if recipe.tanh and _measured(values) else values / _full_scale(values)).squeeze(1)
    elif "intensity" in wanted:
        intensity = torch.zeros(count, device=device)
        warnings.append("The cloud has no intensity, which the model needs: it was taken as 0 everywhere.")
    for each in recipe.before or ():
        moved, normal = each.apply(coord, normal)
        if isinstance(each, steps.PointClip):
            _warn_of_clipped(coord, moved, each, warnings)
        coord = moved
    return Points(coord, color, normal, intensity, kept, ground, tuple(warnings), metres_per_unit)


def _single(coord: torch.Tensor, before: Sequence[steps.Step], warnings: list[str]) -> torch.Tensor:
    """Return the coordinates in single precision, as Pointcept reads clouds; where that is too coarse, shifted."""
    low, high = grid.bounds(coord)
    if float(torch.maximum(low.abs(), high.abs()).max()) < _FAR_M:
        return coord.float()
    middle = torch.floor((low + high) / 2)
    if not steps.anchored(before):
        place = ", ".join(f"{value:.0f}" for value in middle.tolist())
        warnings.append(
            "The model was trained on clouds about their sensor, and this one lies far from zero: its middle "
            f"({place}) was taken for the sensor's place."
        )
    return (coord - middle).float()


def _warn_of_clipped(coord: torch.Tensor, moved: torch.Tensor, clip: steps.PointClip, warnings: list[str]) -> None:
    outside = int((coord != moved).any(dim=1).sum())
    if outside:
        low, high = ([f"{bound:g}" for bound in face] for face in (clip.low, clip.high))
        warnings.append(
            f"{outside} of {len(coord)} points lie outside the box from ({', '.join(low)}) to ({', '.join(high)}) m "
            "that the model was trained in: they were moved to its faces, as in training."
        )


def _level(coord: torch.Tensor, grid_size: float) -> tuple[torch.Tensor, float]:
    """Return the cloud laid level, from its lowest corner on, and the height of its support plane there.

    The corner is lowered by less than a cell, so that the plane runs through the middle of a layer of cells: its noise
    then seldom leaves the layer.
    """
    coord = support.level(coord, support.find(coord))
    low = grid.bounds(coord)[0]
    low[2] = (torch.floor(low[2] / grid_size + 0.5) - 0.5) * grid_size
    return coord - low, -float(low[2])


def _require(cloud: PointCloud, recipe: Recipe) -> None:
    """Refuse a cloud that lacks a feature which cannot be computed."""
    if cloud.color is None and _COLORS & set(recipe.features):
        raise UnusableCloud("The model needs colours (red, green, blue) and the cloud has none.")


def _tensor(array: NDArray[np.generic], kept: NDArray[np.bool_] | None, device: torch.device) -> torch.Tensor:
    """Return the valid rows of an array on the device."""
    rows = np.ascontiguousarray(array) if kept is None else array[kept]
    # Arrays that arrive through shared memory are read-only, which torch cannot express; a copy is ours to change.
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy()).to(device)


def _measured(intensity: torch.Tensor) -> bool:
    """Return whether intensity is as a lidar measures it: above 1, and not in the whole numbers of a file format."""
    return bool((intensity > 1).any()) and bool((intensity != intensity.round()).any())


def _full_scale(intensity: torch.Tensor) -> float:
    """Return the value that means full intensity: 1, 255 or 65535, whichever the cloud's largest value fits."""
    largest = float(intensity.max())
    return 1.0 if largest <= 1 else 255.0 if largest <= 255 else max(65535.0, largest)
