"""Solids of many scenes as tensors, and rays cast against them in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CUBOID, ELLIPSOID, CYLINDER = 0, 1, 2
KINDS = (CUBOID, ELLIPSOID, CYLINDER)
BACKGROUND, BOX = 0, 1

_FAR = 1e6
"""Where a batch's padding stands, in metres: no ray of any sensor gets there."""


@dataclass(frozen=True)
class Part:
    """One solid of a scene.

    Attributes:
        kind: CUBOID, ELLIPSOID or CYLINDER (its axis is the third of `axes`).
        center: (3,) metres.
        half: (3,) half of the extent along each of `axes`, metres.
        axes: (3, 3) rows are the solid's own unit axes.
        label: BACKGROUND or BOX.
        number: which object of its scene it belongs to; parts of one object share it.
        bulge: metres by which the middle of a cuboid's faces stands out (negative: is pressed in).
        dark: chance that a beam which meets it does not come back.
    """

    kind: int
    center: NDArray[np.float64]
    half: NDArray[np.float64]
    axes: NDArray[np.float64]
    label: int = BACKGROUND
    number: int = 0
    bulge: float = 0.0
    dark: float = 0.0


@dataclass(frozen=True)
class Solids:
    """The parts of B scenes, padded to P parts each and sorted by kind.

    Attributes:
        center: (B, P, 3) float32. half: (B, P, 3) float32. axes: (B, P, 3, 3) float32.
        label, number: (B, P) int64. bulge, dark: (B, P) float32.
        kinds: (P,) the kind of each column, the same in all scenes.
    """

    center: Tensor
    half: Tensor
    axes: Tensor
    label: Tensor
    number: Tensor
    bulge: Tensor
    dark: Tensor
    kinds: tuple[int, ...]

    def select(self, scenes: Tensor) -> Solids:
        """Return the solids of the scenes (V,), repeated as they are named."""
        return Solids(
            self.center[scenes],
            self.half[scenes],
            self.axes[scenes],
            self.label[scenes],
            self.number[scenes],
            self.bulge[scenes],
            self.dark[scenes],
            self.kinds,
        )


def stack(scenes: Sequence[Sequence[Part]], device: torch.device) -> Solids:
    """Return the scenes' parts as tensors on the device."""
    columns: list[list[Part]] = [[] for _ in scenes]
    kinds: list[int] = []
    for kind in KINDS:
        own = [[part for part in scene if part.kind == kind] for scene in scenes]
        width = max((len(parts) for parts in own), default=0)
        for column, parts in zip(columns, own, strict=True):
            column.extend(parts + [_padding(kind)] * (width - len(parts)))
        kinds.extend([kind] * width)

    def floats(name: str) -> Tensor:
        rows = np.array([[getattr(part, name) for part in column] for column in columns], dtype=np.float32)
        return torch.from_numpy(rows).to(device)

    def whole(name: str) -> Tensor:
        rows = np.array([[getattr(part, name) for part in column] for column in columns], dtype=np.int64)
        return torch.from_numpy(rows).to(device)

    return Solids(
        floats("center"), floats("half"), floats("axes"), whole("label"), whole("number"), floats("bulge"),
        floats("dark"), tuple(kinds),
    )  # fmt: skip


def cast(solids: Solids, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each ray goes until it enters a solid, and which.

    Args:
        solids: B scenes.
        origin: (B, 3) where the rays of a scene start. A solid around the origin is not seen.
        direction: (B, 3, N), of any length.

    Returns:
        t: (B, N) so that origin + t * direction is the point met; infinite where none is.
        part: (B, N) int64 column of the solid met; -1 where none is.
    """
    t = direction.new_full((direction.shape[0], direction.shape[2]), torch.inf)
    part = torch.full_like(t, -1, dtype=torch.int64)
    for column, kind in enumerate(solids.kinds):
        axes = solids.axes[:, column]
        start = torch.bmm(axes, (origin - solids.center[:, column])[:, :, None])
        near = _ENTER[kind](start, torch.bmm(axes, direction), solids.half[:, column, :, None])
        closer = near < t
        t = torch.where(closer, near, t)
        part = torch.where(closer, column, part)
    return t, part


def normals(solids: Solids, part: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outward unit normals at points of the solids' surfaces, and the bulge there.

    Args:
        part: (B, N) columns of the solids; -1 gives a normal of zeros.
        point: (B, N, 3) points on their surfaces.

    Returns:
        normal: (B, N, 3). bulge: (B, N) metres, 0 but on cuboids.
    """
    rows = torch.arange(part.shape[0], device=part.device)[:, None]
    column = part.clamp(min=0)
    axes, half = solids.axes[rows, column], solids.half[rows, column]
    own = torch.einsum("bnij,bnj->bni", axes, point - solids.center[rows, column]) / half
    kind = torch.tensor(solids.kinds, device=part.device)[column]

    side = torch.nn.functional.one_hot(own.abs().argmax(2), 3).to(own)
    flat = side * own.sign()
    round_ = own / half
    on_cap = own[..., 2].abs() > own[..., :2].norm(dim=2)
    cap = torch.stack((torch.zeros_like(own[..., 2]), torch.zeros_like(own[..., 2]), own[..., 2].sign()), 2)
    wall = round_ * own.new_tensor((1.0, 1.0, 0.0))
    local = torch.where((kind == ELLIPSOID)[..., None], round_, flat)
    local = torch.where((kind == CYLINDER)[..., None], torch.where(on_cap[..., None], cap, wall), local)
    local = torch.nn.functional.normalize(local, dim=2) * (part >= 0)[..., None]

    inner = torch.where(side > 0, torch.zeros_like(own), own)
    bulge = solids.bulge[rows, column] * (1 - inner.square()).clamp(min=0).prod(2) * (part >= 0)
    return torch.einsum("bnij,bni->bnj", axes, local), bulge


def _padding(kind: int) -> Part:
    """Return a part that no ray meets."""
    return Part(kind, np.full(3, _FAR), np.full(3, 1e-3), np.eye(3))


def _invert(x: Tensor) -> Tensor:
    """Return 1 / x, huge where x is 0."""
    return 1 / torch.where(x.abs() < 1e-9, torch.full_like(x, 1e-9), x)


def _enter_cuboid(start: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    """Return t (B, N) at which rays enter the cuboids: the slab method, a pair of planes an axis."""
    inverse = _invert(direction)
    one, other = (-half - start) * inverse, (half - start) * inverse
    return _between(torch.minimum(one, other).amax(1), torch.maximum(one, other).amin(1))


def _enter_ellipsoid(start: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    """Return t (B, N) at which rays enter the ellipsoids: unit spheres once each axis is divided by its half."""
    near, far = _quadratic(start / half, direction / half)
    return _between(near, far)


def _enter_cylinder(start: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    """Return t (B, N) at which rays enter the closed cylinders: where the wall's and the caps' intervals overlap."""
    near, far = _quadratic(start[:, :2] / half[:, :2], direction[:, :2] / half[:, :2])
    inverse = _invert(direction[:, 2])
    one, other = (-half[:, 2] - start[:, 2]) * inverse, (half[:, 2] - start[:, 2]) * inverse
    return _between(torch.maximum(near, torch.minimum(one, other)), torch.minimum(far, torch.maximum(one, other)))


def _quadratic(start: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two t (B, N) at which |start + t direction| is 1; infinite and minus infinite where it never is."""
    a = direction.square().sum(1).clamp(min=1e-12)
    b = (start * direction).sum(1)
    # The discriminant from the foot of the perpendicular: b * b - a * c would cancel for small, far solids.
    foot = start - (b / a)[:, None] * direction
    rest = 1 - foot.square().sum(1)
    root = (rest.clamp(min=0) / a).sqrt()
    missed = rest <= 0
    return (-b / a - root).masked_fill(missed, torch.inf), (-b / a + root).masked_fill(missed, -torch.inf)


def _between(near: Tensor, far: Tensor) -> Tensor:
    """Return `near` where the ray enters ahead of its origin, else infinity."""
    return torch.where((near < far) & (near > 0), near, torch.inf)


_ENTER = {CUBOID: _enter_cuboid, ELLIPSOID: _enter_ellipsoid, CYLINDER: _enter_cylinder}
