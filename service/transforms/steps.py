"""Pointcept's transforms of coordinates, in the order and with the arithmetic that a model was trained with.

After pointcept/datasets/transform.py. Each step says what type of number it leaves: a point on the edge of a cell falls
to one side or the other by the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from service.transforms import grid
from service.transforms.augment import Augmentation

Moved = tuple[torch.Tensor, torch.Tensor | None]


class Step(Protocol):
    """One transform of a cloud's coordinates and normals."""

    def to_dict(self) -> dict[str, Any]:
        """Return Pointcept's entry."""

    def apply(self, coord: torch.Tensor, normal: torch.Tensor | None) -> Moved:
        """Return the (n, 3) coordinates and normals after it; the arguments are left as they are."""


@dataclass(frozen=True)
class CenterShift:
    """Zero goes to the middle of the bounding box in x and y and, where `apply_z`, to its bottom in z."""

    apply_z: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return Pointcept's entry."""
        return {"type": "CenterShift", "apply_z": self.apply_z}

    def apply(self, coord: torch.Tensor, normal: torch.Tensor | None) -> Moved:
        """Return the shifted coordinates."""
        low, high = grid.bounds(coord)
        shift = (low + high) / 2
        shift[2] = low[2] if self.apply_z else 0
        return coord - shift, normal


@dataclass(frozen=True)
class PositiveShift:
    """Zero goes to the lowest corner of the bounding box."""

    def to_dict(self) -> dict[str, Any]:
        """Return Pointcept's entry."""
        return {"type": "PositiveShift"}

    def apply(self, coord: torch.Tensor, normal: torch.Tensor | None) -> Moved:
        """Return the shifted coordinates."""
        return coord - grid.bounds(coord)[0], normal


@dataclass(frozen=True)
class NormalizeCoord:
    """Zero goes to the mean, and the farthest point to distance 1."""

    def to_dict(self) -> dict[str, Any]:
        """Return Pointcept's entry."""
        return {"type": "NormalizeCoord"}

    def apply(self, coord: torch.Tensor, normal: torch.Tensor | None) -> Moved:
        """Return the shifted and scaled coordinates."""
        about = coord.double() - coord.double().mean(dim=0)
        # A cloud of one place has no extent to divide by; there Pointcept's gives NaN.
        return (about / about.norm(dim=1).amax().clamp(min=1e-12)).to(coord.dtype), normal


@dataclass(frozen=True)
class PointClip:
    """Coordinates are kept within a box: points outside go to its faces."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return Pointcept's entry."""
        return {"type": "PointClip", "point_cloud_range": [*self.low, *self.high]}

    def apply(self, coord: torch.Tensor, normal: torch.Tensor | None) -> Moved:
        """Return the clipped coordinates, float64 as numpy's clip leaves them."""
        exact = coord.double()
        return torch.minimum(torch.maximum(exact, exact.new_tensor(self.low)), exact.new_tensor(self.high)), normal


def step(entry: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return what one of Pointcept's entries does to coordinates: one step, or none where it never happens.

    Raises:
        ValueError: a transform that is not supported, or a malformed one; the sentence names it.
    """
    given = dict(entry)
    kind = given.pop("type", None)
    if kind == "CenterShift":
        made: Step = CenterShift(bool(given.pop("apply_z", True)))
    elif kind == "PositiveShift":
        made = PositiveShift()
    elif kind == "NormalizeCoord":
        made = NormalizeCoord()
    elif kind == "PointClip":
        made = _clip(given.pop("point_cloud_range", (-80, -80, -3, 80, 80, 1)))
    else:
        return Augmentation.from_config([entry]).steps
    if given:
        raise ValueError(f"The transform {kind} has the unknown argument {next(iter(given))!r}.")
    return (made,)


def apply(steps: Sequence[Step], coord: torch.Tensor, normal: torch.Tensor | None = None) -> Moved:
    """Return coordinates and normals after steps one after another."""
    for each in steps:
        coord, normal = each.apply(coord, normal)
    return coord, normal


def anchored(steps: Sequence[Step]) -> bool:
    """Return whether the steps put zero into the cloud wherever it lies, so that its own zero is moot."""
    return any(isinstance(each, CenterShift | PositiveShift | NormalizeCoord) for each in steps)


def _clip(box: Any) -> PointClip:
    if not isinstance(box, Sequence) or len(box) != 6 or not all(isinstance(bound, int | float) for bound in box):
        raise ValueError(f"PointClip has the point_cloud_range {box!r:.80}; it must be six numbers.")
    low, high = tuple(map(float, box[:3])), tuple(map(float, box[3:]))
    if not all(below < above for below, above in zip(low, high, strict=True)):
        raise ValueError(f"PointClip has the point_cloud_range {box!r:.80}; its first three must be below its last.")
    return PointClip(low, high)
