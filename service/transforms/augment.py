"""Test-time augmentations: the fixed turns, scales and flips under which a cloud is looked at again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from service.transforms import grid

Vector = tuple[float, float, float]
_ZERO: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Rotation:
    """A turn by `angle` half turns about an axis through `center`, or through the middle of the cloud's box (None)."""

    angle: float
    axis: str = "z"
    center: Vector | None = _ZERO

    def to_dict(self) -> dict[str, Any]:
        """Return Pointcept's entry."""
        center = None if self.center is None else list(self.center)
        return {"type": "RandomRotateTargetAngle", "angle": [self.angle], "axis": self.axis, "center": center, "p": 1}

    def matrix(self) -> torch.Tensor:
        """Return the (3, 3) float64 matrix that is multiplied from the left."""
        cos, sin = math.cos(self.angle * math.pi), math.sin(self.angle * math.pi)
        rows = {
            "x": [[1, 0, 0], [0, cos, -sin], [0, sin, cos]],
            "y": [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]],
            "z": [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]],
        }
        return torch.tensor(rows[self.axis], dtype=torch.float64)

    def apply(self, coord: torch.Tensor, normal: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the turned coordinates and normals."""
        turn = self.matrix().to(coord.device)
        low, high = grid.bounds(coord)
        center = (low + high) / 2 if self.center is None else coord.new_tensor(self.center)
        turned = None if normal is None else (normal.double() @ turn.T).to(normal.dtype)
        # In double precision from here on, as numpy's product with a matrix leaves it.
        return (coord - center).double() @ turn.T + center, turned


@dataclass(frozen=True)
class Scaling:
    """Every coordinate times `factor`; normals stay."""

    factor: float

    def to_dict(self) -> dict[str, Any]:
        """Return Pointcept's entry."""
        return {"type": "RandomScale", "scale": [self.factor, self.factor]}

    def apply(self, coord: torch.Tensor, normal: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the scaled coordinates, and the normals as they are."""
        return (coord.double() * self.factor).to(coord.dtype), normal


@dataclass(frozen=True)
class Flip:
    """x and y change their sign, in coordinates and normals: what Pointcept's RandomFlip does where p is 1."""

    def to_dict(self) -> dict[str, Any]:
        """Return Pointcept's entry."""
        return {"type": "RandomFlip", "p": 1}

    def apply(self, coord: torch.Tensor, normal: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the flipped coordinates and normals."""
        signs = coord.new_tensor([-1.0, -1.0, 1.0])
        return coord * signs, None if normal is None else normal * signs.to(normal.dtype)


Step = Rotation | Scaling | Flip


@dataclass(frozen=True)
class Augmentation:
    """One look at a cloud: steps that are carried out one after another; none of them: the cloud as it is."""

    steps: tuple[Step, ...] = ()

    @classmethod
    def from_config(cls, entry: Sequence[Mapping[str, Any]]) -> Augmentation:
        """Return what one entry of Pointcept's `test_cfg.aug_transform` does.

        Args:
            entry: transforms as Pointcept's configurations write them. Random ones are fine where chance has one way
                to go: RandomRotateTargetAngle of one angle, RandomScale from a to a, RandomFlip, each with p 1 or 0.

        Raises:
            ValueError: a transform that chance decides, one that is not known, or a malformed one; the sentence names
                it.
        """
        if isinstance(entry, Mapping | str) or not isinstance(entry, Sequence):
            raise ValueError(f"An entry of aug_transform must be a list of transforms, not {entry!r:.80}.")
        steps = (_step(transform) for transform in entry)
        return cls(tuple(step for step in steps if step is not None))

    def to_list(self) -> list[dict[str, Any]]:
        """Return the entry that `from_config` reads, as JSON values."""
        return [step.to_dict() for step in self.steps]

    def apply(
        self, coord: torch.Tensor, normal: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return a cloud's coordinates and normals under this augmentation; the arguments are left as they are.

        Args:
            coord: (n, 3) float64 metres, about the zero of the model's test transforms.
            normal: (n, 3) float, or None.
        """
        for step in self.steps:
            coord, normal = step.apply(coord, normal)
        return coord, normal


def _step(transform: Mapping[str, Any]) -> Step | None:
    """Return the step that a transform is; None: it never happens."""
    if not isinstance(transform, Mapping):
        raise ValueError(f"A transform must be a dict with a type, not {transform!r:.80}.")
    given = dict(transform)
    kind = given.pop("type", None)
    readers = {"RandomRotateTargetAngle": _rotation, "RandomScale": _scaling, "RandomFlip": _flip}
    if kind not in readers:
        raise ValueError(f"The augmentation {kind!r} is not supported; there are: {', '.join(readers)}.")
    step = readers[kind](given)
    if given:
        raise ValueError(f"The augmentation {kind} has the unknown argument {next(iter(given))!r}.")
    return step


def _rotation(given: dict[str, Any]) -> Rotation | None:
    angles = _numbers("RandomRotateTargetAngle", "angle", given.pop("angle", (0.5, 1, 1.5)))
    axis, center = given.pop("axis", "z"), given.pop("center", None)
    chance = given.pop("p", 0.75)
    happens = _happens("RandomRotateTargetAngle", 1 if given.pop("always_apply", False) else chance)
    if axis not in ("x", "y", "z"):
        raise ValueError(f"RandomRotateTargetAngle has the axis {axis!r}; it must be x, y or z.")
    if not happens:
        return None
    if len(set(angles)) != 1:
        raise ValueError(f"RandomRotateTargetAngle chooses among the angles {angles}: chance would decide the labels.")
    if center is None:
        return Rotation(angles[0], axis, None)
    point = _numbers("RandomRotateTargetAngle", "center", center)
    if len(point) != 3:
        raise ValueError(f"RandomRotateTargetAngle has the center {center!r}; it must be three numbers.")
    return Rotation(angles[0], axis, (point[0], point[1], point[2]))


def _scaling(given: dict[str, Any]) -> Scaling:
    scale = given.pop("scale", None)
    bounds = _numbers("RandomScale", "scale", (0.95, 1.05) if scale is None else scale)
    given.pop("anisotropic", None)  # of one factor all axes get the same
    if len(bounds) != 2 or bounds[0] != bounds[1]:
        raise ValueError(f"RandomScale draws its factor from {bounds}: chance would decide the labels.")
    if not bounds[0] > 0:
        raise ValueError(f"RandomScale has the factor {bounds[0]:g}; it must be positive.")
    return Scaling(bounds[0])


def _flip(given: dict[str, Any]) -> Flip | None:
    return Flip() if _happens("RandomFlip", given.pop("p", 0.5)) else None


def _happens(kind: str, chance: Any) -> bool:
    if isinstance(chance, bool) or not isinstance(chance, int | float) or 0 < chance < 1:
        raise ValueError(f"{kind} happens with p = {chance!r}: chance would decide the labels.")
    return chance >= 1


def _numbers(kind: str, name: str, values: Any) -> list[float]:
    sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not sequence or not all(isinstance(v, int | float) and math.isfinite(v) for v in values) or not values:
        raise ValueError(f"{kind} has {name} = {values!r:.80}; it must be a list of numbers.")
    return [float(value) for value in values]
