"""The network's input channels, by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from service.transforms import grid


@dataclass(frozen=True)
class Voxels:
    """The voxels of one cloud or of one tile of it, from which features are made.

    Attributes:
        coord: (m, 3) float64 metres, from the corner of the cloud's grid.
        grid_coord: (m, 3) int32 cells of the cloud's grid.
        color: (m, 3) float32 in 0..255, or None.
        normal: (m, 3) float32, or None.
        intensity: (m,) float32 in 0..1, or None.
        ground: z of the plane that the cloud stands on, where the recipe asks for it.
    """

    coord: torch.Tensor
    grid_coord: torch.Tensor
    color: torch.Tensor | None = None
    normal: torch.Tensor | None = None
    intensity: torch.Tensor | None = None
    ground: float = 0.0

    def __len__(self) -> int:
        return len(self.coord)

    def rows(self, rows: torch.Tensor) -> Voxels:
        """Return some of the voxels."""
        color, normal, intensity = (
            None if part is None else part[rows] for part in (self.color, self.normal, self.intensity)
        )
        return Voxels(self.coord[rows], self.grid_coord[rows], color, normal, intensity, self.ground)


def centre(coord: torch.Tensor, where: str) -> torch.Tensor:
    """Return the coordinates about their own centre (see `Recipe.centre`), as float32."""
    low, high = grid.bounds(coord)
    middle = (low + high) / 2
    if where == "floor":
        middle[2] = low[2]
    return (coord - middle).float()


def _present(part: torch.Tensor | None) -> torch.Tensor:
    assert part is not None, "prepare() has refused clouds that lack a feature"
    return part


def _residual(voxels: Voxels, coord: torch.Tensor, grid_size: float) -> torch.Tensor:
    middle = (voxels.grid_coord.double() + 0.5) * grid_size
    return ((voxels.coord.double() - middle) / grid_size).float()


_RELIEF_M = 0.05

_BUILDERS: Mapping[str, Callable[[Voxels, torch.Tensor, float], torch.Tensor]] = {
    # Metres from the tile's centre.
    "coord": lambda voxels, coord, size: coord,
    # 0..1, as Pointcept has it since v1.6.
    "color": lambda voxels, coord, size: _present(voxels.color) / 255,
    # -1..1, as Pointcept had it before.
    "color_signed": lambda voxels, coord, size: _present(voxels.color) / 127.5 - 1,
    # 0..255.
    "color_255": lambda voxels, coord, size: _present(voxels.color),
    # Zeros in the place of colours or normals, for models that were trained without them.
    "blank": lambda voxels, coord, size: coord.new_zeros(len(coord), 3),
    "normal": lambda voxels, coord, size: _present(voxels.normal),
    # 0..1.
    "intensity": lambda voxels, coord, size: _present(voxels.intensity).unsqueeze(1),
    # Metres above the cloud's lowest point.
    "height": lambda voxels, coord, size: voxels.coord[:, 2:].float(),
    "ones": lambda voxels, coord, size: coord.new_ones(len(coord), 1),
    # Where in its cell the voxel's representative lies: -0.5..0.5 of the cell's edge.
    "residual": _residual,
    # Metres above the plane that the cloud stands on.
    "elevation": lambda voxels, coord, size: (voxels.coord[:, 2:] - voxels.ground).float(),
    # The same, large for the first centimetres: -1..1.
    "relief": lambda voxels, coord, size: torch.tanh((voxels.coord[:, 2:] - voxels.ground) / _RELIEF_M).float(),
}


def build(voxels: Voxels, names: tuple[str, ...], coord: torch.Tensor, grid_size: float) -> torch.Tensor:
    """Return the network's input.

    Args:
        voxels: m voxels that have what the names ask for.
        names: out of `recipe.FEATURES`.
        coord: (m, 3) float32 centred coordinates.
        grid_size: edge of a voxel in metres.

    Returns:
        (m, F) float32.
    """
    return torch.cat([_BUILDERS[name](voxels, coord, grid_size) for name in names], dim=1)
